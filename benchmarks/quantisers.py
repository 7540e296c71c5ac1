"""How much our quantisers lose, beside llama.cpp's at the same types.

Three tables, each a ratio of ours to theirs, without and with an importance of columns:
- synthetic weights: Student's t with 4 degrees of freedom, rows and columns scaled by log-normal factors; ratio of the root
  mean square error (weighted by the importance where there is one, as the search is);
- the tensors of real models, the same. All real weights at hand are quantised already, so each is taken to other types only;
- whole models: ratio of the mean KL divergence from the source, dequantised exactly, over the text of `benchmarks.quality`.
  Both files have the same types tensor by tensor, and are computed in float32 from exactly dequantised weights
  (`benchmarks.exact_model`), so that nothing but the quantisers differs. The importance is of another text (`LICENSE`).
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.exact_model import exact_logits, load_exact_model
from benchmarks.ggml_quantiser import ggml_quantise
from benchmarks.quality import ROOT, StoredScores
from samovar.convert.calibrate import calibrate
from samovar.convert.importance import Importance
from samovar.convert.quantise import quantise_model
from samovar.convert.type_mix import MIXES
from samovar.formats import open_checkpoint
from samovar.formats.hub import default_store, resolve
from samovar.kernels.dequantise import dequantise
from samovar.kernels.native import NativeOps, native_ops
from samovar.kernels.quantise import QUANTISED_TYPES
from samovar.tensors.dtypes import TensorType

F32 = NDArray[np.float32]
MODELS = ("smollm2:135m", "qwen2.5-coder:0.5b")
MOST_ROWS = 512  # of a real tensor
BOUND = 1.02


class GgmlOps:
    """Our operations, but for the quantiser, which is llama.cpp's."""

    def __init__(self, ops: NativeOps, *, is_weighted: bool) -> None:
        self._ops, self._is_weighted = ops, is_weighted

    def __getattr__(self, name: str) -> object:
        return getattr(self._ops, name)

    def quantise(self, type_: TensorType, x_NK: F32, importance_K: F32) -> NDArray[np.uint8]:
        """As `Ops.quantise`."""
        row_bytes = x_NK.shape[1] // type_.block_elements * type_.block_bytes
        return ggml_quantise(type_.ggml_id, row_bytes, x_NK, importance_K if self._is_weighted else None)


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
    ours = ops.quantise(type_, x_NK, weights_K)
    theirs = ggml_quantise(type_.ggml_id, ours.shape[1], x_NK, importance_K)
    lost = [dequantise(type_, out.reshape(-1)).reshape(x_NK.shape) - x_NK.astype(np.float64) for out in (ours, theirs)]
    return Pair(*(float((e_NK * e_NK * weights_K).sum()) for e_NK in lost))


def real_errors(ops: NativeOps, path: Path, type_: TensorType, importance: Importance | None) -> Pair | None:
    """Sums, over the matrices of a model that are stored in another type and suit this one, of errors over squared values."""
    ours = theirs = 0.0
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
        ours, theirs = ours + pair.ours / power, theirs + pair.theirs / power
    return Pair(ours, theirs) if theirs else None


def mean_kl(exact: list[torch.Tensor], path: Path, windows: NDArray[np.int32]) -> float:
    """Mean divergence of a file from the log-probabilities of the exact model."""
    model, total, count = load_exact_model(path), 0.0, 0
    for log_p_TV, window in zip(exact, windows, strict=True):
        start = 0
        for piece_TV in exact_logits(model, [int(i) for i in window]):
            log_q_TV, p_TV = piece_TV.log_softmax(dim=1), log_p_TV[start : start + len(piece_TV)].float()
            total += float((p_TV.exp() * (p_TV - log_q_TV)).sum(dtype=torch.float64))
            start, count = start + len(piece_TV), count + len(piece_TV)
    return total / count


def whole_models(ops: NativeOps, name: str, types: list[str], n_windows: int) -> None:
    """Print the table of divergences of one model."""
    path = resolve(name, default_store())
    windows = StoredScores.load(name).windows[:n_windows]
    source = load_exact_model(path)
    exact = [torch.cat([p.log_softmax(dim=1) for p in exact_logits(source, [int(i) for i in w])]) for w in windows]
    del source
    importance = calibrate(path, (ROOT / "LICENSE").read_text(), ops, origin="LICENSE")
    print(f"\n{name}: mean KL from the source over {windows.size} positions, ours / theirs")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.gguf"
        for type_name in types:
            for weights in (None, importance):
                kl = []
                for quantiser in (ops, GgmlOps(ops, is_weighted=weights is not None)):
                    quantise_model(path, target, MIXES[type_name], quantiser, importance=weights, replace=True)  # type: ignore[arg-type]
                    kl.append(mean_kl(exact, target, windows))
                kind = "importance" if weights else "plain"
                print(f"  {type_name:8} {kind:10} {kl[0]:.6f} / {kl[1]:.6f} = {kl[0] / kl[1]:.3f}", flush=True)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--windows", type=int, default=4, help="windows of 512 tokens for the divergence (default 4, most 8)")
    parser.add_argument("--types", nargs="*", default=sorted(MIXES.keys() - {"samovar-int4"}), help="of whole models")
    args = parser.parse_args()
    ops = native_ops()
    print(
        f"command: python -m benchmarks.quantisers {' '.join(sys.argv[1:])}\nkernels {ops.isa}, ratio of errors, ours / theirs"
    )
    x_NK, importance_K = synthetic()
    print("\nsynthetic, Student's t: plain, importance")
    for type_ in QUANTISED_TYPES:
        ratios = [errors(ops, type_, x_NK, weights).ratio for weights in (None, importance_K)]
        print(f"  {type_.name:8} {ratios[0]:.4f}  {ratios[1]:.4f}", flush=True)
    for name in args.models:
        path = resolve(name, default_store())
        importance = calibrate(path, (ROOT / "LICENSE").read_text(), ops, origin="LICENSE")
        print(f"\n{name}, matrices stored in another type: plain, importance")
        for type_ in QUANTISED_TYPES:
            pairs = [real_errors(ops, path, type_, weights) for weights in (None, importance)]
            print(f"  {type_.name:8} " + "  ".join("no tensor" if p is None else f"{p.ratio:.4f}" for p in pairs), flush=True)
    for name in args.models:
        whole_models(ops, name, args.types, args.windows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
