"""Quantised folders: values equal to the bit to an independent dequantisation, and clear refusals of what does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from samovar.errors import UnsupportedModel
from samovar.tensors.stored import AssembledTensor, StoredTensor
from tests.formats.quantised_folders import (
    N_IN,
    X,
    change_config,
    opened,
    refusal,
    values,
    weights,
    write,
)
from tests.formats.quantised_parts import METHODS, Method, awq, compressed_integers, fp8, gptq, words
from tests.packages import missing


@pytest.mark.parametrize("name", METHODS)
def test_weights_are_equal_to_the_bit_to_an_independent_dequantisation(name: str, tmp_path: Path) -> None:
    wanted = write(tmp_path, METHODS[name])
    checkpoint = opened(tmp_path)
    assert checkpoint.tensors.keys() == wanted.keys()
    assert [w for w in checkpoint.warnings if "take 4 bits" not in w] == []
    assert bool(checkpoint.warnings) == (name in ("gptq-2", "gptq-3"))
    for module in (X, "model.layers.0.mlp.down_proj"):
        assert np.array_equal(values(checkpoint, f"{module}.weight"), wanted[f"{module}.weight"].numpy())
    assert checkpoint.tensors["lm_head.weight"].type.name == "BF16"
    assert "quantization_config" not in checkpoint.config


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        (fp8((128, 128)), {"n_out": 200, "n_in": 320}),
        (fp8((128, 128)), {"n_out": 96, "n_in": 160}),
        (gptq(4, -1), {"n_out": 32, "n_in": 96}),
        (awq(96), {"n_out": 64, "n_in": 96}),
        (gptq(8, 192, desc_act=True), {"n_out": 160, "n_in": 384}),
        (compressed_integers(8, "channel", "int-quantized"), {"n_out": 1, "n_in": 64}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_awkward_sizes_keep_their_values_in_smaller_blocks(method: Method, sizes: dict[str, int], tmp_path: Path) -> None:
    wanted = write(tmp_path, method, **sizes)
    checkpoint = opened(tmp_path)
    tensor = checkpoint.tensors[f"{X}.weight"]
    assert tensor.type.name.split("_")[0] in ("U4", "U8", "E4M3")
    assert np.array_equal(values(checkpoint, f"{X}.weight"), wanted[f"{X}.weight"].numpy())


@pytest.mark.parametrize("method", [compressed_integers(8, "channel", "int-quantized"), fp8((128, 128)), awq(16)])
def test_what_no_block_divides_is_kept_in_float32_and_said(method: Method, tmp_path: Path) -> None:
    n_in = 48
    wanted = write(tmp_path, method, n_out=32, n_in=n_in)
    checkpoint = opened(tmp_path)
    assert checkpoint.tensors[f"{X}.weight"].type.name == "F32"
    assert np.array_equal(values(checkpoint, f"{X}.weight"), wanted[f"{X}.weight"].numpy())
    (warning,) = checkpoint.warnings
    assert "2 of 2 quantised weights" in warning
    assert "float32" in warning


def test_a_weight_is_made_when_it_is_asked_for_and_not_kept(tmp_path: Path) -> None:
    write(tmp_path, awq(128))
    tensor = opened(tmp_path).tensors[f"{X}.weight"]
    assert isinstance(tensor, AssembledTensor)
    first, second = tensor.stored(), tensor.stored()
    assert isinstance(first, StoredTensor)
    assert not np.shares_memory(first.data, second.data)
    assert first.size_bytes == tensor.size_bytes


PUBLISHED: dict[str, tuple[Method, dict[str, object]]] = {
    "Qwen3-8B-AWQ": (
        awq(128),
        {"backend": "autoawq", "do_fuse": False, "exllama_config": None, "fuse_max_seq_len": None, "modules_to_fuse": None,
         "modules_to_not_convert": None},
    ),
    "Qwen3-0.6B-GPTQ-Int8": (
        gptq(8, 128), {"hyb_act": False, "meta": {"quantizer": ["gptqmodel:4.0.0"], "damp_percent": 0.01, "mse": 0.0}}
    ),
    "Qwen3-30B-A3B-GPTQ-Int4": (gptq(4, 128), {"dynamic": {"-:.*mlp\\.gate$": {}}, "modules_in_block_to_quantize": None}),
    "Qwen3-8B-FP8": (fp8((128, 128)), {"modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"]}),
    "Qwen3-8B-quantized.w4a16": (
        compressed_integers(4, "group", "pack-quantized"),
        {"sparsity_config": {}, "transform_config": {}, "version": "0.10.3", "quantization_status": "frozen"},
    ),
    "Qwen2.5-7B-quantized.w8a8": (
        compressed_integers(8, "channel", "int-quantized"),
        {"sparsity_config": {"format": "dense", "global_sparsity": 0.1, "sparsity_structure": "unstructured"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_keys_of_published_configs_are_read(name: str, tmp_path: Path) -> None:
    method, changes = PUBLISHED[name]
    wanted = write(tmp_path, method)
    change_config(tmp_path, **changes)
    assert np.array_equal(values(opened(tmp_path), f"{X}.weight"), wanted[f"{X}.weight"].numpy())


def test_identity_depends_on_the_quantisation_config(tmp_path: Path) -> None:
    write(tmp_path, gptq(4, 32))
    first = opened(tmp_path).identity
    change_config(tmp_path, checkpoint_format="gptq_v2")
    assert opened(tmp_path).identity != first


def test_the_library_of_compressed_tensors_reads_the_same_values(tmp_path: Path) -> None:
    try:
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization import QuantizationScheme
    except ImportError as error:
        missing(f"compressed-tensors: {error}")
    for name, method in METHODS.items():
        if method.config["quant_method"] != "compressed-tensors":
            continue
        folder = tmp_path / name
        folder.mkdir()
        write(folder, method)
        scheme = QuantizationScheme.model_validate(method.config["config_groups"]["group_0"])
        stored = {k.removeprefix(f"{X}."): t for k, t in load_file(folder / "model.safetensors").items() if k.startswith(X)}
        # in float32, since the library would round the product to the type of the scales
        stored["weight_scale"] = stored["weight_scale"].float()
        theirs = BaseCompressor.get_value_from_registry(method.config["format"]).decompress(stored, scheme)["weight"]
        assert np.array_equal(values(opened(folder), f"{X}.weight"), theirs.float().numpy()), name


# ---- which scheme is whose


def mixed_config(**changes: object) -> dict[str, object]:
    packed = compressed_integers(4, "group", "pack-quantized").config["config_groups"]["group_0"]
    whole = compressed_integers(8, "channel", "int-quantized").config["config_groups"]["group_0"]
    groups = {
        "group_0": packed | {"targets": ["re:.*mlp.down_proj$"], "format": "pack-quantized"},
        "group_1": whole | {"targets": [X], "format": "int-quantized"},
    }
    return {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups} | changes


def test_each_module_has_the_scheme_that_names_it(tmp_path: Path) -> None:
    down = "model.layers.0.mlp.down_proj"
    all_weights, tensors = weights(), {}
    packed = compressed_integers(4, "group", "pack-quantized").quantise(all_weights[f"{down}.weight"])
    whole = compressed_integers(8, "channel", "int-quantized").quantise(all_weights[f"{X}.weight"])
    for module, parts in ((down, packed), (X, whole)):
        tensors |= {f"{module}.{suffix}": t for suffix, t in parts.tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"model_type": "qwen3", "quantization_config": mixed_config(ignore=["re:.*mlp.up$", "re:.*gate"])}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = opened(tmp_path)
    assert [checkpoint.tensors[f"{m}.weight"].type.name for m in (down, X)] == ["U4_G64", "U8_G128"]
    assert np.array_equal(values(checkpoint, f"{down}.weight"), packed.values.numpy())
    assert np.array_equal(values(checkpoint, f"{X}.weight"), whole.values.numpy())


def test_a_dynamically_ordered_weight_of_compressed_tensors_has_its_columns_by_group(tmp_path: Path) -> None:
    method = compressed_integers(4, "group", "pack-quantized")
    config = json.loads(json.dumps(method.config))
    config["config_groups"]["group_0"]["weights"]["actorder"] = "group"
    order = torch.randperm(N_IN, generator=torch.Generator().manual_seed(3))
    back = torch.argsort(order)
    w = weights()[f"{X}.weight"]
    made = method.quantise(w[:, order])  # groups are of inputs in this order, and columns in that of the inputs
    codes = torch.tensor(
        [[(int(word) >> 4 * i) & 15 for word in row for i in range(8)] for row in made.tensors["weight_packed"]]
    )
    parts = made.tensors | {"weight_packed": words(codes[:, back], 4), "weight_g_idx": (back // 64).to(torch.int32)}
    save_file({f"{X}.{k}": t.contiguous() for k, t in parts.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "quantization_config": config}))
    assert np.array_equal(values(opened(tmp_path), f"{X}.weight"), made.values[:, back].numpy())


def test_a_class_that_is_not_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path, compressed_integers(4, "group", "pack-quantized"))
    config = mixed_config()
    config["config_groups"]["group_1"]["targets"] = ["Embedding"]
    change_config(tmp_path, **config)
    assert "'Embedding'" in refusal(tmp_path, UnsupportedModel)
