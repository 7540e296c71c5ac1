"""How much int4 loses beside Q4_0: on drawn weights, and as probabilities of a real model.

    python -m benchmarks.int4_quality [--model qwen2.5-coder:1.5b] [--windows 3] [--threads 1] [--skip-model]

Q4_0 is `gguf`'s, which rounds as llama.cpp does; int4 is `samovar.kernels.int4`. Drawn weights: the squared error of 512 rows
over the sum of squares, plain, and with each term times |w|.

Real model: all linear layers but the output head are requantised from the exact model (`benchmarks.exact_model`) and computed
in float32, so that nothing but the weights differs. Text and positions are those of `benchmarks.quality`, its first windows.
The source is itself quantised, in groups of 32 or 16 values of a row, and a grid of 16 or 64 steps is easier to hit than
weights between them. So everything is measured twice: with columns as they are stored, and with the columns of each matrix
shuffled before they are quantised (and put back after), which takes the groups apart. The second is nearer to what weights
that were never quantised would give.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from transformers import PreTrainedModel

from benchmarks.exact_model import exact_logits, load_exact_model
from benchmarks.machine import describe_machine
from benchmarks.quality import N_WINDOWS, SCORED_TOKENS, WINDOW_TOKENS, Scores, cut_into_windows, ratio_interval
from samovar.formats.gguf import read_gguf
from samovar.formats.hub import default_store, resolve
from samovar.kernels.int4 import dequantise_int4, quantise_int4
from samovar.text.tokenizer import Tokenizer

F32 = NDArray[np.float32]
Requantise = Callable[[F32], F32]

Q4_0 = gguf.GGMLQuantizationType.Q4_0
N_ROWS = 512
WIDTHS = (1024, 2048, 4096)


def _q4_0(w_NK: F32) -> F32:
    return dequantize(quantize(w_NK, Q4_0), Q4_0)


def _int4(w_NK: F32) -> F32:
    return dequantise_int4(quantise_int4(w_NK))


FORMATS: dict[str, Requantise] = {"Q4_0": _q4_0, "int4": _int4}
BITS = {"Q4_0": 4.5, "int4": 4.25}


def _gaussian_with_outliers(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return rng.normal(size=shape) * np.where(rng.random(shape) < 0.001, 10, 1)


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]] = {
    "Student t, 4 degrees": lambda rng, shape: rng.standard_t(4, shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "Gaussian": lambda rng, shape: rng.normal(size=shape),
    "Gaussian, 0.1 % ten times as large": _gaussian_with_outliers,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Log-probabilities after some tokens of a window, and the tokens that follow: one fewer at the window's end."""

    log_p_TV: torch.Tensor
    next_T: torch.Tensor


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder:1.5b", help="a catalogue name or a GGUF file (llama or qwen2)")
    parser.add_argument("--windows", type=int, default=3, choices=range(1, N_WINDOWS + 1), help="windows of 500 positions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip-model", action="store_true", help="drawn weights only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{describe_machine()}\ncommand: python -m benchmarks.int4_quality {' '.join(sys.argv[1:])}\n")
    print_drawn()
    if not args.skip_model:
        print_model(args.model, args.windows)
    return 0


def print_drawn() -> None:
    """The table of drawn weights: int4's error as a share of Q4_0's."""
    print("| weights | width | Q4_0 | int4 | ratio | ratio, weighted by magnitude |\n|---|---|---|---|---|---|")
    for name, draw in DISTRIBUTIONS.items():
        for width in WIDTHS:
            w_NK = draw(np.random.default_rng(width), (N_ROWS, width)).astype(np.float32)
            found = {which: requantise(w_NK) for which, requantise in FORMATS.items()}
            plain = {which: relative_error(w_NK, values, 0) for which, values in found.items()}
            weighted = {which: relative_error(w_NK, values, 1) for which, values in found.items()}
            print(
                f"| {name} | {width} | {plain['Q4_0']:.5f} | {plain['int4']:.5f} | {plain['int4'] / plain['Q4_0']:.3f} "
                f"| {weighted['int4'] / weighted['Q4_0']:.3f} |"
            )


def relative_error(w_NK: F32, found_NK: F32, power: int) -> float:
    """Sum of |w|^power * error^2 over that of |w|^power * w^2."""
    exact = w_NK.astype(np.float64)
    weight = np.abs(exact) ** power
    return float((weight * (exact - found_NK) ** 2).sum() / (weight * exact**2).sum())


