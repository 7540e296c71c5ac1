"""Quantised folders: values equal to the bit to an independent dequantisation, and clear refusals of what does not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from samovar.errors import FormatError, SamovarError, UnsupportedModel
from samovar.formats import open_checkpoint
from samovar.formats.hf_folder import HfCheckpoint
from samovar.kernels.dequantise import dequantise_matrix
from samovar.tensors.stored import AssembledTensor, StoredTensor
from tests.formats.quantised_parts import METHODS, Method, awq, compressed_integers, fp8, gptq, words, write_quantised
from tests.packages import missing

X = "model.layers.0.mlp.up_proj"
N_OUT, N_IN = 96, 256


def weights(n_out: int = N_OUT, n_in: int = N_IN) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(n_out)
    return {
        f"{X}.weight": torch.randn(n_out, n_in, generator=generator) / 16,
        "model.layers.0.mlp.down_proj.weight": torch.randn(64, n_in, generator=generator) / 16,
        "model.norm.weight": torch.ones(n_out),
        "lm_head.weight": torch.randn(8, n_out, generator=generator).to(torch.bfloat16),
    }


def write(folder: Path, method: Method, **sizes: int) -> dict[str, torch.Tensor]:
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "quantization_config": method.config}))
    return write_quantised(folder, weights(**sizes), method)


def opened(folder: Path) -> HfCheckpoint:
    checkpoint = open_checkpoint(folder)
    assert isinstance(checkpoint, HfCheckpoint)
    return checkpoint


def values(checkpoint: HfCheckpoint, name: str) -> np.ndarray:
    tensor = checkpoint.tensors[name].stored()
    return dequantise_matrix(tensor)


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


# ---- refusals


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= changes
    path.write_text(json.dumps(config))


def change_tensor(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed.contiguous()
    save_file(tensors, folder / "model.safetensors")


def refusal(folder: Path, error: type[SamovarError]) -> str:
    """What is said when all weights are made."""
    with pytest.raises(error) as caught:
        [tensor.stored() for tensor in opened(folder).tensors.values()]
    said = str(caught.value)
    assert str(folder) in said
    return said


@pytest.mark.parametrize(
    ("method", "changes", "error", "words"),
    [
        (awq(32), {"quant_method": "exl2"}, UnsupportedModel, "'exl2'"),
        (awq(32), {"quant_method": None}, UnsupportedModel, "readable: awq, compressed-tensors, fp8, gptq"),
        (awq(32), {"quant_method": ["awq"]}, UnsupportedModel, "['awq']"),
        (awq(32), {"bits": 3}, UnsupportedModel, "bits is '3'"),
        (awq(32), {"version": "gemv"}, UnsupportedModel, "version is 'gemv'"),
        (awq(32), {"zero_point": False}, UnsupportedModel, "zero_point"),
        (awq(32), {"group_size": 48}, FormatError, "groups of 48 do not divide the 256 inputs"),
        (awq(32), {"group_size": 0}, FormatError, "groups of 0"),
        (awq(32), {"group_size": "32"}, FormatError, "group_size is '32'"),
        (awq(32), {"group_size": 64}, FormatError, "qzeros"),
        (awq(32), {"modules_to_not_convert": [X]}, FormatError, "listed as not quantised"),
        (awq(32), {"smooth": True}, UnsupportedModel, "smooth"),
        (gptq(4, 32), {"bits": 5}, UnsupportedModel, "bits is '5'"),
        (gptq(4, 32), {"bits": True}, UnsupportedModel, "bits is 'True'"),
        (gptq(4, 32), {"bits": 8}, FormatError, "qzeros"),
        (gptq(4, 32), {"checkpoint_format": "marlin"}, UnsupportedModel, "'marlin'"),
        (gptq(4, 32), {"pack_dtype": "int8"}, UnsupportedModel, "pack_dtype"),
        (gptq(4, 32), {"dynamic": {"+:.*up.*": {"bits": 8}}}, UnsupportedModel, "dynamic"),
        (gptq(4, 32, desc_act=True), {"desc_act": False}, FormatError, "g_idx"),
        (gptq(4, 32), {"desc_act": 1}, FormatError, "desc_act is '1'"),
        (fp8((128, 128)), {"fmt": "e5m2"}, FormatError, "F8_E4M3"),
        (fp8((128, 128)), {"weight_block_size": [128]}, FormatError, "weight_block_size"),
        (fp8((128, 128)), {"weight_block_size": [0, 128]}, FormatError, "weight_block_size"),
        (fp8((128, 128)), {"weight_block_size": [64, 64]}, FormatError, "weight_scale_inv"),
        (fp8((128, 128)), {"activation_scheme": "sometimes"}, UnsupportedModel, "activation_scheme"),
        (fp8((128, 128)), {"quant_method": "awq", "bits": 4}, UnsupportedModel, "activation_scheme"),
        (compressed_integers(4, "group", "pack-quantized"), {"format": "nvfp4-pack-quantized"}, UnsupportedModel, "nvfp4"),
        (compressed_integers(4, "group", "pack-quantized"), {"kv_cache_scheme": {"num_bits": 8}}, UnsupportedModel, "kv_cache"),
        (compressed_integers(4, "group", "pack-quantized"), {"config_groups": {}}, FormatError, "no group of config_groups"),
        (compressed_integers(4, "group", "pack-quantized"), {"config_groups": None}, FormatError, "config_groups"),
        (compressed_integers(4, "group", "pack-quantized"), {"config_groups": {"W4A16": ["Linear"]}}, FormatError, "W4A16"),
        (compressed_integers(4, "group", "pack-quantized"), {"ignore": ["re:.*up_proj"]}, FormatError, "ignore"),
        (compressed_integers(4, "group", "pack-quantized"), {"ignore": ["re:("]}, FormatError, "pattern"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_config_that_is_not_read_is_refused_by_name(
    method: Method, changes: dict[str, object], error: type[SamovarError], words: str, tmp_path: Path
) -> None:
    write(tmp_path, method)
    change_config(tmp_path, **changes)
    assert words in refusal(tmp_path, error)


def spoil(index: tuple[int, ...], value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[index] = value
        return tensor

    return change


def nan_code(tensor: torch.Tensor) -> torch.Tensor:
    bytes_ = tensor.view(torch.uint8).clone()
    bytes_[3, 5] = 0xFF
    return bytes_.view(tensor.dtype)


PACKED = compressed_integers(4, "group", "pack-quantized", symmetric=False)


@pytest.mark.parametrize(
    ("method", "part", "change", "words"),
    [
        (awq(32), "qzeros", lambda t: None, "is missing"),
        (awq(32), "scales", lambda t: None, "is missing"),
        (awq(32), "scales", lambda t: t[:-1], "has type F16 and shape [7, 96]"),
        (awq(32), "scales", lambda t: t.to(torch.int32), "has type I32"),
        (awq(32), "scales", spoil((3, 40), float("nan")), "infinity or no number as a scale"),
        (awq(32), "scales", spoil((7, 95), float("inf")), "infinity or no number as a scale"),
        (awq(32), "qweight", lambda t: t[:-1], "do not divide"),
        (awq(32), "qweight", lambda t: t.to(torch.float32), "has type F32"),
        (awq(32), "qweight", lambda t: t[0], "shape [12]"),
        (gptq(4, 32), "qzeros", lambda t: None, "is missing"),
        (gptq(4, 32, desc_act=True), "g_idx", lambda t: None, "is missing"),
        (gptq(4, 32, desc_act=True), "g_idx", spoil((9,), 8), "names group 8; there are 8"),
        (gptq(4, 32, desc_act=True), "g_idx", spoil((9,), -1), "names group -1"),
        (gptq(4, 32, desc_act=True), "g_idx", lambda t: torch.zeros_like(t), "puts 256 inputs into group 0"),
        (gptq(4, 32, desc_act=True), "g_idx", lambda t: t[:-1], "shape [255]"),
        (gptq(3, 32), "qweight", lambda t: t[:-1], "holds no whole rows"),
        (fp8((128, 128)), "weight_scale_inv", lambda t: None, "is missing"),
        (fp8((128, 128)), "weight_scale_inv", spoil((0, 1), float("inf")), "as a scale"),
        (fp8((128, 128)), "weight", nan_code, "infinity or no number"),
        (fp8((128, 128), fmt="e5m2"), "weight", nan_code, "infinity or no number"),
        (fp8(None), "weight_scale", lambda t: torch.ones(5, 1), "weight_scale"),
        (PACKED, "weight_shape", lambda t: torch.tensor([96, 512]), "weight_shape"),
        (PACKED, "weight_shape", lambda t: torch.tensor([-96, -256]), "weight_shape"),
        (PACKED, "weight_shape", lambda t: None, "is missing"),
        (PACKED, "weight_zero_point", lambda t: None, "is missing"),
        (PACKED, "weight_scale", lambda t: t[:, :-1], "weight_scale"),
        (PACKED, "weight_scale", spoil((0, 0), float("-inf")), "as a scale"),
        (PACKED, "weight_packed", lambda t: None, "is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_part_is_named(
    method: Method, part: str, change: Callable[[torch.Tensor], torch.Tensor | None], words: str, tmp_path: Path
) -> None:
    write(tmp_path, method)
    change_tensor(tmp_path, f"{X}.{part}", change)
    said = refusal(tmp_path, FormatError)
    assert words in said
    assert X in said


def test_a_weight_that_is_quantised_and_plain_at_once_is_refused(tmp_path: Path) -> None:
    write(tmp_path, awq(32))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {f"{X}.weight": torch.ones(N_OUT, N_IN)}, tmp_path / "model.safetensors")
    assert "is there twice" in refusal(tmp_path, FormatError)


def test_a_part_that_belongs_to_no_weight_is_refused(tmp_path: Path) -> None:
    write(tmp_path, awq(32))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {f"{X}.g_idx": torch.ones(N_IN, dtype=torch.int32)}, tmp_path / "model.safetensors")
    assert "g_idx" in refusal(tmp_path, FormatError)


def test_a_folder_without_any_quantised_weight_contradicts_its_config(tmp_path: Path) -> None:
    write(tmp_path, awq(32))
    save_file({"model.norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    assert "no tensor is quantised" in refusal(tmp_path, FormatError)


def test_parts_are_not_read_where_no_config_tells_of_them(tmp_path: Path) -> None:
    write(tmp_path, awq(32))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    assert "has type I32, which is not read" in refusal(tmp_path, UnsupportedModel)


def test_two_configs_at_once_are_refused(tmp_path: Path) -> None:
    write(tmp_path, awq(32))
    config = {"model_type": "qwen3", "quantization_config": {"quant_method": "awq"}, "compression_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "compression_config" in refusal(tmp_path, FormatError)


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
