"""Importance: what `transformers` sees come into its layers, and what files of llama.cpp say."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from samovar.convert.calibrate import WINDOW_TOKENS, calibrate
from samovar.convert.imatrix_file import read_imatrix
from samovar.convert.importance import Importance
from samovar.convert.quantise import quantise_model
from samovar.convert.type_mix import MIXES
from samovar.errors import BadRequest, FormatError
from samovar.kernels.native import native_ops
from samovar.llm import LLM
from samovar.models.gguf_config import gguf_tensor_name
from tests.models.tiny_checkpoints import MAX_CONTEXT, VARIANTS, random_model, write_folder

TEXT = "The water in the samovar is hot, and the tea that we pour for the others is hotter. 12 cousins sit around it. " * 6


def windows_of(folder: Path) -> list[list[int]]:
    ids = list(LLM(folder, cache=False).tokenizer.encode(TEXT))
    width = min(WINDOW_TOKENS, MAX_CONTEXT)
    return [ids[start : start + width] for start in range(0, len(ids), width)]


@pytest.mark.parametrize("name", ["llama-biased", "qwen3-tied-8-to-1"])
def test_importance_is_the_mean_square_of_what_comes_into_a_layer(name: str, tmp_path: Path) -> None:
    model = random_model(VARIANTS[name])
    folder = write_folder(model, tmp_path / "model")
    squares: dict[str, list[torch.Tensor]] = {}

    def watch(module_name: str):
        def hook(_module: object, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
            squares.setdefault(module_name, []).append(inputs[0].detach()[0].double() ** 2)

        return hook

    for module_name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(watch(module_name))
    for window in windows_of(folder):
        model(torch.tensor([window]))
    found = calibrate(folder, TEXT, native_ops(), origin="text").mean_squares
    assert len(found) == len(squares)
    for module_name, pieces in squares.items():
        expected_K = torch.cat(pieces).mean(0).numpy()
        if module_name == "lm_head":  # which is computed after one in four tokens
            assert found["token_embd.weight" if name.startswith("qwen3") else "output.weight"].shape == (1, 64)
            continue
        np.testing.assert_allclose(found[gguf_tensor_name(f"{module_name}.weight")][0], expected_K, rtol=2e-3)


@pytest.mark.parametrize("layout", ["each expert apart", "all in one"])
def test_each_expert_has_the_importance_of_its_own_tokens(layout: str, tmp_path: Path) -> None:
    model = random_model(VARIANTS["qwen3-moe"])
    folder = write_folder(model, tmp_path / "model", save_original_format=layout == "each expert apart")
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    mlp = model.model.layers[1].mlp

    def hook(_module: object, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        x_TD = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double().numpy()
        router = mlp.gate.weight.detach().double().numpy()
        seen.append((x_TD, np.argsort(-(x_TD @ router.T), axis=1)[:, :2]))

    mlp.register_forward_hook(hook)
    for window in windows_of(folder):
        model(torch.tensor([window]))
    x_TD, chosen_TC = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    found = calibrate(folder, TEXT, native_ops(), origin="text").mean_squares
    gate_up = mlp.experts.gate_up_proj.detach().double().numpy()
    for e in range(8):
        x_MD = x_TD[(chosen_TC == e).any(axis=1)]
        if not len(x_MD):
            assert not found["blk.1.ffn_gate_exps.weight"][e].any()
            continue
        gate, up = np.split(x_MD @ gate_up[e].T, 2, axis=1)
        middle = gate / (1 + np.exp(-gate)) * up
        np.testing.assert_allclose(found["blk.1.ffn_up_exps.weight"][e], (x_MD**2).mean(0), rtol=5e-3)
        np.testing.assert_allclose(found["blk.1.ffn_down_exps.weight"][e], (middle**2).mean(0), rtol=2e-2)


def test_a_calibrated_file_is_nearer_on_its_text_than_a_plain_one(tmp_path: Path) -> None:
    model = random_model(VARIANTS["qwen2-tied"])
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):  # few columns carry most
            parameter.data *= torch.exp(1.5 * torch.randn(parameter.shape, generator=generator))
    folder = write_folder(model, tmp_path / "model")
    importance = calibrate(folder, TEXT, native_ops(), origin="articles.txt")
    errors = []
    for weights, kind in ((None, "plain"), (importance, "weighted")):
        result = quantise_model(folder, tmp_path / f"{kind}.gguf", MIXES["q4_0"], native_ops(), importance=weights)
        assert all(tensor.error > 0 for tensor in result.tensors if tensor.type.name == "Q4_0")
        exact, found = (LLM(path, cache=False).logits(windows_of(folder)[0]) for path in (folder, tmp_path / f"{kind}.gguf"))
        errors.append(float(((found - exact) ** 2).mean()))
    assert errors[1] < 0.8 * errors[0]
    fields = gguf.GGUFReader(tmp_path / "weighted.gguf").fields
    assert fields["quantize.imatrix.dataset"].contents() == "articles.txt"
    assert fields["quantize.imatrix.entries_count"].contents() == 15


def test_a_text_that_is_too_short_is_refused(tmp_path: Path) -> None:
    folder = write_folder(random_model(VARIANTS["qwen2-tied"]), tmp_path / "model")
    with pytest.raises(BadRequest, match=r"short\.txt: a text of \d+ tokens"):
        calibrate(folder, "Tea.", native_ops(), origin="short.txt")


def write_imatrix(path: Path, sums: dict[str, np.ndarray], counts: dict[str, np.ndarray]) -> Path:
    """As `llama-imatrix` does."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_string("general.type", "imatrix")
    for name, sums_EK in sums.items():
        writer.add_tensor(f"{name}.in_sum2", sums_EK.astype(np.float32))
        writer.add_tensor(f"{name}.counts", counts[name].astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_files_of_llama_imatrix_are_read_in_both_forms(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    dense, stacked = rng.uniform(1, 9, (1, 8)), rng.uniform(1, 9, (3, 8))
    counts = {"a.weight": np.full((1, 1), 10.0), "b.weight": np.array([[5.0], [0.0], [2.0]])}
    found = read_imatrix(write_imatrix(tmp_path / "i.gguf", {"a.weight": dense, "b.weight": stacked}, counts))
    np.testing.assert_allclose(found.mean_squares["a.weight"], dense / 10, rtol=1e-6)
    np.testing.assert_allclose(found.mean_squares["b.weight"][[0, 2]], stacked[[0, 2]] / [[5], [2]], rtol=1e-6)
    even_EK = found.of("b.weight", (3, 16, 8))
    assert even_EK is not None
    np.testing.assert_array_equal(even_EK[1], np.ones(8))  # an expert that no token chose
    np.testing.assert_allclose(even_EK.mean(axis=1), 1, rtol=1e-3)
    body = struct.pack("<i", 1) + struct.pack("<i", 8) + b"b.weight" + struct.pack("<ii", 4, 24)
    (tmp_path / "i.dat").write_bytes(body + (4 * stacked).astype("<f4").tobytes())
    of_dat = read_imatrix(tmp_path / "i.dat").of("b.weight", (3, 16, 8))
    assert of_dat is not None
    np.testing.assert_allclose(of_dat, stacked / stacked.mean(axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GG", "cut short"),
        (struct.pack("<i", -1), "no importance matrix"),
        (struct.pack("<iii", 1, 1 << 30, 0), "no importance matrix"),
        (struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 9), "no importance matrix|cut short"),
    ],
)
def test_damaged_importance_files_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "i.dat").write_bytes(content)
    with pytest.raises(FormatError, match=words):
        read_imatrix(tmp_path / "i.dat")


def test_importance_of_another_model_or_of_no_numbers_is_refused() -> None:
    importance = Importance(
        mean_squares={"a": np.ones((1, 8), np.float32), "b": np.full((1, 8), np.nan, np.float32)}, origin="i.gguf"
    )
    with pytest.raises(FormatError, match="made for another model"):
        importance.of("a", (4, 16))
    with pytest.raises(FormatError, match="negative number or none"):
        importance.of("b", (4, 8))
    assert importance.of("c", (4, 8)) is None
