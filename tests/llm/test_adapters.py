"""Adapters through `LLM`, in this process and in one of its own: each request gets the answer of the adapter it names."""

from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from samovar.errors import BadRequest, ModelNotFound
from samovar.llm import LLM
from tests.formats.adapter_folders import write_adapter

PROMPT = "The water in the samovar is hot, and the tea that we pour for the others is hotter than "
CALL = {"temperature": 0, "max_tokens": 12}


def lora_folder(folder: Path, llm: LLM, seed: int) -> Path:
    """A PEFT folder with random weights for the model, strong enough to change its answers."""
    rng, weights = np.random.default_rng(seed), {}
    for name, (n_out, n_in) in llm.model.projections.items():
        if name.endswith(("q_proj", "v_proj", "down_proj")):
            weights[f"base_model.model.{name}.lora_A.weight"] = rng.normal(size=(4, n_in)).astype(np.float32)
            weights[f"base_model.model.{name}.lora_B.weight"] = 0.1 * rng.normal(size=(n_out, 4)).astype(np.float32)
    return write_adapter(folder, weights, target_modules=["q_proj", "v_proj", "down_proj"])


@pytest.fixture(scope="module")
def folders(tiny_llm, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: lora_folder(root / name, tiny_llm, seed) for seed, name in enumerate(("red", "blue"))}


@pytest.fixture(scope="module")
def wanted(tiny_folder, folders):
    """The answer with each adapter, each alone in a model of its own; None is the model's own."""
    answers = {None: LLM(tiny_folder, prefix_cache=False).generate(PROMPT, **CALL).token_ids}
    for name, folder in folders.items():
        llm = LLM(tiny_folder, prefix_cache=False)
        llm.load_adapter("it", folder)
        answers[name] = llm.generate(PROMPT, adapter="it", **CALL).token_ids
    assert len(set(answers.values())) == 3
    return answers


@pytest.fixture(scope="module", params=[False, True], ids=["here", "process"])
def llm(request, tiny_folder, folders):
    llm = LLM(tiny_folder, process=request.param)
    for name, folder in folders.items():
        llm.load_adapter(name, folder)
    yield llm
    llm.close()


def answer(llm, adapter, prompt=PROMPT):
    return llm.generate(prompt, adapter=adapter, **CALL)


def test_each_request_gets_the_answer_of_its_adapter(llm, wanted):
    for _ in range(2):  # the second from the cache
        for adapter, ids in wanted.items():
            assert answer(llm, adapter).token_ids == ids


def test_requests_with_different_adapters_go_on_side_by_side(llm, wanted):
    order = [None, "red", "blue", "red", None, "blue"] * 2
    streams = [llm.stream_generate(PROMPT, adapter=adapter, **CALL) for adapter in order]
    for stream in streams:
        for _ in stream:
            pass
    assert [stream.result.token_ids for stream in streams] == [wanted[adapter] for adapter in order]
    assert [r.token_ids for r in llm.generate([PROMPT] * 5, adapter="red", **CALL)] == [wanted["red"]] * 5
    several = llm.generate(PROMPT, adapter="blue", n=3, temperature=0, max_tokens=12)
    assert [r.token_ids for r in (several, *several.alternatives)] == [wanted["blue"]] * 3


def test_adapters_share_no_prefix_with_each_other_or_the_model(llm, wanted):
    prompt = "And evening in March: " + PROMPT
    assert [answer(llm, adapter, prompt).usage.n_cached for adapter in wanted] == [0, 0, 0]
    again = [answer(llm, adapter, prompt).usage.n_cached for adapter in wanted]
    assert again == [len(llm.tokenizer.encode(prompt)) - 1] * 3


def test_other_weights_under_the_same_name_start_afresh(tiny_folder, folders, wanted):
    for process in (False, True):
        llm = LLM(tiny_folder, process=process)
        llm.load_adapter("it", folders["red"])
        assert answer(llm, "it").token_ids == wanted["red"]
        llm.unload_adapter("it")
        llm.load_adapter("it", folders["blue"])
        after = answer(llm, "it")
        assert (after.token_ids, after.usage.n_cached) == (wanted["blue"], 0)
        llm.close()


def test_a_conversation_with_an_adapter_is_prepared_with_that_adapter(llm):
    first = llm.chat("Tea?", adapter="red", temperature=0, max_tokens=5)
    llm.settle()
    assert llm.chat("Tea?", adapter="red", temperature=0, max_tokens=5).token_ids == first.token_ids


def test_an_adapter_in_use_stays_and_goes_when_its_requests_have_ended(tiny_folder, folders, wanted):
    for process in (False, True):
        llm = LLM(tiny_folder, process=process)
        llm.load_adapter("it", folders["red"])
        stream = llm.stream_generate("tea", adapter="it", temperature=1.0, seed=1, ignore_eos=True)
        next(stream)
        with pytest.raises(BadRequest, match="'it' is in use by 1 requests; unload it when they have ended"):
            llm.unload_adapter("it")
        stream.close()
        assert answer(llm, "it").token_ids == wanted["red"]
        llm.unload_adapter("it")
        with pytest.raises(BadRequest, match="there is no adapter 'it'; none is loaded"):
            answer(llm, "it")
        llm.close()


def test_an_adapter_unloaded_between_check_and_start_fails_its_request_alone(tiny_folder, folders, wanted):
    llm = LLM(tiny_folder)
    llm.load_adapter("it", folders["red"])
    beside = llm.stream_generate(PROMPT, **CALL)
    is_held, go_on = Event(), Event()
    holder = Thread(target=lambda: llm._client.call(lambda _: (is_held.set(), go_on.wait())))
    holder.start()
    is_held.wait()
    unloader = Thread(target=llm.unload_adapter, args=("it",))
    unloader.start()
    while not llm._client._shared.commands:
        pass
    late = llm.stream_generate(PROMPT, adapter="it", **CALL)
    go_on.set()
    with pytest.raises(BadRequest, match="no adapter 'it'"):
        next(late)
    for _ in beside:
        pass
    assert beside.result.token_ids == wanted[None]
    holder.join()
    unloader.join()
    llm.settle()


def test_what_cannot_be_loaded_or_used_is_refused_by_name(llm, folders, tmp_path):
    with pytest.raises(BadRequest, match="'red' is loaded already"):
        llm.load_adapter("red", folders["blue"])
    with pytest.raises(BadRequest, match="no adapter 'green'; loaded are: blue, red"):
        answer(llm, "green")
    with pytest.raises(BadRequest, match="no adapter 'green'; loaded are: blue, red"):
        llm.generate(["a", "b"], adapter="green")
    with pytest.raises(BadRequest, match="no adapter 'green'; loaded are: blue, red"):
        llm.stream_generate("a", adapter="green")
    with pytest.raises(BadRequest, match="no adapter 'green' to unload"):
        llm.unload_adapter("green")
    for name in ("", None, 5):
        with pytest.raises(BadRequest, match="name is"):
            llm.load_adapter(name, folders["red"])
    for adapter in (5, ["red"], "\ud800"):
        with pytest.raises(BadRequest, match="adapter is"):
            answer(llm, adapter)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match=r"adapter_config\.json"):
        llm.load_adapter("green", tmp_path / "empty")
    assert answer(llm, "red").token_ids


def test_grammars_hold_with_adapters(llm):
    for adapter in (None, "red", "blue"):
        assert llm.generate("tea", adapter=adapter, choices=["hot", "cold"], temperature=1.0).text in ("hot", "cold")
