"""Weights quantised as AWQ, GPTQ, FP8 and compressed-tensors folders hold them, and the values they stand for.

Written from the formats' public descriptions, number by number where bits are packed, and with nothing of the code under test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

AWQ_SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)  # of the columns 0 to 7 of a word


@dataclass(frozen=True)
class Parts:
    """The tensors of one module by suffix, and its dequantised weight [N, K] in float32."""

    tensors: dict[str, torch.Tensor]
    values: torch.Tensor


Quantise = Callable[[torch.Tensor], Parts]


@dataclass(frozen=True)
class Method:
    """A way of quantising, and the `quantization_config` of a folder whose modules are quantised so."""

    quantise: Quantise
    config: dict[str, object]


def words(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """[M, K] to int32 [M, ceil(K bits / 32)]: packed low bits first, without gaps."""
    out = np.zeros((numbers.shape[0], -(-numbers.shape[1] * bits // 32) + 1), np.uint64)
    for k in range(numbers.shape[1]):
        word, shift = divmod(k * bits, 32)
        value = numbers[:, k].numpy().astype(np.uint64) << np.uint64(shift)
        out[:, word] |= value & np.uint64(0xFFFFFFFF)
        out[:, word + 1] |= value >> np.uint64(32)
    return torch.from_numpy(out[:, :-1].astype(np.uint32).view(np.int32).copy())


def integers(w: torch.Tensor, group: int, bits: int, symmetric: bool, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """(codes [N, K], scales [N, G], zero points [N, G], values [N, K]) of unsigned codes."""
    grouped = w.reshape(len(w), -1, group)
    top = (1 << bits) - 1
    if symmetric:
        scale = (grouped.abs().amax(-1) / (top // 2)).to(dtype)
        zero = torch.full(scale.shape, 1 << (bits - 1))
    else:
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scale = ((high - low) / top).to(dtype)
        zero = (-low / scale.float()).round().clamp(1, top).to(torch.int64)
    steps = (grouped / scale.float()[..., None]).round()
    codes = (steps + zero[..., None]).clamp(0, top).to(torch.int64)
    values = ((codes - zero[..., None]).float() * scale.float()[..., None]).reshape(w.shape)
    return codes.reshape(w.shape), scale, zero, values


def awq(group_size: int) -> Method:
    def pack(codes_KN: torch.Tensor) -> torch.Tensor:
        out = np.zeros((codes_KN.shape[0], codes_KN.shape[1] // 8), np.uint32)
        for column in range(codes_KN.shape[1]):
            out[:, column // 8] |= codes_KN[:, column].numpy().astype(np.uint32) << np.uint32(AWQ_SHIFTS[column % 8])
        return torch.from_numpy(out.view(np.int32))

    def quantise(w: torch.Tensor) -> Parts:
        group = w.shape[1] if group_size == -1 else group_size
        codes, scale, zero, values = integers(w, group, 4, False, torch.float16)
        parts = {"qweight": pack(codes.T), "qzeros": pack(zero.T), "scales": scale.T.contiguous()}
        return Parts(parts, values)

    config = {"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True, "version": "gemm"}
    return Method(quantise, config | {"modules_to_not_convert": ["lm_head"]})


def gptq(bits: int, group_size: int, *, sym: bool = True, desc_act: bool = False, v2: bool = False) -> Method:
    def quantise(w: torch.Tensor) -> Parts:
        n_in = w.shape[1]
        group = n_in if group_size == -1 else group_size
        seed = int(w.abs().sum() * 1000)  # an order for each weight
        order = torch.randperm(n_in, generator=torch.Generator().manual_seed(seed)) if desc_act else torch.arange(n_in)
        codes, scale, zero, values = integers(w[:, order], group, bits, sym, torch.float16)
        back = torch.argsort(order)
        stored_zero = zero if v2 else zero - 1
        parts = {
            "qweight": words(codes[:, back], bits).T.contiguous(),
            "qzeros": words(stored_zero.T, bits),
            "scales": scale.T.contiguous(),
            "g_idx": (back // group).to(torch.int32),
        }
        return Parts(parts, values[:, back])

    config = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": sym, "desc_act": desc_act}
    more = {
        "checkpoint_format": "gptq_v2" if v2 else "gptq",
        "pack_dtype": "int32",
        "static_groups": False,
        "damp_percent": 0.01,
    }
    return Method(quantise, config | more | {"lm_head": False, "true_sequential": True, "meta": {"quantizer": ["x:1"]}})


def fp8(block: tuple[int, int] | None, *, fmt: str = "e4m3", per_channel: bool = False) -> Method:
    dtype = torch.float8_e4m3fn if fmt == "e4m3" else torch.float8_e5m2

    def quantise(w: torch.Tensor) -> Parts:
        rows, columns = block or ((1, w.shape[1]) if per_channel else w.shape)
        codes, scale, values = floats(w, rows, columns, dtype)
        name = "weight_scale_inv" if block else "weight_scale"
        scale = scale if block or per_channel else scale.reshape(())
        extra = {} if block else {"input_scale": torch.tensor(0.5)}
        return Parts({"weight": codes, name: scale, **extra}, values)

    config: dict[str, object] = {"quant_method": "fp8", "fmt": fmt, "activation_scheme": "dynamic" if block else "static"}
    if block:
        config["weight_block_size"] = list(block)
    return Method(quantise, config | {"modules_to_not_convert": ["lm_head"]})


def floats(w: torch.Tensor, rows: int, columns: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(8-bit floats [N, K], scales of blocks, values)."""
    blocks = (-(-w.shape[0] // rows), -(-w.shape[1] // columns))
    scale, values, codes = torch.empty(blocks), torch.empty(w.shape), torch.empty(w.shape, dtype=dtype)
    for i in range(blocks[0]):
        for j in range(blocks[1]):
            at = slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns)
            scale[i, j] = w[at].abs().max() / torch.finfo(dtype).max
            codes[at] = (w[at] / scale[i, j]).to(dtype)
            values[at] = codes[at].float() * scale[i, j]
    return codes, scale, values


def compressed_integers(bits: int, strategy: str, fmt: str, *, symmetric: bool = True, group_size: int = 64) -> Method:
    middle = 1 << (bits - 1)

    def quantise(w: torch.Tensor) -> Parts:
        group = {"tensor": w.numel(), "channel": w.shape[1], "group": group_size}[strategy]
        shaped = w.reshape(1, -1) if strategy == "tensor" else w
        codes, scale, zero, values = (
            t.reshape(-1, t.shape[-1]) for t in integers(shaped, group, bits, symmetric, torch.bfloat16)
        )
        codes, values = codes.reshape(w.shape), values.reshape(w.shape)
        scale, zero = (scale.reshape(1), zero.reshape(1)) if strategy == "tensor" else (scale, zero)
        parts = {"weight_scale": scale}
        if fmt == "pack-quantized":
            parts |= {"weight_packed": words(codes, bits), "weight_shape": torch.tensor(w.shape)}
            if not symmetric:
                parts["weight_zero_point"] = words(zero.T, bits).T.contiguous()
        else:
            parts["weight"] = (codes - middle).to(torch.int8)
            if not symmetric:
                parts["weight_zero_point"] = (zero - middle).to(torch.int8)
        return Parts(parts, values)

    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy}
    return Method(quantise, compressed_config(fmt, weights | {"group_size": group_size if strategy == "group" else None}))


