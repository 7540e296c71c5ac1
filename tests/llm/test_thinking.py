"""Thinking from the caller's side, with Qwen3's own tokenizer and templates."""

import dataclasses

import pytest

from samovar.errors import BadRequest
from samovar.llm.model_text import RenderSettings
from samovar.llm.thinking_tokens import STOP_TEXT, thinking_tokens
from tests.engine.scripted import by_position, thinker
from tests.llm.scripted import scripted
from tests.matrices import slow_but

QUESTION = [{"role": "user", "content": "Whose samovar was it?"}]
ANSWER = "It was my **grandmother's**. She said: “water first”."
STOP = STOP_TEXT.split("</think>", maxsplit=1)[0].strip("\n")
LONG = " ".join(f"thought {i} is about cousin {i * i % 97} and the snow" for i in range(400))
SHORT_SENTENCES = " ".join(f"Number {i} is {i * i % 97}." for i in range(600))


def ids_for(llm, text):
    return llm.tokenizer.encode(text, add_bos=False)


def says(llm, thoughts, answer=ANSWER):
    """A script: thoughts, whatever ends them, then the answer."""
    opening = "" if llm._text.render(QUESTION, RenderSettings()).is_open else "<think>\n"
    end = [llm.tokenizer.eos_id]
    close_id = llm.tokenizer.control_tokens["</think>"]
    return thinker(ids_for(llm, opening + thoughts), [*ids_for(llm, answer), *end], close_id, ids_for(llm, "\n\n"))


@pytest.fixture(params=["hybrid", "always"])
def llm(request):
    return request.getfixturevalue(f"{request.param}_llm")


def folded(stream):
    """The texts of a stream, and its result."""
    deltas = list(stream)
    texts = {field: "".join(d.text for d in deltas if d.field == field) for field in ("reasoning", "content")}
    return texts, stream.result


