"""Quantised folders that are damaged, contradict their config, or are quantised in ways that are not read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from samovar.errors import FormatError, SamovarError, UnsupportedModel
from tests.formats.quantised_folders import (
    N_IN,
    N_OUT,
    X,
    change_config,
    change_tensor,
    refusal,
    write,
)
from tests.formats.quantised_parts import Method, awq, compressed_integers, fp8, gptq

PACKED = compressed_integers(4, "group", "pack-quantized", symmetric=False)


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
        (awq(32), {"modules_to_not_convert": [X.rpartition(".")[2]]}, FormatError, "listed as not quantised"),
        (gptq(4, 32), {"bits": 8}, FormatError, "qzeros"),
        (gptq(4, 32), {"bits": None}, FormatError, "bits is 'None'"),
        (gptq(4, 32), {"dynamic": {f"-:.*{X.rpartition('.')[2]}": {}}}, FormatError, "dynamic leaves"),
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
        (PACKED, {"sparsity_config": {"format": "sparse-24-bitmask"}}, UnsupportedModel, "sparse-24"),
        (PACKED, {"transform_config": {"config_groups": {"u": {}}}}, UnsupportedModel, "transform_config"),
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
