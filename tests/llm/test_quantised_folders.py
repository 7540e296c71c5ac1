"""Quantised folders through `LLM`: the pack cache, adapters, int4, what is said of them, and one copy in memory."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch

from samovar.errors import FormatError
from samovar.kernels.native import NativeOps, available_isas
from samovar.llm import LLM
from samovar.models import packing
from samovar.tensors.stored import AssembledTensor
from tests.cli.fakes import samovar
from tests.formats.quantised_parts import METHODS, Method
from tests.llm.test_adapters import lora_folder
from tests.models.test_quantised_folders import SPARSE, quantised_folder

pytestmark = pytest.mark.skipif(not available_isas(), reason="native kernels are not built")
IDS = [5, 9, 30, 7, 100, 200]
ONE_OF_EACH = ["awq-g64", "gptq-4-ordered", "gptq-8", "fp8-blocks", "packed-4-group-asym"]


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMOVAR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packing, "_MIN_CACHED_BYTES", 0)


@pytest.fixture
def fills(monkeypatch):
    """Names of the tensors that are packed."""
    names = []
    fill = NativeOps.fill

    def count(ops, linear, tensors):
        fill(ops, linear, (names.append(tensor.name) or tensor for tensor in tensors))

    monkeypatch.setattr(NativeOps, "fill", count)
    return names


def loaded(folder: Path, **options) -> tuple[LLM, np.ndarray]:
    llm = LLM(folder, **options)
    logits = llm.logits(IDS)
    llm.packer.join()
    return llm, logits


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_second_start_maps_the_packed_weights(name, tmp_path, fills):
    quantised_folder(tmp_path / "model", METHODS[name])
    _, first = loaded(tmp_path / "model")
    assert len(fills) == 15  # seven of each of the two layers, and the head
    fills.clear()
    _, second = loaded(tmp_path / "model")
    assert fills == []
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["awq-g128", "gptq-4-ordered", "fp8-blocks", "packed-4-group-asym"])
def test_quantised_experts_are_made_once_and_then_mapped(name, tmp_path, fills):
    quantised_folder(tmp_path / "model", METHODS[name], SPARSE)
    _, first = loaded(tmp_path / "model")
    assert len(fills) == 4 + 1 + 3 * 5 + 7 + 1  # attention, router and experts of one layer; the dense one; the head
    fills.clear()
    _, second = loaded(tmp_path / "model")
    assert fills == []
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["awq-g128", "gptq-4-ordered", "fp8-blocks", "packed-4-group-asym"])
def test_recorded_steps_of_quantised_experts_choose_the_tokens_of_whole_passes(name, tmp_path):
    quantised_folder(tmp_path / "model", METHODS[name], SPARSE)
    llm = LLM(tmp_path / "model", cache=False)
    ids = list(llm.tokenizer.encode("The water in the samovar"))
    for token in llm.generate("The water in the samovar", temperature=0, max_tokens=10, min_tokens=10).token_ids:
        assert token == int(np.argmax(llm.logits(ids)[-1]))
        ids.append(token)


def test_only_one_expert_is_made_at_a_time(tmp_path, monkeypatch):
    quantised_folder(tmp_path / "model", METHODS["awq-g128"], SPARSE)
    alive, most = [], 0
    stored = AssembledTensor.stored

    def count(tensor):
        nonlocal most
        made = stored(tensor)
        alive.append(weakref.ref(made.data))
        most = max(most, sum(reference() is not None for reference in alive))
        return made

    monkeypatch.setattr(AssembledTensor, "stored", count)
    loaded(tmp_path / "model")
    assert len(alive) == 4 + 3 * 5 + 7
    assert most <= 2  # the last one is let go of when the next is there


def test_one_expert_that_is_not_quantised_is_named(tmp_path):
    folder = tmp_path / "model"
    quantised_folder(folder, METHODS["awq-g128"], SPARSE)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.experts.3.up_proj"
    for part in ("qweight", "qzeros", "scales"):
        del tensors[f"{name}.{part}"]
    save_torch(tensors | {f"{name}.weight": torch.zeros(128, 128)}, folder / "model.safetensors")
    with pytest.raises(FormatError, match=rf"'{name}\.weight' is F32, and .*experts\.0\.up_proj\.weight' is U4_G128"):
        LLM(folder)


@pytest.mark.parametrize("name", ["awq-g128", "gptq-4-ordered", "fp8-blocks", "packed-4-group-asym"])
def test_int4_rounds_the_values_of_quantised_experts(name, tmp_path):
    quantised_folder(tmp_path / "model", METHODS[name], SPARSE)
    defined = LLM(tmp_path / "model", isa="numpy", weights="int4").logits(IDS)
    native = LLM(tmp_path / "model", cache=False, weights="int4").logits(IDS)
    assert np.abs(native - defined).max() <= 5e-2 * np.abs(defined).max()
    exact = LLM(tmp_path / "model", isa="numpy").logits(IDS)
    assert np.abs(defined - exact).max() >= 5e-2 * np.abs(exact).max()


def test_weights_in_the_cache_are_not_taken_for_those_of_another_config(tmp_path, fills):
    folder = tmp_path / "model"
    quantised_folder(folder, METHODS["gptq-4"])
    _, first = loaded(folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["checkpoint_format"] = "gptq_v2"
    (folder / "config.json").write_text(json.dumps(config))
    fills.clear()
    _, second = loaded(folder)
    assert fills
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", ["awq-g64", "gptq-4-ordered", "fp8-blocks"])
def test_an_adapter_adds_to_quantised_layers_what_it_adds_to_their_values(name, tmp_path):
    model = quantised_folder(tmp_path / "model", METHODS[name])
    llm = LLM(tmp_path / "model", isa="numpy")
    adapter = lora_folder(tmp_path / "adapter", llm, seed=1)
    plain = plain_folder(tmp_path, model)
    answers = []
    for path in (tmp_path / "model", plain):
        one = LLM(path, isa="numpy", kv_type="f32")
        without = one.generate("The water", temperature=0, max_tokens=8).token_ids
        one.load_adapter("it", adapter)
        answers.append(one.generate("The water", adapter="it", temperature=0, max_tokens=8).token_ids)
        assert answers[-1] != without
    assert answers[0] == answers[1]


def plain_folder(root: Path, model) -> Path:
    """The dequantised model in float32."""
    from tests.models.tiny_checkpoints import write_folder

    return write_folder(model, root / "plain")


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_recorded_steps_choose_the_tokens_of_whole_passes(name, tmp_path):
    quantised_folder(tmp_path / "model", METHODS[name])
    llm = LLM(tmp_path / "model", cache=False)
    ids = list(llm.tokenizer.encode("The water in the samovar"))
    answer = llm.generate("The water in the samovar", temperature=0, max_tokens=10, min_tokens=10).token_ids
    for token in answer:
        assert token == int(np.argmax(llm.logits(ids)[-1]))
        ids.append(token)


@pytest.mark.parametrize("name", ["awq-g64", "gptq-4-ordered", "fp8-blocks"])
def test_int4_rounds_the_values_that_a_folder_stands_for(name, tmp_path):
    quantised_folder(tmp_path / "model", METHODS[name])
    _, exact = loaded(tmp_path / "model", cache=False)
    llm, rounded = loaded(tmp_path / "model", cache=False, weights="int4")
    difference = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 0 < difference < 0.4
    assert llm.packer.is_done


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_inspect_names_the_method_and_the_types(name, tmp_path):
    quantised_folder(tmp_path / "model", METHODS[name])
    report = json.loads(samovar("inspect", str(tmp_path / "model"), "--json").out)
    method = {"awq": "AWQ", "gptq": "GPTQ", "fp8": "FP8", "packed": "compressed-tensors"}[name.split("-")[0]]
    assert method in report["format"]
    assert report["is_supported"]
    kinds = [share["type"].split("_")[0] for share in report["types"]]
    assert kinds[0] in ("U4", "U8", "E4M3", "F32")
    assert "F32" in kinds


def test_narrow_bits_are_said_to_take_four(tmp_path):
    quantised_folder(tmp_path / "model", METHODS["gptq-3"])
    assert any("of 3 bits take 4 bits" in line for line in LLM(tmp_path / "model").warnings)


def test_damage_found_while_packing_reaches_the_caller(tmp_path):
    folder = tmp_path / "model"
    quantised_folder(folder, METHODS["awq-g64"])
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.scales"][0, 0] = float("nan")
    save_torch(tensors, folder / "model.safetensors")
    with pytest.raises(FormatError, match=r"model\.layers\.1\.mlp\.up_proj\.scales"):
        LLM(folder).logits(IDS)


PROGRAM = """
import json, sys
from samovar.llm import LLM
llm = LLM(sys.argv[1], max_context=128, cache=False)
llm.logits([1, 2, 3])
llm.packer.join()
llm.logits([1, 2, 3])
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({name: int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["awq-g128", "fp8-blocks"])
def test_a_loaded_folder_holds_one_copy_of_its_weights(name, tmp_path):
    folder = wide_folder(tmp_path / "model", METHODS[name])
    size = (folder / "model.safetensors").stat().st_size
    assert size > 450 << 20
    done = subprocess.run([sys.executable, "-c", PROGRAM, folder], capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(done.stdout)
    assert found["VmRSS"] * 1024 <= 1.1 * size + (150 << 20)
    assert found["VmHWM"] * 1024 <= 1.1 * size + (200 << 20)


def wide_folder(folder: Path, method: Method) -> Path:
    """A folder of some 500 MiB, each layer of which holds the same random weights."""
    from tests.models.tiny_checkpoints import Variant, random_model, write_folder

    n_layers = 30 if method.config["quant_method"] == "awq" else 15
    sizes = {
        "hidden_size": 1024,
        "intermediate_size": 9216,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    }
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": True}
    variant = Variant(model_type="qwen3", settings={**sizes, **rope, "num_hidden_layers": 1})
    write_folder(random_model(variant), folder)
    one = load_file(folder / "model.safetensors")
    tensors = {name: tensor for name, tensor in one.items() if ".layers." not in name}
    for name, tensor in one.items():
        if ".layers." not in name:
            continue
        is_projection = name.endswith("_proj.weight")
        parts = (
            {f"{name.removesuffix('weight')}{k}": t for k, t in method.quantise(tensor).tensors.items()}
            if is_projection
            else {}
        )
        for layer in range(n_layers):
            for part, value in (parts or {name: tensor}).items():
                tensors[part.replace("layers.0.", f"layers.{layer}.")] = value.clone()
    save_torch({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": n_layers}
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": method.config}))
    return folder
