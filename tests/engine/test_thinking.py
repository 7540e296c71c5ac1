"""The contract of thinking, shown by a scripted model through the true engine."""

import dataclasses

import pytest

from samovar.engine.ngram_drafter import NgramDrafter
from samovar.engine.request import Thinking
from tests.engine.fakes import TinyModel, ids_of, request, run
from tests.engine.scripted import (
    BLANK,
    CLOSE,
    DOT,
    END,
    LINE,
    OPEN,
    STOP_TEXT,
    TOKENS,
    TOOL,
    by_position,
    scripted_engine,
    thinker,
)
from tests.engine.test_sampler import CountUp

PROMPT = (1, 2, 3)
ANSWER = [50, 51, 52, END]
OPENED = Thinking(is_open=True)
MAY_OPEN = Thinking(is_open=False)


def drafters(_):
    return NgramDrafter()


def words(n):
    """Thoughts without sentence ends or cycles."""
    return [(7 * i + i * i // 29) % 29 + 1 for i in range(n)]


def sentences(n, length=9):
    return [DOT if i % length == length - 1 else word for i, word in enumerate(words(n))]


def answer_to(wanted, thinking, **options):
    """What came of one request: its tokens and its ending."""
    settings = {k: options.pop(k) for k in ("max_step_tokens", "start_drafters", "model", "max_context") if k in options}
    engine = scripted_engine(wanted, **settings)
    asked = {"max_tokens": 2000, "stop_ids": (END,), "thinking": thinking} | options
    sequence = engine.submit(request(PROMPT, **asked))
    events = run(engine, [sequence])[sequence.id]
    assert [e.ending is not None for e in events] == [False] * (len(events) - 1) + [True]
    assert [i for e in events for i in e.token_ids] == ids_of(sequence)
    assert engine.cache.n_available == engine.pool.n_pages
    return ids_of(sequence), events[-1].ending


def n_thoughts(ids, is_open):
    """The tokens between the tags."""
    return ids.index(CLOSE) - (0 if is_open else 1)


def test_thoughts_that_end_by_themselves_are_natural():
    ids, ending = answer_to(thinker([*words(20), LINE, CLOSE], ANSWER), OPENED)
    assert ids == [*words(20), LINE, CLOSE, BLANK, *ANSWER]
    assert (ending.reason, ending.thinking_stopped, ending.n_thinking) == ("stop", "natural", 21)


def test_an_opening_tag_that_the_model_writes_counts_as_no_thought():
    for before in ([], [BLANK], [LINE, LINE]):
        ids, ending = answer_to(thinker([*before, OPEN, *words(20), CLOSE], ANSWER), MAY_OPEN)
        assert ids == [*before, OPEN, *words(20), CLOSE, BLANK, *ANSWER]
        assert (ending.thinking_stopped, ending.n_thinking) == ("natural", 20)


def test_an_answer_without_thoughts_may_quote_the_tags():
    script = [5, OPEN, *words(60), CLOSE, 6, END]
    ids, ending = answer_to(by_position(script), dataclasses.replace(MAY_OPEN, budget=10))
    assert ids == script
    assert (ending.thinking_stopped, ending.n_thinking) == (None, 0)


def test_thoughts_that_close_at_once_are_none():
    _, ending = answer_to(thinker([CLOSE], ANSWER), OPENED)
    assert (ending.thinking_stopped, ending.n_thinking) == (None, 0)


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("budget", [1, 2, 3, 5, 21, 22, 23, 24, 25, 33, 40, 100, 320, 640])
def test_a_budget_is_kept_and_used_up_where_no_sentence_ends(budget, is_open):
    opening = [] if is_open else [OPEN]
    ids, ending = answer_to(thinker([*opening, *words(900)], ANSWER), Thinking(is_open=is_open, budget=budget))
    assert n_thoughts(ids, is_open) == ending.n_thinking == budget
    assert (ending.reason, ending.thinking_stopped) == ("stop", "budget")
    has_stop_text = budget >= 23
    assert (ids[-len(STOP_TEXT) - len(ANSWER) : -len(ANSWER)] == list(STOP_TEXT)) == has_stop_text
    assert ids[-len(ANSWER) - 1 :] == [BLANK, *ANSWER]


@pytest.mark.parametrize("budget", [33, 40, 100, 320, 640, 642, 644, 646, 648])
def test_thoughts_land_at_a_sentence_end_within_the_window(budget):
    ids, ending = answer_to(thinker(sentences(900), ANSWER), Thinking(is_open=True, budget=budget))
    at = ids.index(CLOSE)
    assert ids[at - 2 : at + 2] == [DOT, LINE, CLOSE, BLANK]
    assert ending.thinking_stopped == "budget"
    assert ending.n_thinking == at <= budget
    last_words = at - 1
    window = max(32, budget // 10)
    assert budget - last_words <= window  # not earlier than the window begins
    assert budget - last_words > window - 9  # and at its first sentence end


def test_blank_lines_at_the_beginning_are_no_sentence_to_land_after():
    ids, ending = answer_to(thinker([OPEN, LINE, BLANK, 5, 6, DOT, *words(90)], ANSWER), Thinking(is_open=False, budget=30))
    assert ids == [OPEN, LINE, BLANK, 5, 6, DOT, LINE, CLOSE, BLANK, *ANSWER]
    assert ending.n_thinking == 6


@pytest.mark.parametrize("is_open", [True, False])
def test_a_budget_of_nothing_leaves_no_thoughts(is_open):
    ids, ending = answer_to(thinker(words(50), ANSWER), Thinking(is_open=is_open, budget=0))
    assert ids == [*(TOKENS.close_text if is_open else TOKENS.blank_text), *ANSWER]
    assert (ending.thinking_stopped, ending.n_thinking) == (None, 0)


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 4, 5, 8, 10, 40, 300])
@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("budget", [None, 0, 3, 30, 10_000])
def test_a_reserve_of_max_tokens_is_kept_for_the_answer(max_tokens, is_open, budget):
    opening = [] if is_open else [OPEN]
    ids, ending = answer_to(
        thinker([*opening, *words(5000)], [40] * 20), Thinking(is_open=is_open, budget=budget), max_tokens=max_tokens,
        stops_loops=False,
    )  # fmt: skip
    assert len(ids) == max_tokens
    assert ending.reason == "length"
    if max_tokens >= 8:
        reserve = max_tokens // 4
        n_answer = len(ids) - ids.index(CLOSE) - 2
        assert n_answer >= reserve
        if budget in (None, 10_000):
            assert n_answer == reserve
            assert ending.thinking_stopped == "length"
    assert ending.n_thinking <= (max_tokens if budget is None else budget)


def test_the_reserve_is_1024_tokens_at_most():
    ids, ending = answer_to(thinker(words(5000), [40]), OPENED, max_tokens=4400, max_context=4500, stops_loops=False)
    assert (len(ids) - ids.index(CLOSE) - 2, ending.thinking_stopped) == (1024, "length")


def test_thoughts_cut_by_max_tokens_say_so():
    _, ending = answer_to(thinker(words(50), ANSWER), OPENED, max_tokens=1)
    assert (ending.reason, ending.thinking_stopped, ending.n_thinking) == ("length", "length", 1)


def test_a_cycle_in_the_thoughts_closes_them_and_the_answer_comes():
    ids, ending = answer_to(thinker([*words(30), *([7, 8, 9, 10, 11] * 400)], ANSWER), OPENED)
    assert ids[-len(ANSWER) - 3 :] == [LINE, CLOSE, BLANK, *ANSWER]
    assert (ending.reason, ending.thinking_stopped) == ("stop", "loop")
    assert ending.n_thinking < 300


def test_a_cycle_in_the_answer_ends_it_with_a_reason_of_its_own():
    for thinking in (None, OPENED, MAY_OPEN):
        thoughts = [CLOSE] if thinking is OPENED else [7]
        ids, ending = answer_to(thinker([*thoughts, *([7, 8, 9] * 400)], [7, 8, 9] * 400), thinking)
        assert ending.reason == "loop"
        assert 768 <= len(ids) < 900


def test_a_cycle_of_the_thoughts_does_not_count_against_the_answer():
    ids, ending = answer_to(thinker([7, 8, 9] * 400, [*([7, 8, 9] * 230), END]), OPENED)
    assert (ending.reason, ending.thinking_stopped) == ("stop", "loop")
    assert len(ids) > 192 + 690


def test_blank_lines_for_ever_are_a_loop():
    ids, ending = answer_to(by_position([LINE]), MAY_OPEN)
    assert (ending.reason, ending.thinking_stopped) == ("loop", None)
    assert len(ids) < 900


def test_loops_are_let_be_where_the_request_says_so():
    ids, ending = answer_to(by_position([7]), OPENED, stops_loops=False, max_tokens=1500)
    assert (ending.reason, ending.thinking_stopped) == ("length", "length")
    assert len(ids) == 1500


def test_a_tool_call_inside_open_thoughts_ends_them():
    script = [*words(12), TOOL, 40, 41, END]
    ids, ending = answer_to(by_position(script), dataclasses.replace(OPENED, budget=40))
    assert ids == script
    assert (ending.reason, ending.thinking_stopped, ending.n_thinking) == ("stop", "tool", 12)


def test_a_stop_id_inside_the_thoughts_is_their_natural_end_and_no_thought():
    for budget in (None, 6, 27):  # with 27, the stop text would follow this token, were it a thought
        ids, ending = answer_to(by_position([*words(4), END]), dataclasses.replace(OPENED, budget=budget))
        assert ids == [*words(4), END]
        assert (ending.reason, ending.thinking_stopped, ending.n_thinking) == ("stop", "natural", 4)
    ids, ending = answer_to(by_position([END]), dataclasses.replace(OPENED, budget=1))
    assert (ids, ending.thinking_stopped, ending.n_thinking) == ([END], None, 0)


def test_the_closing_tag_may_be_a_stop_id_however_it_comes():
    for thoughts, stopped in (([*words(5), CLOSE], "natural"), (words(100), "budget")):
        thinking = dataclasses.replace(OPENED, budget=20)
        ids, ending = answer_to(thinker(thoughts, ANSWER), thinking, stop_ids=(END, CLOSE))
        assert (ids[-1], ids.count(CLOSE), ending.reason, ending.thinking_stopped) == (CLOSE, 1, "stop", stopped)


@pytest.mark.parametrize("budget", [None, 1, 2, 30])
@pytest.mark.parametrize("n_before", [0, 1, 3])
def test_a_caller_can_have_the_thoughts_closed(budget, n_before):
    engine = scripted_engine(thinker(words(900), ANSWER))
    thinking = dataclasses.replace(OPENED, budget=budget)
    sequence = engine.submit(request(PROMPT, max_tokens=500, stop_ids=(END,), thinking=thinking))
    for _ in range(n_before):
        engine.step()
    sequence.control.stop_thinking()
    ending = run(engine, [sequence])[sequence.id][-1].ending
    assert ids_of(sequence)[-len(ANSWER) - 2 :] == [CLOSE, BLANK, *ANSWER]
    assert ending.n_thinking == ids_of(sequence).index(CLOSE) <= min(n_before + 2, budget or 99)
    assert ending.thinking_stopped == ("budget" if n_before and budget in (1, 2) else "request")


def test_cancelled_thoughts_were_ended_by_the_caller():
    engine = scripted_engine(thinker(words(900), ANSWER))
    sequence = engine.submit(request(PROMPT, max_tokens=500, thinking=OPENED))
    engine.step()
    engine.cancel(sequence)
    ending = run(engine, [sequence])[sequence.id][-1].ending
    assert (ending.reason, ending.thinking_stopped, ending.n_thinking) == ("cancelled", "request", 1)


@pytest.mark.parametrize("budget", [None, 0, 1, 40])
@pytest.mark.parametrize("settings", [{"max_step_tokens": 5}, {"start_drafters": (drafters,)}])
@pytest.mark.parametrize("is_open", [True, False])
def test_chunks_and_guesses_change_nothing(budget, settings, is_open):
    phrase = words(23)  # guesses come true, until the loop detector or the budget puts another token there
    thoughts = [*([] if is_open else [OPEN]), *(phrase * 100)]
    wanted = thinker(thoughts, [*words(40), *words(40), *words(40), END])
    thinking = Thinking(is_open=is_open, budget=budget)
    plain, with_settings = (answer_to(wanted, thinking, model=TinyModel(), max_tokens=300, **more) for more in ({}, settings))
    assert plain[0] == with_settings[0]
    for name in ("reason", "n_thinking", "thinking_stopped"):
        assert getattr(plain[1], name) == getattr(with_settings[1], name)
    if "start_drafters" in settings and budget is None:
        assert with_settings[1].n_accepted > 20


GUIDED = [
    ("natural", [*words(9), LINE, CLOSE], OPENED),
    ("natural", [OPEN, *words(9), LINE, CLOSE], MAY_OPEN),
    ("budget", sentences(900), Thinking(is_open=True, budget=60)),
    ("budget", words(900), Thinking(is_open=True, budget=60)),
    ("budget", words(900), Thinking(is_open=True, budget=2)),
    ("budget", words(900), Thinking(is_open=False, budget=1)),
    ("loop", [4, 5, 6] * 300, OPENED),
    ("length", words(900), OPENED),
    (None, words(900), Thinking(is_open=True, budget=0)),
    (None, words(900), Thinking(is_open=False, budget=0)),
    (None, [CLOSE], OPENED),
]


@pytest.mark.parametrize(("stopped", "thoughts", "thinking"), GUIDED)
@pytest.mark.parametrize("start_drafters", [(), (drafters,)])
def test_a_grammar_begins_right_after_the_thoughts_however_they_end(stopped, thoughts, thinking, start_drafters):
    options = {"max_tokens": 400, "grammar": CountUp(30, 33), "stop_ids": (33,), "start_drafters": start_drafters}
    ids, ending = answer_to(thinker(thoughts, [88]), thinking, **options)
    assert ids[-6:] == [CLOSE, BLANK, 30, 31, 32, 33]
    assert ids.count(CLOSE) == 1
    assert (ending.reason, ending.thinking_stopped) == ("stop", stopped)


@pytest.mark.parametrize("ender", [TOOL, 33])
def test_thoughts_before_a_guided_answer_end_in_no_other_way(ender):
    wanted = thinker([*words(5), *([ender] * 900)], [88])
    ids, ending = answer_to(wanted, Thinking(is_open=True, budget=60), grammar=CountUp(30, 33), stop_ids=(33,))
    assert ender not in ids[:-4]
    assert ids[-6:] == [CLOSE, BLANK, 30, 31, 32, 33]
    assert ending.n_thinking <= 60


def test_a_grammar_without_thoughts_begins_at_once():
    ids, _ = answer_to(thinker([88], [88]), None, grammar=CountUp(30, 33), stop_ids=(33,))
    assert ids == [30, 31, 32, 33]


def test_tokens_put_there_have_no_logprobs_and_the_others_do():
    engine = scripted_engine(thinker(words(100), ANSWER))
    asked = request(PROMPT, max_tokens=200, stop_ids=(END,), thinking=Thinking(is_open=True, budget=30), logprobs=2)
    sequence = engine.submit(asked)
    events = run(engine, [sequence])[sequence.id]
    logprobs = [logprob for e in events for logprob in e.logprobs]
    is_forced = [logprob is None for logprob in logprobs]
    assert is_forced == [False] * 8 + [True] * 24 + [False] * 4
    for token_id, logprob in zip(ids_of(sequence), logprobs, strict=True):
        assert logprob is None or logprob.top[0] == (token_id, logprob.value)


def test_thoughts_that_are_put_back_for_want_of_pages_go_on_as_they_were():
    budgets = [None, 0, 1, 25, 60, 90]
    requests = [
        request([*PROMPT, i], max_tokens=160, stop_ids=(END,), logprobs=1, thinking=Thinking(is_open=True, budget=budget))
        for i, budget in enumerate(budgets)
    ]
    wanted = thinker(words(900), [*words(40), END])

    def outcomes(engine, groups):
        for group in groups:
            sequences = [engine.submit(r) for r in group]
            for events in run(engine, sequences).values():
                ending = events[-1].ending
                ids = [i for e in events for i in e.token_ids]
                yield ids, [x for e in events for x in e.logprobs], ending.thinking_stopped, ending.n_thinking, ending.reason

    alone = scripted_engine(wanted, model=TinyModel())
    crowded = scripted_engine(wanted, model=TinyModel(), n_pages=7)
    assert list(outcomes(crowded, [requests])) == list(outcomes(alone, [[r] for r in requests]))
    assert crowded.scheduler.n_preempted > 0


def test_forced_tokens_that_fill_max_tokens_end_the_request():
    for max_tokens in (1, 3, 4):
        ids, ending = answer_to(thinker(words(9), ANSWER), Thinking(is_open=False, budget=0), max_tokens=max_tokens)
        assert ids == list(TOKENS.blank_text[:max_tokens])
        assert ending.reason == "length"
