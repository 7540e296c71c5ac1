"""Whatever is guessed, and however well: the tokens, and how an answer ends, are those of plain decoding."""

from functools import cache

import pytest

from samovar.engine.draft_model import DraftModel
from samovar.engine.ngram_drafter import NgramDrafter
from samovar.engine.speculate import MAX_DRAFTS, best_length
from samovar.engine.step_cost import StepCost
from tests.engine.fakes import VOCAB, TinyModel, generate, request, tiny_engine

PROMPT = [5, 17, 3, 88, 42, 9, 60, 1, 33] * 3
REQUESTS = {
    "greedy": request(PROMPT, max_tokens=40),
    "seeded": request(PROMPT, max_tokens=40, temperature=1.5, seed=11),
    "penalised": request(
        PROMPT, max_tokens=40, temperature=1.2, seed=3, repetition_penalty=1.3, presence_penalty=0.7, frequency_penalty=0.4
    ),
    "cut by top-k, top-p and min-p": request(PROMPT, max_tokens=40, temperature=2.0, seed=5, top_k=9, top_p=0.9, min_p=0.01),
    "one token": request(PROMPT, max_tokens=1),
    "two tokens": request(PROMPT, max_tokens=2),
    "until the context is full": request(PROMPT, max_tokens=None),
}


class Script:
    """Guesses by a rule: `guess(token_ids, n)` gives the tokens after `token_ids`."""

    token_s = 0.0

    def __init__(self, guess, prior=1.0):
        self.guess, self.priors = guess, (prior,)

    def look(self, token_ids):
        return 0

    def propose(self, token_ids, n_most):
        return tuple(self.guess(token_ids, n_most))

    def close(self):
        pass


@cache
def plain(asked, **settings):
    (sequence,) = generate(tiny_engine(max_context=80, **settings), asked)
    return sequence


def oracle(*answers):
    """Knows the answers beforehand."""

    def guess(token_ids, n):
        whole = next(a for a in answers if a[: len(token_ids)] == token_ids)
        return whole[len(token_ids) : len(token_ids) + n]

    return guess


def liar(*answers):
    know = oracle(*answers)
    return lambda token_ids, n: [(token + 1) % VOCAB for token in know(token_ids, n)]


def right_for_three(*answers):
    know = oracle(*answers)
    return lambda token_ids, n: [*know(token_ids, n)[:3], *[0] * n][:n]


def rubbish(*_answers):
    return lambda token_ids, n: ([-5], [10**12], [3, VOCAB], [])[len(token_ids) % 4]


def drafters(kind, answers):
    if kind == "n-gram":
        return (lambda _: NgramDrafter(),)
    if kind == "the same model":
        return (DraftModel(tiny_engine(max_context=60)).start,)
    if kind == "another model":
        return (DraftModel(tiny_engine(model=TinyModel(seed=4))).start,)
    if kind == "a model with few pages":
        return (DraftModel(tiny_engine(n_pages=2)).start,)
    if kind == "several":
        return (*drafters("n-gram", answers), *drafters("another model", answers), *drafters("right for three", answers))
    guess = {"oracle": oracle, "liar": liar, "right for three": right_for_three, "rubbish": rubbish}[kind]
    return (lambda _: Script(guess(*answers)),)


KINDS = (
    "oracle", "liar", "right for three", "rubbish", "n-gram", "the same model", "another model", "a model with few pages",
    "several",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_is_the_one_of_plain_decoding(kind, name):
    asked = REQUESTS[name]
    expected = plain(asked)
    engine = tiny_engine(max_context=80, start_drafters=drafters(kind, [expected.token_ids]))
    (sequence,) = generate(engine, asked)
    assert sequence.token_ids == expected.token_ids
    assert sequence.finish_reason == expected.finish_reason
    assert engine.cache.n_available == engine.pool.n_pages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [2, 7, 16])
def test_a_stop_id_inside_the_guess_ends_the_answer_there(kind, place):
    free = plain(REQUESTS["seeded"])
    stop = free.token_ids[len(PROMPT) + place]
    asked = request(PROMPT, max_tokens=40, temperature=1.5, seed=11, stop_ids=(stop,))
    expected = plain(asked)
    (sequence,) = generate(tiny_engine(max_context=80, start_drafters=drafters(kind, [free.token_ids])), asked)
    assert sequence.token_ids == expected.token_ids
    assert sequence.finish_reason == "stop"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_step_tokens", [5, 12, 512])
