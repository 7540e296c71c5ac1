"""How much our quantisers lose, beside llama.cpp's at the same types.

Three tables, each a ratio of ours to theirs, without and with an importance of columns:
- synthetic weights: Student's t with 4 degrees of freedom, rows and columns scaled by log-normal factors; ratio of the root
  mean square error, weighted by the importance where there is one;
- the tensors of real models, the same. All real weights at hand are quantised already, so each is taken to other types only;
- whole models: ratio of the mean KL divergence from the source, dequantised exactly, over the text of `benchmarks.quality`,
  with a 95 % interval. Both have the same types tensor by tensor, those of the mix, or with `--pure` the plain type wherever it
  suits, and are computed in float32 (`benchmarks.changed_models`), so that nothing but the quantisers differs.

The importance is of `LICENSE`, with which that text ends.
"""

import argparse
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.changed_models import divergences, hidden_states
from benchmarks.exact_model import ExactFile
from benchmarks.ggml_quantiser import ggml_quantise
from benchmarks.quality import N_WINDOWS, ROOT, StoredScores, ratio_interval
from samovar.convert.calibrate import calibrate
from samovar.convert.importance import Importance
from samovar.convert.source import read_source
from samovar.convert.type_mix import MIXES, Mix, TypeRules
from samovar.formats import open_checkpoint
from samovar.formats.hub import default_store, resolve
from samovar.kernels.dequantise import dequantise
from samovar.kernels.native import NativeOps, native_ops
from samovar.kernels.quantise import QUANTISED_TYPES
from samovar.tensors.dtypes import TensorType
from samovar.tensors.stored import StoredTensor

F32, F64 = NDArray[np.float32], NDArray[np.float64]
Quantiser = Callable[[TensorType, F32, F32 | None], NDArray[np.uint8]]
"""Rows [N, K] and an importance [K] to blocks [N, row bytes]."""

MODELS = ("smollm2:135m", "qwen2.5-coder:0.5b")
TABLES = ("synthetic", "errors", "divergence")
KINDS = ("plain", "importance")
STORED_WINDOWS = {"qwen2.5-coder:1.5b": "qwen2.5-coder:0.5b"}  # the same tokenizer
MOST_ROWS = 128  # of a real tensor, for errors


def ours(ops: NativeOps) -> Quantiser:
    """Samovar's."""
    return lambda type_, x_NK, w_K: ops.quantise(type_, x_NK, np.ones(x_NK.shape[1], np.float32) if w_K is None else w_K)


def theirs(type_: TensorType, x_NK: F32, importance_K: F32 | None) -> NDArray[np.uint8]:
    """llama.cpp's, on two threads."""
    row_bytes = x_NK.shape[1] // type_.block_elements * type_.block_bytes
    with ThreadPoolExecutor(2) as pool:
        parts = [part_NK for part_NK in np.array_split(x_NK, 8) if len(part_NK)]
        return np.concatenate([*pool.map(lambda x: ggml_quantise(type_.ggml_id, row_bytes, x, importance_K), parts)])


@dataclass(frozen=True, slots=True)
class Pair:
    """Sums of weighted square errors of both."""

    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """Of root mean squares."""
        return (self.ours / self.theirs) ** 0.5


def synthetic(n_rows: int = 512, width: int = 2048, seed: int = 0) -> tuple[F32, F32]:
    """Heavy-tailed weights [N, K] and an importance [K] that is 1 on average."""
    rng = np.random.default_rng(seed)
    scales_N1, scales_K = np.exp(rng.normal(0, 0.5, (n_rows, 1))), np.exp(rng.normal(0, 0.5, width))
    x_NK = 0.02 * rng.standard_t(4, (n_rows, width)) * scales_N1 * scales_K
    importance_K = np.exp(rng.normal(0, 1.5, width))
    return x_NK.astype(np.float32), (importance_K / importance_K.mean()).astype(np.float32)


def errors(ops: NativeOps, type_: TensorType, x_NK: F32, importance_K: F32 | None) -> Pair:
    """What both lose of the same rows."""
    weights_K = np.ones(x_NK.shape[1], np.float32) if importance_K is None else importance_K
    found = [quantiser(type_, x_NK, importance_K).reshape(-1) for quantiser in (ours(ops), theirs)]
    lost = [(dequantise(type_, blocks).reshape(x_NK.shape) - x_NK).astype(np.float64) for blocks in found]
    return Pair(*(float((e_NK**2).sum(axis=0) @ weights_K) for e_NK in lost))


