import numpy as np
import pytest

from samovar.errors import BadRequest, PromptTooLong
from tests.engine.fakes import VOCAB, TinyModel, generate, ids_of, request, run, tiny_engine

PROMPT = [5, 17, 3, 88, 42, 9, 60, 1, 33] * 5  # 45 tokens: more than a page


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
    (first,) = generate(engine, request(PROMPT))
    longer = [*first.token_ids, 4, 8, 15]
    model.n_tokens_per_call.clear()
    (second,) = generate(engine, request(longer))
    assert second.n_cached == len(first.token_ids) - 1  # the last token was chosen and never computed
    assert model.n_tokens_per_call[0] == len(longer) - second.n_cached
    assert ids_of(second) == ids_of(generate(tiny_engine(), request(longer))[0])


def test_a_prompt_that_is_wholly_kept_still_computes_its_last_token():
    engine = tiny_engine()
    generate(engine, request(PROMPT))
    (again,) = generate(engine, request(PROMPT))
    assert again.n_cached == len(PROMPT) - 1
    assert ids_of(again) == ids_of(generate(tiny_engine(), request(PROMPT))[0])


def test_a_prompt_that_parts_early_reuses_only_what_agrees():
    engine = tiny_engine()
    generate(engine, request(PROMPT))
    other = [*PROMPT[:10], 2, *PROMPT[11:]]
    (second,) = generate(engine, request(other))
    assert second.n_cached == 10
    assert ids_of(second) == ids_of(generate(tiny_engine(), request(other))[0])


def test_all_pages_come_back():
    engine = tiny_engine()
    generate(engine, request(PROMPT), request(PROMPT[:7]))
    assert engine.cache.n_available == engine.pool.n_pages > engine.pool.n_free
    engine.cache.clear()
    assert engine.pool.n_free == engine.pool.n_pages
    without = tiny_engine(keeps_prefixes=False)
    generate(without, request(PROMPT), request(PROMPT[:7]))
    assert without.pool.n_free == without.pool.n_pages


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


def test_a_cancelled_request_ends_at_once_and_the_others_go_on():
    engine = tiny_engine()
    first, second = engine.submit(request(PROMPT)), engine.submit(request(PROMPT[:20]))
    engine.step()
    engine.cancel(first)
    assert not first.pages
    events = run(engine, [first, second])
    assert [s.n_generated for s in (first, second)] == [1, 12]
    assert [e.ending.reason for e in events[first.id] if e.ending] == ["cancelled"]
    assert [e.ending.reason for e in events[second.id] if e.ending] == ["length"]


def test_prompts_that_cannot_be_served_are_refused_by_name():
    engine = tiny_engine(max_context=50)
    with pytest.raises(PromptTooLong, match="50 tokens, and the context holds 50"):
        engine.submit(request([1] * 50))
    with pytest.raises(BadRequest, match="empty"):
        engine.submit(request([]))
    with pytest.raises(BadRequest, match=f"id {VOCAB} is not in the vocabulary"):
        engine.submit(request([1, VOCAB]))


def test_requests_that_do_not_fit_together_take_turns():
    engine = tiny_engine(n_pages=3)
    alone = [ids_of(generate(tiny_engine(), request(PROMPT, seed=s, temperature=1.0))[0]) for s in range(4)]
    together = generate(engine, *(request(PROMPT, seed=s, temperature=1.0) for s in range(4)))
    assert [ids_of(s) for s in together] == alone


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


@pytest.mark.parametrize(
    ("task", "options", "param"),
    [
        ("prefill", {"logprobs": 1}, "logprobs"), ("embed", {"logit_ids": (3,)}, "logit_ids"),
        ("embed", {"prompt_logprobs": 0}, "prompt_logprobs"),
    ],
)  # fmt: skip
def test_what_a_task_has_no_use_for_is_refused_by_name(task, options, param):
    with pytest.raises(BadRequest, match=param) as caught:
        request(PROMPT, task=task, **options)
    assert caught.value.param == param