def test_sequences_in_a_batch_get_the_tokens_they_get_alone(kind, max_step_tokens):
    asked = [
        request(PROMPT[:n], temperature=1.1, seed=n, max_tokens=5 + 3 * n % 17, presence_penalty=0.5) for n in (1, 2, 11, 27)
    ]
    expected = [plain(r).token_ids for r in asked]
    engine = tiny_engine(max_step_tokens=max_step_tokens, start_drafters=drafters(kind, expected))
    assert [s.token_ids for s in generate(engine, *asked)] == expected
    assert engine.cache.n_available == engine.pool.n_pages


@pytest.mark.parametrize("kind", ["oracle", "right for three", "the same model"])
def test_a_kept_sequence_counts_no_token_that_was_refused(kind):
    first = request(PROMPT, max_tokens=20)
    expected = plain(first)
    engine = tiny_engine(max_context=80, start_drafters=drafters(kind, [expected.token_ids]))
    (kept,) = generate(engine, first)
    n_kept = engine.cache.match(kept.realm, [*kept.token_ids, 4]).n_tokens
    assert len(expected.token_ids) - 1 <= n_kept <= len(kept.token_ids)
    second = request([*kept.token_ids, 4, 8], max_tokens=9)
    engine.start_drafters = drafters("n-gram", [])
    (after,) = generate(engine, second)
    assert after.n_cached == n_kept
    assert after.token_ids == plain(second).token_ids


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_a_request_cancelled_while_guesses_are_checked_keeps_what_was_right(n_steps):
    expected = plain(REQUESTS["greedy"]).token_ids
    engine = tiny_engine(start_drafters=drafters("oracle", [expected]))
    sequence = engine.submit(REQUESTS["greedy"])
    for _ in range(n_steps):
        engine.step()
    engine.cancel(sequence)
    n_kept = engine.cache.match(sequence.realm, [*expected, 0]).n_tokens
    assert sequence.token_ids == expected[: len(sequence.token_ids)]
    assert len(sequence.token_ids) - 1 <= n_kept <= len(sequence.token_ids)


def test_guesses_take_no_more_pages_than_are_free():
    prompt = PROMPT[:20]
    settings = {"max_tokens": 40, "temperature": 2.0, "seed": 1}
    stop = plain(request(prompt, **settings)).token_ids[26]
    asked = request(prompt, **settings, stop_ids=(stop,))
    expected = plain(asked, n_pages=1).token_ids
    assert 24 < len(expected) <= 27
    engine = tiny_engine(n_pages=1, start_drafters=(lambda _: Script(lambda ids, n: [1] * n),))
    assert generate(engine, asked)[0].token_ids == expected


@pytest.mark.parametrize(("max_tokens", "max_context", "last"), [(9, 256, len(PROMPT) + 7), (None, 50, 48)])
def test_guesses_go_no_further_than_plain_decoding(max_tokens, max_context, last):
    for guess in ([], [1] * MAX_DRAFTS):
        model = TinyModel()
        drafters = (lambda _, guess=guess: Script(lambda ids, n: guess[:n]),)
        generate(
            tiny_engine(model=model, max_context=max_context, start_drafters=drafters), request(PROMPT, max_tokens=max_tokens)
        )
        assert model.last_position == last


def test_a_draft_model_forgets_what_it_computed_for_refused_tokens():
    asked = request(PROMPT, temperature=3.0, seed=2)
    used, fresh = (DraftModel(tiny_engine(), token_s=1.0).start(asked) for _ in range(2))
    used.propose(PROMPT, 8)
    other = [*PROMPT, 90, 91, 92, 93, 94]
    assert used.propose(other, 12) == fresh.propose(other, 12)


def test_right_guesses_save_steps_and_are_counted():
    expected = plain(REQUESTS["greedy"]).token_ids
    model = TinyModel()
    engine = tiny_engine(model=model, start_drafters=drafters("oracle", [expected]))
    (sequence,) = generate(engine, REQUESTS["greedy"])
    assert len(model.n_tokens_per_call) <= 2 + 40 // MAX_DRAFTS
    assert sequence.speculation.n_drafted == sequence.speculation.n_accepted > 30


def test_the_same_model_as_its_own_draft_is_always_right():
    for name in ("greedy", "seeded", "penalised"):
        (sequence,) = generate(tiny_engine(start_drafters=drafters("the same model", [])), REQUESTS[name])
        assert sequence.speculation.n_drafted == sequence.speculation.n_accepted > 20