def print_model(name: str, n_windows: int) -> None:
    """The table of a real model: divergence from it, and perplexity, with its layers requantised."""
    path = resolve(name, default_store())
    tokenizer = Tokenizer.from_gguf(read_gguf(path).metadata, origin=str(path))
    windows = cut_into_windows(lambda text: list(tokenizer.encode(text)))[:n_windows]
    model = load_exact_model(path)
    exact = list(positions(model, windows))
    print(f"\n{path.name}: {n_windows * SCORED_TOKENS} positions; requantised from the types of its tensors: {types_of(path)}")
    print("| columns | weights | bits | error | mean KL | same first token | perplexity |\n|---|---|---|---|---|---|---|")
    print(f"| | exact | | | | | {perplexity(exact):.3f} |", flush=True)
    for columns in ("as stored", "shuffled"):
        scores: dict[str, Scores] = {}
        for which, requantise in FORMATS.items():
            with Requantised(model, requantise if columns == "as stored" else shuffled(requantise)) as requantised:
                found = list(positions(model, windows))
            scores[which] = compare(exact, found)
            print(
                f"| {columns} | {which} | {BITS[which]} | {requantised.error:.5f} | {scores[which].mean_kl:.5f} "
                f"| {scores[which].top_1:.2f} % | {perplexity(found):.3f} |",
                flush=True,
            )
        low, high = ratio_interval(scores["int4"].kl_N, scores["Q4_0"].kl_N)
        ratio = scores["int4"].mean_kl / scores["Q4_0"].mean_kl
        print(f"| {columns} | int4 to Q4_0 | | | {ratio:.3f} (95 % from {low:.3f} to {high:.3f}) | | |", flush=True)


def types_of(path: Path) -> str:
    """The storage types of the matrices of layers, and how many there are of each."""
    names = [t.tensor_type.name for t in gguf.GGUFReader(path).tensors if t.name.startswith("blk.") and len(t.shape) > 1]
    return ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names)))


class Requantised:
    """While entered, the layers' matrices of a model are what a format makes of them. `error` is their mean relative error."""

    def __init__(self, model: PreTrainedModel, requantise: Requantise) -> None:
        self._layers = [m for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
        self._requantise = requantise
        self._kept: list[torch.Tensor] = []
        self.error = 0.0

    def __enter__(self) -> "Requantised":
        for layer in self._layers:
            exact = layer.weight.data
            found = torch.from_numpy(self._requantise(exact.numpy()))
            self.error += float((found - exact).square().sum() / exact.square().sum()) / len(self._layers)
            self._kept.append(exact)
            layer.weight.data = found
        return self

    def __exit__(self, *_: object) -> None:
        for layer, exact in zip(self._layers, self._kept, strict=True):
            layer.weight.data = exact


def shuffled(requantise: Requantise) -> Requantise:
    """The same on columns in another order, which is put right again."""

    def apply(w_NK: F32) -> F32:
        order = np.random.default_rng(0).permutation(w_NK.shape[1])
        found = np.empty_like(w_NK)
        found[:, order] = requantise(np.ascontiguousarray(w_NK[:, order]))
        return found

    return apply


def positions(model: PreTrainedModel, windows: NDArray[np.int32]) -> Iterator[Piece]:
    """The scored positions of all windows, in pieces."""
    for window in windows:
        ids = torch.from_numpy(window.astype(np.int64))
        start = 0
        for logits_TV in exact_logits(model, ids.tolist()):
            skip = max(0, WINDOW_TOKENS - SCORED_TOKENS - start)
            stop = start + len(logits_TV)
            if skip < len(logits_TV):
                yield Piece(log_p_TV=logits_TV[skip:].log_softmax(dim=1), next_T=ids[start + skip + 1 : stop + 1])
            start = stop


def compare(exact: list[Piece], found: list[Piece]) -> Scores:
    """Divergences of what was found from the exact model."""
    kl, agrees = [], []
    for ours, theirs in zip(exact, found, strict=True):
        kl.append((ours.log_p_TV.exp() * (ours.log_p_TV - theirs.log_p_TV)).sum(dim=1))
        agrees.append(ours.log_p_TV.argmax(dim=1) == theirs.log_p_TV.argmax(dim=1))
    return Scores(kl_N=torch.cat(kl).numpy(), agrees_N=torch.cat(agrees).numpy())


def perplexity(found: list[Piece]) -> float:
    """exp of the mean of -log p of the tokens that follow."""
    log_p = [p.log_p_TV[: len(p.next_T)].gather(1, p.next_T[:, None])[:, 0] for p in found]
    return float(torch.cat(log_p).to(torch.float64).mean().neg().exp())


if __name__ == "__main__":
    sys.exit(main())
