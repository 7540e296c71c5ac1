import numpy as np
import pytest

from samovar.errors import BadRequest, OutOfMemory, PromptTooLong
from tests.engine.fakes import VOCAB, TinyModel, generate, request, tiny_engine

PROMPT = [5, 17, 3, 88, 42, 9, 60, 1, 33] * 5  # 45 tokens: more than a page


def ids_of(sequence):
    return sequence.token_ids[sequence.n_prompt :]


def test_greedy_generation_follows_the_logits_of_the_whole_text():
    engine = tiny_engine()
    (sequence,) = generate(engine, request(PROMPT))
    logits_TV = tiny_engine().logits(tuple(sequence.token_ids))
    chosen = np.argmax(logits_TV[len(PROMPT) - 1 : -1], axis=1)
    assert ids_of(sequence) == chosen.tolist()


@pytest.mark.parametrize("max_step_tokens", [1, 7, 32, 44, 45, 512])
def test_a_prompt_cut_into_chunks_gives_the_same_tokens_and_logits(max_step_tokens):
    whole, cut = tiny_engine(), tiny_engine(max_step_tokens=max_step_tokens)
    assert np.array_equal(whole.logits(tuple(PROMPT)), cut.logits(tuple(PROMPT)))
    sampled = request(PROMPT, temperature=1.0, seed=7)
    assert ids_of(generate(cut, sampled)[0]) == ids_of(generate(whole, sampled)[0])


def test_requests_in_a_batch_get_the_tokens_they_get_alone():
    requests = [request(PROMPT[:n], temperature=0.9, seed=n, max_tokens=3 + n % 5) for n in (1, 2, 31, 32, 33, 45)]
    alone = [ids_of(generate(tiny_engine(), r)[0]) for r in requests]
    together = [ids_of(s) for s in generate(tiny_engine(max_step_tokens=40), *requests)]
    assert together == alone
    assert len({tuple(ids) for ids in alone}) == len(requests)


def test_the_same_seed_repeats_an_answer_and_another_seed_does_not():
    engine = tiny_engine()
    first, again, other = (ids_of(generate(engine, request(PROMPT, temperature=2.0, seed=s))[0]) for s in (1, 1, 2))
    assert first == again != other


def test_a_kept_sequence_saves_the_common_prefix_and_changes_no_token():
    model = TinyModel()
    engine = tiny_engine(model=model)
    (first,) = generate(engine, request(PROMPT), keep=True)
    longer = [*first.token_ids, 4, 8, 15]
    model.n_tokens_per_call.clear()
    (second,) = generate(engine, request(longer), keep=True)
    assert second.n_cached == len(first.token_ids) - 1  # the last token was chosen and never computed
    assert model.n_tokens_per_call[0] == len(longer) - second.n_cached
    assert ids_of(second) == ids_of(generate(tiny_engine(), request(longer))[0])


def test_a_prompt_that_is_wholly_kept_still_computes_its_last_token():
    engine = tiny_engine()
    generate(engine, request(PROMPT), keep=True)
    (again,) = generate(engine, request(PROMPT), keep=True)
    assert again.n_cached == len(PROMPT) - 1
    assert ids_of(again) == ids_of(generate(tiny_engine(), request(PROMPT))[0])


def test_a_prompt_that_parts_early_reuses_only_what_agrees():
    engine = tiny_engine()
    generate(engine, request(PROMPT), keep=True)
    other = [*PROMPT[:10], 2, *PROMPT[11:]]
    (second,) = generate(engine, request(other), keep=True)
    assert second.n_cached == 10
    assert ids_of(second) == ids_of(generate(tiny_engine(), request(other))[0])


def test_all_pages_come_back():
    engine = tiny_engine()
    generate(engine, request(PROMPT), request(PROMPT[:7]))
    assert engine.pool.n_free == engine.pool.n_pages
    generate(engine, request(PROMPT), keep=True)
    assert engine.pool.n_free == engine.pool.n_pages - 2
    engine.drop_kept()
    assert engine.pool.n_free == engine.pool.n_pages


def test_a_stop_id_ends_the_answer_and_is_its_last_token():
    (free,) = generate(tiny_engine(), request(PROMPT))
    stop = ids_of(free)[4]
    (stopped,) = generate(tiny_engine(), request(PROMPT, stop_ids=(stop,)))
    assert stopped.finish_reason == "stop"
    assert ids_of(stopped) == ids_of(free)[: ids_of(free).index(stop) + 1]


def test_an_answer_ends_with_length_at_max_tokens_and_where_the_context_is_full():
    (short,) = generate(tiny_engine(), request(PROMPT, max_tokens=3))
    assert (len(ids_of(short)), short.finish_reason) == (3, "length")
    (full,) = generate(tiny_engine(max_context=50), request(PROMPT, max_tokens=None))
    assert (len(full.token_ids), full.finish_reason) == (50, "length")


def test_finish_between_two_events_ends_one_sequence_and_not_the_other():
    engine = tiny_engine()
    sequences = [engine.start(request(PROMPT)), engine.start(request(PROMPT[:20]))]
    for event in engine.run(sequences):
        if event.index == 0:
            engine.finish(sequences[0], "cancelled")
    assert [s.n_generated for s in sequences] == [1, 12]
    assert sequences[0].finish_reason == "cancelled"


def test_prompts_that_cannot_be_served_are_refused_by_name():
    engine = tiny_engine(max_context=50)
    with pytest.raises(PromptTooLong, match="50 tokens, and the context holds 50"):
        engine.start(request([1] * 50))
    with pytest.raises(BadRequest, match="empty"):
        engine.start(request([]))
    with pytest.raises(BadRequest, match=f"id {VOCAB} is not in the vocabulary"):
        engine.start(request([1, VOCAB]))


def test_a_batch_that_needs_more_pages_than_there_are_is_refused_and_harms_nobody():
    engine = tiny_engine(n_pages=3)
    with pytest.raises(OutOfMemory, match="pages"):
        generate(engine, request(PROMPT), request(PROMPT))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1), ("temperature", float("nan")), ("top_p", 0), ("top_p", 1.1), ("min_p", -1), ("top_k", -1),
        ("top_k", 2.5), ("repetition_penalty", 0), ("presence_penalty", 3), ("frequency_penalty", -3), ("seed", -1),
        ("max_tokens", 0), ("temperature", True),
    ],
)  # fmt: skip
def test_sampling_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(BadRequest, match=name) as caught:
        request(PROMPT, **{name: value})
    assert caught.value.param == name
