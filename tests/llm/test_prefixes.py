"""Prefixes on disk through `LLM`: a new process begins warm with the same answers, and a wrong file is refused."""

import shutil
import stat

import numpy as np
import pytest

from samovar.errors import SamovarError, StoreError
from samovar.llm import LLM
from samovar.llm.random_model import Shape, write_random_model
from tests.matrices import slow_but

SYSTEM = "The water in the samovar is hot, and the tea that we pour for the others is hotter. "
QUESTIONS = ["Whose samovar was it?", "Who pours?"]


def ask(llm, question):
    return llm.generate(SYSTEM + question, temperature=0.9, seed=5, max_tokens=10, logprobs=3)


def same(first, second):
    return (first.token_ids, first.text, first.logprobs) == (second.token_ids, second.text, second.logprobs)


@pytest.fixture
def saved(tiny_folder, tmp_path):
    """The folder of prefixes, and the answers there were."""
    llm = LLM(tiny_folder)
    answers = [ask(llm, question) for question in QUESTIONS]
    n_saved = llm.save_prefixes(tmp_path / "prefixes")
    assert n_saved >= len(llm.tokenizer.encode(SYSTEM))
    return tmp_path / "prefixes", answers, n_saved


@pytest.mark.parametrize("process", [False, True])
def test_a_restart_keeps_the_prompt_warm_and_the_answers(saved, tiny_folder, process):
    folder, answers, n_saved = saved
    llm = LLM(tiny_folder, process=process)
    assert llm.load_prefixes(folder) == n_saved
    for question, before in zip(QUESTIONS, answers, strict=True):
        again = ask(llm, question)
        assert again.usage.n_cached == again.usage.n_prompt - 1
        assert same(again, before)
    llm.close()


@pytest.mark.parametrize("process", [False, True])
@pytest.mark.parametrize("kv_type", slow_but(["int8"], ["f16", "bf16", "int8"]))
def test_keys_and_values_of_each_type_come_back(tiny_folder, tmp_path, kv_type, process):
    first = LLM(tiny_folder, kv_type=kv_type, process=process)
    before = ask(first, QUESTIONS[0])
    n_saved = first.save_prefixes(tmp_path)
    first.close()
    second = LLM(tiny_folder, kv_type=kv_type)
    assert second.load_prefixes(str(tmp_path)) == n_saved
    again = ask(second, QUESTIONS[0])
    assert again.usage.n_cached == again.usage.n_prompt - 1
    assert same(again, before)


def test_the_file_is_for_its_owner_alone(saved):
    (file,) = saved[0].iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(saved[0].stat().st_mode) == 0o700


def test_saving_again_takes_the_place_of_what_was_saved(saved, tiny_folder):
    llm = LLM(tiny_folder)
    llm.generate("tea", max_tokens=2)
    n_saved = llm.save_prefixes(saved[0])
    assert n_saved < saved[2]
    assert len(list(saved[0].iterdir())) == 1
    assert LLM(tiny_folder).load_prefixes(saved[0]) == n_saved


def test_an_empty_cache_can_be_saved(tiny_folder, tmp_path):
    assert LLM(tiny_folder).save_prefixes(tmp_path) == 0
    assert LLM(tiny_folder).load_prefixes(tmp_path) == 0


def test_a_model_with_few_pages_takes_what_fits(saved, tiny_folder):
    llm = LLM(tiny_folder, max_context=32, max_streams=1)
    assert 0 < llm.load_prefixes(saved[0]) <= 32
    assert llm._engine.cache.n_available == llm._engine.pool.n_pages


@pytest.mark.parametrize("process", [False, True])
def test_another_model_and_keys_of_another_type_are_refused(saved, tiny_checkpoints, tiny_folder, process):
    others = [
        LLM(tiny_checkpoints.get("qwen3-tied-8-to-1")[0], process=process),
        LLM(tiny_folder, kv_type="f16", process=process),
    ]
    for other in others:
        with pytest.raises(StoreError, match="no prefixes for this model"):
            other.load_prefixes(saved[0])
        assert ask(other, QUESTIONS[0]).usage.n_cached == 0
        other.close()


def test_weights_in_another_form_are_refused(random_file, tmp_path):
    first = LLM(random_file)
    first.generate("tea", max_tokens=2)
    assert first.save_prefixes(tmp_path) > 0
    with pytest.raises(StoreError, match="no prefixes for this model"):
        LLM(random_file, weights="int4").load_prefixes(tmp_path)


@pytest.fixture(scope="module")
def random_file(tmp_path_factory):
    """A model whose widths suit 4 bits."""
    path = tmp_path_factory.mktemp("random") / "model.gguf"
    shape = Shape(n_layers=1, d_model=256, n_heads=2, d_ffn=256, is_tied=True, n_kv_heads=1, d_head=64, vocab_size=400)
    write_random_model(path, shape, "q8_0")
    return path


def test_the_same_path_with_other_weights_is_refused(saved, tiny_folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(tiny_folder, copy)
    LLM(copy).save_prefixes(tmp_path / "own")
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(StoreError, match="no prefixes for this model"):
        LLM(copy).load_prefixes(tmp_path / "own")


@pytest.mark.parametrize("place", [0, 20, 70, 0.3, 0.6, 0.9])
def test_an_altered_file_is_refused(saved, tiny_folder, place):
    (file,) = saved[0].iterdir()
    data = bytearray(file.read_bytes())
    at = place if isinstance(place, int) else _used(data, place)
    data[at] ^= 0x10
    file.write_bytes(data)
    llm = LLM(tiny_folder)
    with pytest.raises(SamovarError):
        llm.load_prefixes(saved[0])
    assert ask(llm, QUESTIONS[0]).usage.n_cached == 0


def _used(data, share):
    """A byte of the pages that is not 0, about this far into the file."""
    return next(at for at in range(int(len(data) * share), len(data)) if data[at])


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, tiny_folder, share):
    (file,) = saved[0].iterdir()
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(StoreError, match="are damaged"):
        LLM(tiny_folder).load_prefixes(saved[0])


def test_a_folder_that_is_not_there_or_cannot_be_written_is_refused(tiny_folder, tmp_path):
    llm = LLM(tiny_folder)
    with pytest.raises(StoreError, match="save some first"):
        llm.load_prefixes(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file"):
        llm.save_prefixes(tmp_path / "file")


def test_prefixes_are_saved_while_answers_go_on(tiny_folder, tmp_path):
    llm = LLM(tiny_folder)
    stream = llm.stream_generate(SYSTEM, temperature=0, max_tokens=30)
    next(stream)
    assert llm.save_prefixes(tmp_path) >= 0
    rest = "".join(delta.text for delta in stream)
    assert rest
    assert stream.result.token_ids == LLM(tiny_folder).generate(SYSTEM, temperature=0, max_tokens=30).token_ids
    assert np.isfinite(llm.load_prefixes(tmp_path))