def test_wrong_guesses_switch_themselves_off():
    asked = request(PROMPT, max_tokens=200)
    expected = generate(tiny_engine(), asked)[0].token_ids
    row_s = 0.14
    engine = tiny_engine(start_drafters=(lambda _: Script(liar(expected), prior=0.6),), row_s=row_s)
    (sequence,) = generate(engine, asked)
    assert sequence.token_ids == expected
    assert sequence.speculation.n_accepted == 0
    assert 0 < sequence.speculation.n_drafted * row_s < 0.03 * 200  # seconds lost of 200


def test_a_drafter_that_was_given_up_is_tried_again():
    asked = request(PROMPT, max_tokens=200)
    expected = generate(tiny_engine(), asked)[0].token_ids
    know, lie = oracle(expected), liar(expected)

    def mend(token_ids, n):
        return (lie if len(token_ids) < len(PROMPT) + 60 else know)(token_ids, n)

    engine = tiny_engine(start_drafters=(lambda _: Script(mend, prior=0.6),), row_s=0.14)
    (sequence,) = generate(engine, asked)
    assert sequence.token_ids == expected
    assert sequence.speculation.n_accepted > 70


def test_many_sequences_whose_rows_are_dear_guess_nothing():
    asked = [request(PROMPT[:n], max_tokens=10) for n in range(1, 17)]
    engine = tiny_engine(n_pages=64, start_drafters=(lambda _: Script(lambda ids, n: [1] * n, prior=0.5),), row_s=0.9)
    assert all(s.speculation.n_drafted == 0 for s in generate(engine, *asked))


def test_a_draft_model_keeps_what_it_computed_for_the_next_request():
    model = TinyModel()
    engine = tiny_engine(start_drafters=(DraftModel(tiny_engine(model=model)).start,))
    (first,) = generate(engine, request(PROMPT, max_tokens=20))
    model.n_tokens_per_call.clear()
    (second,) = generate(engine, request([*first.token_ids, 4, 8, 15], max_tokens=5))
    assert max(model.n_tokens_per_call) < 10
    assert second.speculation.n_accepted > 0


def test_a_lookup_continues_the_longest_match_and_goes_round_at_the_end():
    drafter = NgramDrafter()
    ids = [1, 2, 3, 4, 5, 9, 3, 4, 6, 8, 2, 3, 4]
    assert drafter.look(ids) == 1  # three tokens: 2 3 4, though 3 4 was seen later
    assert drafter.propose(ids, 4) == (5, 9, 3, 4)
    assert drafter.look([*ids, 7]) is None
    around = [*ids, 7, 5, 6, 7, 5, 6]
    assert drafter.look(around) is not None
    assert drafter.propose(around, 7) == (7, 5, 6, 7, 5, 6, 7)


def test_longer_matches_are_kinds_of_their_own():
    kinds = []
    for n_same in (2, 3, 4, 8, 20):
        text = list(range(100, 100 + n_same))
        kinds.append(NgramDrafter().look([*text, 1, 2, *text]))
    assert kinds == [0, 1, 2, 3, 4]


def test_an_index_that_grows_finds_what_a_fresh_one_finds():
    ids = [(i * i) % 7 for i in range(60)]
    grown = NgramDrafter()
    for n in range(1, len(ids)):
        fresh = NgramDrafter()
        kind = fresh.look(ids[:n])
        assert grown.look(ids[:n]) == kind
        if kind is not None:
            assert grown.propose(ids[:n], 5) == fresh.propose(ids[:n], 5)


def test_the_best_length_weighs_what_guesses_bring_against_what_rows_cost():
    assert best_length(1.0, 15, 1.0, 0.0) == (15, 16.0)
    assert best_length(0.9, 15, 1.0, 2.0) == (0, 1.0)
    assert best_length(0.0, 15, 1.0, 0.1) == (0, 1.0)
    lengths = [best_length(rate, 15, 1.0, 0.15)[0] for rate in (0.1, 0.3, 0.6, 0.8, 0.95)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 0 < lengths[1]


def test_the_cost_of_rows_is_learnt_from_steps_and_shrugs_at_a_hiccup():
    cost = StepCost()
    assert not cost.is_known
    for step in range(200):
        rows = 1 + step % 8
        cost.observe(rows, 0.010 + 0.003 * (rows - 1))
    assert cost.seconds(6) == pytest.approx(0.025, rel=0.05)
    cost.observe(3, 5.0)
    assert cost.seconds(6) == pytest.approx(0.025, rel=0.1)