def compressed_floats(strategy: str, block: tuple[int, int] = (64, 64)) -> Method:
    def quantise(w: torch.Tensor) -> Parts:
        rows, columns = {"tensor": tuple(w.shape), "channel": (1, w.shape[1]), "block": block}[strategy]
        codes, scale, values = floats(w, rows, columns, torch.float8_e4m3fn)
        return Parts({"weight": codes, "weight_scale": scale.reshape(1) if strategy == "tensor" else scale}, values)

    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, "group_size": None}
    if strategy == "block":
        weights["block_structure"] = list(block)
    return Method(quantise, compressed_config("float-quantized", weights))


def compressed_config(fmt: str, weights: dict[str, object]) -> dict[str, object]:
    """As the library writes it."""
    more = {"dynamic": False, "observer": "minmax", "observer_kwargs": {}, "actorder": None}
    scheme = {"targets": ["Linear"], "weights": more | weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": fmt,
        "config_groups": {"group_0": scheme},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
        "global_compression_ratio": 1.5,
    }


METHODS: dict[str, Method] = {
    "awq-g32": awq(32),
    "awq-g64": awq(64),
    "awq-g128": awq(128),
    "awq-row": awq(-1),
    "gptq-4": gptq(4, 128),
    "gptq-4-asym-v2": gptq(4, 32, sym=False, v2=True),
    "gptq-4-ordered": gptq(4, 32, sym=False, desc_act=True),
    "gptq-8": gptq(8, 128),
    "gptq-8-asym-ordered": gptq(8, 64, sym=False, desc_act=True),
    "gptq-4-row": gptq(4, -1),
    "gptq-2": gptq(2, 32, sym=False),
    "gptq-3": gptq(3, 32, sym=False),
    "fp8-blocks": fp8((128, 128)),
    "fp8-small-blocks": fp8((32, 64)),
    "fp8-tensor": fp8(None),
    "fp8-channel": fp8(None, per_channel=True),
    "fp8-e5m2": fp8((128, 128), fmt="e5m2"),
    "packed-4-group": compressed_integers(4, "group", "pack-quantized"),
    "packed-4-group-asym": compressed_integers(4, "group", "pack-quantized", symmetric=False),
    "packed-8-channel": compressed_integers(8, "channel", "pack-quantized"),
    "int-8-channel": compressed_integers(8, "channel", "int-quantized"),
    "int-8-tensor-asym": compressed_integers(8, "tensor", "int-quantized", symmetric=False),
    "int-4-group": compressed_integers(4, "group", "naive-quantized"),
    "float-channel": compressed_floats("channel"),
    "float-tensor": compressed_floats("tensor"),
    "float-block": compressed_floats("block"),
}


def write_quantised(folder: Path, weights: dict[str, torch.Tensor], method: Method) -> dict[str, torch.Tensor]:
    """Write model.safetensors with each weight of a `_proj`, or of several in one, quantised; returns the values that all stand
    for in float32."""
    tensors, values = {}, {}
    for name, weight in weights.items():
        if not name.endswith(("_proj.weight", "in_proj_qkvz.weight")):
            tensors[name] = weight
            values[name] = weight.float()
            continue
        parts = method.quantise(weight.float())
        values[name] = parts.values
        tensors |= {f"{name.removesuffix('weight')}{suffix}": t.contiguous() for suffix, t in parts.tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    return values