@pytest.mark.parametrize("budget", slow_but([0, 1, 24, 25], [0, 1, 5, 24, 25, 33, 40, 100, 1000]))
@pytest.mark.parametrize("thoughts", [LONG, SHORT_SENTENCES], ids=["long", "sentences"])
def test_a_budget_is_kept_and_the_answer_is_right(llm, always_llm, budget, thoughts):
    with scripted(llm, says(llm, thoughts)):
        texts, result = folded(llm.stream_chat(QUESTION, thinking_budget=budget, max_tokens=3000, temperature=0))
    assert result.text == texts["content"] == ANSWER
    assert (result.reasoning or "") == texts["reasoning"]
    assert result.finish_reason == "stop"
    assert result.usage.n_thinking <= budget
    if not budget:
        assert (result.reasoning, result.thinking_stopped, result.usage.n_thinking) == (None, None, 0)
        return
    if budget == 1 and llm is not always_llm:  # the template's line break after the tag takes it up
        assert (result.reasoning, result.thinking_stopped) == (None, None)
        return
    assert result.thinking_stopped == "budget"
    own, _, stop = result.reasoning.partition("\n\n" + STOP)
    assert thoughts.startswith(own.rstrip())
    if result.reasoning.endswith(STOP):
        assert (stop, result.usage.n_thinking) == ("", budget)
    elif thoughts is SHORT_SENTENCES and budget > 24:
        assert result.reasoning.endswith(".")
        assert result.usage.n_thinking > budget - max(32, budget // 10)
    else:
        assert budget < 24


def test_the_stop_text_is_qwens_own_24_tokens(hybrid_llm):
    tokens = thinking_tokens(hybrid_llm.tokenizer)
    assert (tokens.open_id, tokens.close_id, tokens.tool_call_id) == (151_667, 151_668, 151_657)
    assert (len(tokens.stop_text), tokens.stop_text.count(151_668)) == (24, 1)
    assert hybrid_llm.tokenizer.decode(tokens.stop_text) == (
        "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
        "</think>\n\n"
    )


def test_no_budget_in_a_hybrid_gives_the_prompt_of_thinking_switched_off(hybrid_llm):
    off = hybrid_llm._text.render(QUESTION, RenderSettings(thinking=False)).ids
    with scripted(hybrid_llm, says(hybrid_llm, LONG)):
        result = hybrid_llm.chat(QUESTION, thinking_budget=0, temperature=0)
    on = hybrid_llm._text.render(QUESTION, RenderSettings()).ids
    assert (*on, *result.token_ids)[: len(off)] == off


@pytest.mark.parametrize(
    ("text", "is_end"),
    [
        (".", True), (" done", False), ("。", True), ("!", True), ("\n\n", True), ('."', True), (" 3", False), (",", False),
        ("।", True), ("؟", True), (".)", True), (" (", False), ("?\n", True),
    ],
)  # fmt: skip
def test_sentences_end_in_many_scripts(hybrid_llm, text, is_end):
    token_id = ids_for(hybrid_llm, text)[-1]
    assert thinking_tokens(hybrid_llm.tokenizer).ends_sentence(token_id) is is_end


def test_natural_thoughts_leave_no_tag_in_either_text(llm):
    with scripted(llm, says(llm, "The tea\nis hot.\n</think>")):
        texts, result = folded(llm.stream_chat(QUESTION, thinking_budget=100, temperature=0))
    assert texts == {"reasoning": "The tea\nis hot.", "content": ANSWER}
    assert (result.thinking_stopped, result.reasoning, result.text) == ("natural", "The tea\nis hot.", ANSWER)


def test_an_empty_block_is_no_thoughts(llm):
    with scripted(llm, says(llm, "\n\n</think>")):
        result = llm.chat(QUESTION, temperature=0)
    assert (result.reasoning, result.thinking_stopped, result.text) == (None, None, ANSWER)


def test_blank_lines_before_the_tag_do_not_hide_the_thoughts(hybrid_llm):
    script = [*ids_for(hybrid_llm, "\n"), *ids_for(hybrid_llm, f"<think>\n{LONG}")]
    close_id = hybrid_llm.tokenizer.control_tokens["</think>"]
    answer = [*ids_for(hybrid_llm, ANSWER), hybrid_llm.tokenizer.eos_id]
    with scripted(hybrid_llm, thinker(script, answer, close_id, ids_for(hybrid_llm, "\n\n"))):
        result = hybrid_llm.chat(QUESTION, thinking_budget=40, temperature=0)
    assert (result.text, result.usage.n_thinking, result.thinking_stopped) == (ANSWER, 40, "budget")


@pytest.mark.parametrize("max_tokens", [1, 3, 8, 40, 200])
def test_max_tokens_keeps_a_reserve_for_the_answer(llm, max_tokens):
    with scripted(llm, says(llm, LONG, "tea " * 300)):
        result = llm.chat(QUESTION, max_tokens=max_tokens, temperature=0)
    assert result.usage.n_completion == len(result.token_ids) == max_tokens
    assert result.finish_reason == "length"
    assert "think" not in result.text
    if max_tokens >= 8:
        assert result.text.count("tea") == pytest.approx(max_tokens // 4, abs=2)
    if max_tokens > 8:
        assert result.thinking_stopped == "length"


def test_thoughts_that_max_tokens_cuts_stay_thoughts(always_llm):
    with scripted(always_llm, says(always_llm, LONG)):
        result = always_llm.chat(QUESTION, max_tokens=2, temperature=0)
    assert (result.text, result.reasoning, result.thinking_stopped) == ("", "thought", "length")
    assert result.usage.n_thinking == 1


def test_a_stream_can_be_asked_for_the_answer(llm):
    with scripted(llm, says(llm, LONG)):
        stream = llm.stream_chat(QUESTION, temperature=0)
        first = next(stream)
        stream.stop_thinking()
        texts, result = folded(stream)
    assert first.field == "reasoning"
    assert texts["content"] == result.text == ANSWER
    assert result.thinking_stopped == "request"
    assert LONG.startswith(result.reasoning)
    stream.stop_thinking()  # after the end: nothing happens


def test_a_loop_in_the_thoughts_leads_to_the_answer(llm):
    with scripted(llm, says(llm, "The snow. " + "Wait, let me think again. " * 200)):
        result = llm.chat(QUESTION, temperature=0)
    assert (result.thinking_stopped, result.finish_reason, result.text) == ("loop", "stop", ANSWER)
    assert result.usage.n_thinking < 250


def test_an_answer_that_is_to_go_on_to_its_limit_goes_on_in_circles(hybrid_llm):
    with scripted(hybrid_llm, by_position([*hybrid_llm.tokenizer.encode("one")] * 2)):
        result = hybrid_llm.generate("S", ignore_eos=True, max_tokens=1200, temperature=0)
    assert (result.finish_reason, result.usage.n_completion) == ("length", 1200)


def test_a_loop_in_the_answer_has_its_own_finish_reason(llm):
    with scripted(llm, says(llm, "Hm.\n</think>", "and the tea " * 500)):
        result = llm.chat(QUESTION, temperature=0)
    assert (result.finish_reason, result.thinking_stopped) == ("loop", "natural")


def test_a_tool_call_in_open_thoughts_ends_them_and_is_part_of_the_answer(llm):
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    opening = "" if llm is not None and llm._text.render(QUESTION, RenderSettings()).is_open else "<think>\n"
    script = [*ids_for(llm, f"{opening}I ask `f` for it.\n{call}"), llm.tokenizer.eos_id]
    with scripted(llm, by_position(script)):
        texts, result = folded(llm.stream_chat(QUESTION, temperature=0, thinking_budget=200))
    assert texts == {"reasoning": "I ask `f` for it.", "content": call}
    assert (result.thinking_stopped, result.finish_reason) == ("tool", "stop")
    assert result.usage.n_thinking == len(ids_for(llm, ("\n" if opening else "") + "I ask `f` for it.\n"))


def test_a_tag_that_is_only_quoted_ends_nothing(always_llm):
    quoted = ids_for(always_llm, "The tag ") + always_llm.tokenizer.encode("</think> or <tool_call>", parse_control=False)
    thoughts = [*quoted, *ids_for(always_llm, ".\n</think>")]
    answer = [*ids_for(always_llm, ANSWER), always_llm.tokenizer.eos_id]
    with scripted(always_llm, thinker(thoughts, answer, 151_668, ids_for(always_llm, "\n\n"))):
        result = always_llm.chat(QUESTION, temperature=0)
    assert (result.reasoning, result.text) == ("The tag </think> or <tool_call>.", ANSWER)
    assert result.usage.n_thinking == len(thoughts) - 1


def test_thinking_switched_off_has_neither_thoughts_nor_a_count(hybrid_llm):
    script = [*ids_for(hybrid_llm, "I write <think> and </think> so."), hybrid_llm.tokenizer.eos_id]
    with scripted(hybrid_llm, by_position(script)):
        result = hybrid_llm.chat(QUESTION, thinking=False, temperature=0)
    assert (result.reasoning, result.thinking_stopped, result.usage.n_thinking) == (None, None, 0)
    assert result.text == "I write <think> and </think> so."


def test_a_model_without_thoughts_takes_no_budget(never_llm, hybrid_llm):
    for options in ({"thinking": True}, {"thinking_budget": 5}, {"thinking_budget": -1}):
        with pytest.raises(BadRequest, match="think"):
            never_llm.chat(QUESTION, **options)
    with pytest.raises(BadRequest, match="thinking is off"):
        hybrid_llm.chat(QUESTION, thinking=False, thinking_budget=5)
    with scripted(never_llm, by_position([*ids_for(never_llm, ANSWER), never_llm.tokenizer.eos_id])):
        result = never_llm.chat(QUESTION, thinking_budget=0, thinking=False, temperature=0)
    assert (result.text, result.reasoning, result.usage.n_thinking) == (ANSWER, None, 0)


def test_tags_that_are_no_tokens_take_no_budget_and_are_counted_by_their_text(thinking_llm):
    with pytest.raises(BadRequest, match="vocabulary has no tokens"):
        thinking_llm.chat(QUESTION, thinking_budget=10)
    script = [*thinking_llm.tokenizer.encode("The tea\n</think>\n\nis hot"), thinking_llm.tokenizer.eos_id]
    with scripted(thinking_llm, by_position(script)):
        result = thinking_llm.chat(QUESTION, temperature=0)
    assert (result.reasoning, result.text, result.thinking_stopped) == ("The tea", "is hot", None)
    assert 0 < result.usage.n_thinking < len(script)


@pytest.mark.parametrize(
    "options",
    [
        {"thinking_budget": -1}, {"thinking_budget": 1.5}, {"thinking_budget": True}, {"thinking_budget": "9"},
        {"thinking": "off"}, {"thinking": 0}, {"continue_final": 1},
    ],
)  # fmt: skip
def test_odd_values_are_refused_by_name(hybrid_llm, options):
    with pytest.raises(BadRequest) as caught:
        hybrid_llm.chat(QUESTION, **options)
    assert caught.value.param == next(iter(options))


def test_sampling_defaults_follow_the_mode(hybrid_llm):
    def temperature(**options):
        stream = hybrid_llm.stream_chat(QUESTION, max_tokens=8, **options)
        stream.close()
        sampling = stream.ticket.request.sampling
        return sampling.temperature, sampling.top_p, sampling.top_k

    assert temperature() == temperature(thinking=True) == temperature(thinking_budget=9) == (0.6, 0.95, 20)
    assert temperature(thinking=False) == temperature(thinking_budget=0) == (0.7, 0.8, 20)


@pytest.mark.slow
def test_speculation_changes_no_thought(models, hybrid_llm):
    plain = models.load("hybrid", speculation="off")
    n_drafted = 0
    with_grammar_of_repeats = "one two three four five six seven. " * 9 + SHORT_SENTENCES
    for budget in (0, 33, 100, None):
        results = []
        for llm in (plain, hybrid_llm):
            with scripted(llm, says(llm, with_grammar_of_repeats, "tea and snow " * 40)):
                results.append(llm.chat(QUESTION, thinking_budget=budget, max_tokens=400, temperature=0.8, seed=3))
        first, second = results
        assert first.token_ids == second.token_ids
        assert first.usage.n_drafted == 0
        n_drafted += second.usage.n_drafted
        assert dataclasses.replace(first.usage, n_drafted=0, n_accepted=0) == dataclasses.replace(
            second.usage, n_drafted=0, n_accepted=0
        )
        assert first.thinking_stopped == second.thinking_stopped
    assert n_drafted > 0


def test_thoughts_side_by_side_are_watched_each_for_itself(hybrid_llm):
    budgets = [0, 30, 60, None]
    with scripted(hybrid_llm, says(hybrid_llm, SHORT_SENTENCES[:900] + "\n</think>")):
        streams = [hybrid_llm.stream_chat(QUESTION, thinking_budget=b, temperature=0, seed=1) for b in budgets]
        results = [folded(stream)[1] for stream in streams]
        alone = [hybrid_llm.chat(QUESTION, thinking_budget=b, temperature=0, seed=1) for b in budgets]
    assert [r.token_ids for r in results] == [r.token_ids for r in alone]
    assert [r.thinking_stopped for r in results] == [None, "budget", "budget", "natural"]
    assert {r.text for r in results} == {ANSWER}