def real_errors(ops: NativeOps, path: Path, type_: TensorType, importance: Importance | None) -> Pair | None:
    """Sums, over the matrices of a model that are stored in another type and suit this one, of errors over squared values."""
    lost = [0.0, 0.0]
    for tensor in open_checkpoint(path).tensors.values():
        stored = tensor.stored()
        weights_EK = importance.of(stored.name, stored.shape) if importance else None
        if len(stored.shape) != 2 or stored.type == type_ or stored.shape[1] % type_.block_elements:
            continue
        if importance and weights_EK is None:
            continue
        part = stored.part(0, min(MOST_ROWS, stored.shape[0]))
        x_NK = dequantise(part.type, part.data).reshape(part.shape)
        pair = errors(ops, type_, x_NK, None if weights_EK is None else weights_EK[0])
        power = float((x_NK * x_NK).sum(dtype=np.float64))
        lost = [lost[0] + pair.ours / power, lost[1] + pair.theirs / power]
    return Pair(*lost) if lost[1] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Requantised:
    """A change of a model: its matrices in the types of a mix, but for those that are stored so."""

    types: dict[str, tuple[str, TensorType]]  # by name: the type that it is stored in, and the one to take
    quantiser: Quantiser
    importance: Importance | None
    ops: NativeOps

    def __call__(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """What remains of the rows."""
        stored, type_ = self.types[name]
        if type_.name == stored or type_ not in QUANTISED_TYPES:
            return rows
        weights_EK = self.importance.of(name, tuple(rows.shape)) if self.importance else None
        blocks = self.quantiser(type_, rows.numpy(), None if weights_EK is None else weights_EK[0])
        table = StoredTensor(name=name, type=type_, shape=tuple(rows.shape), data=blocks.reshape(-1), source="")
        return torch.from_numpy(self.ops.embed(table, np.arange(len(rows))))


def types_in(path: Path, mix: Mix, *, has_importance: bool, is_pure: bool) -> dict[str, tuple[str, TensorType]]:
    """Of each matrix: the type that it is stored in, and the one that it takes."""
    source = read_source(open_checkpoint(path))
    rules = TypeRules(mix=mix, config=source.config, has_importance=has_importance)
    types = {}
    for tensor in source.tensors:
        wanted = rules.type_of(tensor.name, tensor.shape)
        if is_pure and tensor.shape[-1] % mix.plain.block_elements == 0:
            wanted = mix.plain
        types[tensor.name] = (tensor.type_name, wanted)
    return types


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A real model. What is slow to compute is kept in `folder`, so that a run that was stopped goes on."""

    path: Path
    ops: NativeOps
    folder: Path

    def importance(self) -> Importance:
        """Of its columns, for `LICENSE`."""
        kept = self.folder / f"{self.path.stem}-importance.npz"
        if not kept.exists():
            found = calibrate(self.path, (ROOT / "LICENSE").read_text(), self.ops, origin="LICENSE")
            np.savez(kept, **found.mean_squares)  # type: ignore[arg-type]
        with np.load(kept, allow_pickle=False) as file:
            return Importance(mean_squares=dict(file), origin="LICENSE")

    def compare(self, windows_WT: NDArray[np.int32], mix: Mix, kind: str, *, is_pure: bool = False) -> tuple[F64, F64]:
        """Divergences [N] by our quantiser and by llama.cpp's."""
        importance = self.importance() if kind == "importance" else None
        types = types_in(self.path, mix, has_importance=importance is not None, is_pure=is_pure)
        label = f"{mix.name}-{'pure-' if is_pure else ''}{kind}"
        file = ExactFile(self.path)
        found: tuple[list[F64], list[F64]] = ([], [])
        for start in range(0, len(windows_WT), 2):
            for parts, who, quantiser in zip(found, ("ours", "theirs"), (ours(self.ops), theirs), strict=True):
                change = Requantised(types=types, quantiser=quantiser, importance=importance, ops=self.ops)
                parts.append(self._of_part(file, windows_WT[start : start + 2], change, f"{label}-{who}"))
        return np.concatenate(found[0]), np.concatenate(found[1])

    def _of_part(self, file: ExactFile, part_WT: NDArray[np.int32], change: Requantised, label: str) -> F64:
        part = f"{self.path.stem}-{zlib.crc32(part_WT.tobytes()):08x}"
        exact, kept = self.folder / f"{part}-exact.npy", self.folder / f"{part}-{label}.npy"
        if not exact.exists():
            np.save(exact, hidden_states(file, part_WT).numpy())
        if not kept.exists():
            exact_ND, changed_ND = torch.from_numpy(np.load(exact)), hidden_states(file, part_WT, change)
            np.save(kept, divergences(file, exact_ND, changed_ND, change))
        found_N: F64 = np.load(kept)
        return found_N


def divergence_lines(subject: Subject, windows_WT: NDArray[np.int32], args: argparse.Namespace) -> Iterator[str]:
    """A line for each type and kind."""
    for type_name in (name for name in args.types if name in MIXES):
        for kind in args.kinds:
            ours_N, theirs_N = subject.compare(windows_WT, MIXES[type_name], kind, is_pure=args.pure)
            start = f"  {type_name:8} {kind:10}"
            if theirs_N.mean() < 1e-12:
                yield f"{start} all tensors are stored so"
                continue
            low, high = ratio_interval(ours_N, theirs_N)
            means = ours_N.mean(), theirs_N.mean()
            yield f"{start} {means[0]:.6f} / {means[1]:.6f} = {means[0] / means[1]:.3f}, 95 % from {low:.3f} to {high:.3f}"


def error_lines(subject: Subject, types: list[TensorType], kinds: list[str]) -> Iterator[str]:
    """A line for each type."""
    weights = [subject.importance() if kind == "importance" else None for kind in kinds]
    for type_ in types:
        pairs = [real_errors(subject.ops, subject.path, type_, importance) for importance in weights]
        yield f"  {type_.name:8} " + "  ".join("no tensor" if pair is None else f"{pair.ratio:.4f}" for pair in pairs)


def synthetic_lines(ops: NativeOps) -> Iterator[str]:
    """A line for each type."""
    x_NK, importance_K = synthetic()
    for type_ in QUANTISED_TYPES:
        ratios = [errors(ops, type_, x_NK, weights_K).ratio for weights_K in (None, importance_K)]
        yield f"  {type_.name:8} {ratios[0]:.4f}  {ratios[1]:.4f}"


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=TABLES)
    parser.add_argument(
        "--windows", type=int, default=N_WINDOWS, help=f"windows of 512 tokens for the divergence, up to {N_WINDOWS}"
    )
    names = [type_.name.lower() for type_ in QUANTISED_TYPES]
    parser.add_argument("--types", nargs="*", default=names, choices=names, help="of real models; divergence: of those, mixes")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS, help="of real models")
    parser.add_argument("--pure", action="store_true", help="the plain type of the mix in all matrices that it suits")
    parser.add_argument(
        "--keep", type=Path, help="a folder for what is computed of real models, to go on where a run was stopped"
    )
    args = parser.parse_args()
    ops = native_ops()
    print(f"command: python -m benchmarks.quantisers {' '.join(sys.argv[1:])}\nkernels {ops.isa}, ours / theirs")
    if "synthetic" in args.tables:
        _print("errors of synthetic weights, Student's t: plain, importance", synthetic_lines(ops))
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            _real_tables(name, Subject(path=resolve(name, default_store()), ops=ops, folder=args.keep or Path(folder)), args)
    return 0


def _real_tables(name: str, subject: Subject, args: argparse.Namespace) -> None:
    if "errors" in args.tables:
        types = [type_ for type_ in QUANTISED_TYPES if type_.name.lower() in args.types]
        _print(
            f"{name}, errors of matrices stored in another type: {', '.join(args.kinds)}",
            error_lines(subject, types, args.kinds),
        )
    if "divergence" in args.tables:
        windows_WT = StoredScores.load(STORED_WINDOWS.get(name, name)).windows[: args.windows]
        title = f"{name}, mean KL from the source over {windows_WT.size} positions"
        _print(title, divergence_lines(subject, windows_WT, args))


def _print(title: str, lines: Iterator[str]) -> None:
    print(f"\n{title}", flush=True)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
