"""Requests beyond the native context through `LLM`: what they get, what they are told, and what a switch turns off."""

from pathlib import Path

import pytest

from samovar.errors import BadRequest, OutOfMemory, PromptTooLong
from samovar.llm import LLM
from samovar.llm.memory import Budget, kv_page_bytes
from samovar.models.config import read_decoder_config
from tests.models.tiny_checkpoints import random_ids

NATIVE = 128  # of the tiny checkpoints
ROOM = 1 << 29  # so that nothing is evicted
TEXT = "The water in the samovar is hot, and the tea that we pour for the others is hotter. "


@pytest.fixture
def llm(tiny_folder: Path) -> LLM:
    return LLM(tiny_folder, memory=ROOM)


def ask(llm: LLM, n_prompt: int, max_tokens: int | None):
    prepared = llm.prepare_generate(tuple(random_ids(300)[:n_prompt]), temperature=0, max_tokens=max_tokens, ignore_eos=True)
    return prepared.run()


def test_a_result_tells_the_factor_and_why_nothing_of_the_prompt_was_cached(llm: LLM) -> None:
    assert llm.max_context == 4 * NATIVE
    told = [ask(llm, *sizes) for sizes in ((100, 28), (100, 29), (110, 29), (260, 9), (101, 3))]
    assert [result.usage.yarn_factor for result in told] == [1, 2, 2, 4, 1]
    assert [result.usage.n_cached for result in told] == [0, 0, 100, 0, 100]
    first, grown, same, longest, back = [result.cache_miss_reason for result in told]
    assert (first, same, back) == (None, None, None)
    assert grown is not None
    assert "first 99 tokens" in grown
    assert "rotation of the native context" in grown
    assert "takes YaRN factor 2" in grown
    assert longest is not None
    assert "cached with YaRN factor 2" in longest


def test_without_max_tokens_an_answer_ends_where_its_factor_does(llm: LLM) -> None:
    for n_prompt, n_total in ((120, NATIVE), (127, NATIVE), (128, 2 * NATIVE), (260, 4 * NATIVE)):
        result = ask(llm, n_prompt, None)
        assert (result.finish_reason, n_prompt + result.usage.n_completion) == ("length", n_total)


def test_switched_off_the_native_context_is_all_there_is(tiny_folder: Path) -> None:
    llm = LLM(tiny_folder, long_context="off")
    assert llm.max_context == NATIVE
    result = ask(llm, 100, 200)
    assert (result.usage.yarn_factor, result.usage.n_completion) == (1, 28)
    with pytest.raises(PromptTooLong, match="holds 128"):
        ask(llm, 128, 1)
    with pytest.raises(BadRequest, match="1 to 128"):
        LLM(tiny_folder, long_context="off", max_context=129)
    with pytest.raises(BadRequest, match="long_context is 'on'; expected auto or off"):
        LLM(tiny_folder, long_context="on")


def test_a_model_that_is_not_made_for_it_refuses_as_ever(tmp_path: Path, tiny_checkpoints) -> None:
    llm = LLM(tiny_checkpoints.get("llama3")[0])
    assert llm.max_context == llm.config.max_context
    with pytest.raises(PromptTooLong):
        llm.prepare_generate(tuple(random_ids(300))).run()


@pytest.mark.slow
@pytest.mark.parametrize("process", [False, True])
def test_keys_of_each_factor_come_back_from_disk_apart(tiny_folder: Path, tmp_path: Path, process: bool) -> None:
    first = LLM(tiny_folder, kv_type="int8", process=process, memory=ROOM)
    asked = [(100, 5), (100, 50), (260, 40)]
    before = [ask(first, *sizes) for sizes in asked]
    n_saved = first.save_prefixes(tmp_path)
    first.close()
    second = LLM(tiny_folder, kv_type="int8", process=process, memory=ROOM)
    assert second.load_prefixes(tmp_path) == n_saved
    again = [ask(second, *sizes) for sizes in asked]
    second.close()
    assert [result.usage.n_cached for result in again] == [n_prompt - 1 for n_prompt, _ in asked]
    assert [result.usage.yarn_factor for result in again] == [1, 2, 4]
    assert [result.token_ids for result in again] == [result.token_ids for result in before]
    native = LLM(tiny_folder, kv_type="int8", long_context="off")
    assert 0 < native.load_prefixes(tmp_path) < n_saved


def test_a_draft_model_follows_beyond_the_native_context(tiny_folder: Path) -> None:
    plain, drafting = LLM(tiny_folder, speculation="off"), LLM(tiny_folder, draft=tiny_folder, speculation="draft")
    for sizes in ((100, 60), (200, 100)):
        wanted, found = ask(plain, *sizes), ask(drafting, *sizes)
        assert found.token_ids == wanted.token_ids
        assert found.usage.n_drafted == found.usage.n_accepted  # the same model, with the same rotation


def test_texts_beyond_the_native_context_have_vectors_and_likelihoods(llm: LLM) -> None:
    long = TEXT * 6
    assert len(llm.tokenizer.encode(long)) > NATIVE
    assert llm.embed(long, any_model=True).shape == (llm.config.d_model,)
    assert len(llm.log_likelihoods([(long, "tea")])) == 1


def test_a_second_turn_finds_what_was_prepared_for_it_with_the_factor_that_it_takes(thinking_llm: LLM) -> None:
    turns: list[dict[str, object]] = [{"role": "user", "content": "Tea?"}]
    asked = {"max_tokens": 80, "temperature": 0, "thinking": False}
    first = thinking_llm.chat(turns, **asked, ignore_eos=True)
    thinking_llm.settle()
    turns += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And the tea?"}]
    second = thinking_llm.chat(turns, **asked)
    assert first.usage.yarn_factor == 1 < second.usage.yarn_factor
    assert second.usage.n_cached > 80
    thinking_llm.settle()


CONFIG = read_decoder_config(
    {
        "model_type": "qwen2", "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 3, "intermediate_size": 512, "vocab_size": 100, "max_position_embeddings": 4096,
    },
    "config.json",
)  # fmt: skip


def test_memory_is_the_limit_of_the_context_and_a_pool_is_no_larger_for_it_where_streams_are_many() -> None:
    page = kv_page_bytes(CONFIG, "int8")

    def choose(free=1 << 40, context=None, streams=64):
        return Budget(None, free, 0).choose(CONFIG, "int8", context, streams, 4 * 4096)

    assert choose() == (16_384, 512)  # what four native contexts take
    assert choose(streams=1) == (16_384, 512)
    assert choose(free=400 * page) == (200 * 32, 200)
    assert choose(context=8192) == (8192, 512)
    assert choose(context=1000) == (1000, 128)
    with pytest.raises(BadRequest, match="1 to 16384"):
        choose(context=16_385)
    with pytest.raises(OutOfMemory, match="320 tokens would fit"):
        choose(context=16_384, free=10 * page)
