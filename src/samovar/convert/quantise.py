"""A model's weights into the blocks of GGUF's types: `samovar quantize`, without the command line.

One slab of rows is in memory at a time. The file shows when it is whole, and a second run goes on where the first stopped.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.convert.differences import differences, left_out
from samovar.convert.importance import Importance
from samovar.convert.metadata import file_metadata
from samovar.convert.source import SourceTensor, read_source
from samovar.convert.type_mix import Mix, TypeRules, stays_f32
from samovar.errors import FormatError, StoreError, UnsupportedModel
from samovar.formats import open_checkpoint
from samovar.formats.gguf_values import encode_as
from samovar.formats.gguf_writer import TensorPlan, write_gguf_part
from samovar.formats.int4_rows import INT4_PREFIX, int4_row_bytes, without_scales
from samovar.kernels import F32, Ops
from samovar.kernels.quantise import LARGEST, QUANTISED_TYPES
from samovar.models.gguf_config import gguf_architecture
from samovar.models.weights import INT4_UNIT
from samovar.tensors import dtypes
from samovar.tensors.dtypes import TensorType
from samovar.tensors.stored import StoredTensor

_VERSION: Final = 4  # counts the changes of what is written for the same source and choices
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorResult:
    """What became of a tensor. `error` and `power` are sums of weighted squares: of what was lost, and of the values.

    `wanted` is the type of the mix, which `type` differs from where its blocks do not divide the rows.
    """

    name: str
    source_type: str
    type: TensorType
    wanted: TensorType
    n_elements: int
    size_bytes: int
    error: float
    power: float

    @property
    def relative_error(self) -> float:
        """Root of the weighted mean square of what was lost, over that of the values."""
        return math.sqrt(self.error / self.power) if self.power else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiseResult:
    """What was written where. `warnings` is what a user should know of the file, a line each."""

    path: Path
    tensors: tuple[TensorResult, ...]
    warnings: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    @property
    def bits_per_weight(self) -> float:
        """Bits of a value, over all tensors."""
        return 8 * sum(t.size_bytes for t in self.tensors) / sum(t.n_elements for t in self.tensors)


def quantise_model(
    source: Path,
    target: Path,
    mix: Mix,
    ops: Ops,
    *,
    importance: Importance | None = None,
    replace: bool = False,
    progress: Progress = lambda _done, _total, _what: None,
) -> QuantiseResult:
    """Write the model at `source` to the GGUF file `target` in the types of `mix`.

    Raises what opening and checking the source raises; FormatError for weights that are not finite, or importance that is of
    another model; StoreError where the target is the source, is there and `replace` is not set, is being written, or the disk
    refuses.
    """
    checkpoint = open_checkpoint(source)
    _refuse_own_source(target, [file.path for file in checkpoint.files])
    model = read_source(checkpoint)
    config, tensors = model.config, model.tensors
    rules = TypeRules(mix=mix, config=config, has_importance=importance is not None)
    is_int4 = mix.plain is dtypes.INT4_ROWS
    if is_int4 and any(tensor.type_name == dtypes.INT4_ROWS.name for tensor in tensors):
        raise UnsupportedModel(f"{source}: its weights are in {mix.name} already; copy the file")
    metadata = file_metadata(checkpoint, model, mix.file_type, importance)
    if is_int4:
        metadata["general.architecture"] = encode_as("string", INT4_PREFIX + gguf_architecture(config.architecture))
    works = [_work(tensor, rules, ops, importance) for tensor in tensors]
    chosen = hashlib.sha256(importance.digest if importance else b"").hexdigest()
    job = f"quantise {_VERSION} {checkpoint.identity} {mix.name} {chosen}"
    notes = write_gguf_part(target, metadata, [w.plan() for w in works], job=job, replace=replace, progress=progress)
    results = tuple(w.result(note) for w, note in zip(works, notes, strict=True))
    warnings = [] if is_int4 else [*differences(config)]  # other programs refuse samovar-int4 by its name
    warnings += left_out(model.n_left_out)
    warnings += _gains_nothing(tensors, mix, checkpoint.size_bytes, target.stat().st_size)
    return QuantiseResult(path=target, tensors=results, warnings=tuple(warnings))


def _gains_nothing(tensors: list[SourceTensor], mix: Mix, source_bytes: int, target_bytes: int) -> list[str]:
    """A line where the file is larger than its source, or most weights of that took no more bits before."""
    n_values: Counter[TensorType] = Counter()
    for tensor in tensors:
        if not stays_f32(tensor.name, tensor.shape):
            n_values[tensor.parts[0].type] += tensor.n_elements
    asked = 8 * int4_row_bytes(INT4_UNIT) / INT4_UNIT if mix.plain is dtypes.INT4_ROWS else mix.plain.bits_per_weight
    sizes = f"{target_bytes / 1e6:,.1f} MB from {source_bytes / 1e6:,.1f}"
    if 2 * sum(n for type_, n in n_values.items() if type_.bits_per_weight <= asked) > n_values.total():
        main = n_values.most_common(1)[0][0].name
        return [f"this gains nothing: the weights of the source are mostly {main} already ({sizes}); use the source itself"]
    return [f"this gains nothing: the file is larger than its source ({sizes})"] if target_bytes > source_bytes else []


def _refuse_own_source(target: Path, sources: list[Path]) -> None:
    for path in sources:
        if target.exists() and target.samefile(path):
            raise StoreError(f"{target}: this is the file that is read; give another name for the one to be written")


def _work(tensor: SourceTensor, rules: TypeRules, ops: Ops, importance: Importance | None) -> "_Work":
    weights = importance.of(tensor.name, tensor.shape) if importance else None
    return _Work(
        tensor=tensor,
        type=rules.type_of(tensor.name, tensor.shape),
        wanted=rules.wanted(tensor.name, tensor.shape),
        ops=ops,
        importance_EK=weights,
    )


@dataclass(slots=True, kw_only=True)
class _Work:
    """One tensor on its way. `importance_EK` has a row for each matrix of a stack."""

    tensor: SourceTensor
    type: TensorType
    wanted: TensorType
    ops: Ops
    importance_EK: F32 | None
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def plan(self) -> TensorPlan:
        """What the writer does with it."""
        name, shape, type_ = self.tensor.name, self.tensor.shape, self.type
        if type_ is dtypes.INT4_ROWS:
            type_, shape = dtypes.I8, (*shape[:-1], int4_row_bytes(shape[-1]))
        return TensorPlan(name=name, type=type_, shape=shape, fill=self._fill, note=self._note)

    def result(self, note: str) -> TensorResult:
        """What became of it; `note` is what was kept of an earlier run, or `_note` of this one."""
        error, power = json.loads(note)
        return TensorResult(
            name=self.tensor.name, source_type=self.tensor.type_name, type=self.type, wanted=self.wanted,
            n_elements=self.tensor.n_elements, size_bytes=self.plan().size_bytes, error=float(error), power=float(power),
        )  # fmt: skip

    def _note(self) -> str:
        return json.dumps(self.sums)

    def _fill(self) -> Iterator[NDArray[np.uint8]]:
        self.sums = [0.0, 0.0]
        is_kept = self.tensor.type_name == self.type.name and self.type is not dtypes.INT4_ROWS
        blocks = self.tensor.blocks() if is_kept else None
        if blocks is not None:
            for x_MK in self.tensor.slabs(self.ops):
                self._check(x_MK, math.inf)
            yield from blocks
            return
        n_rows = self.tensor.shape[-2] if len(self.tensor.shape) > 1 else 1
        done = 0
        for x_MK in self.tensor.slabs(self.ops):
            self._check(x_MK)
            yield self._encode(x_MK, done // n_rows).reshape(-1)
            done += len(x_MK)

    def _encode(self, x_MK: F32, member: int) -> NDArray[np.uint8]:
        if self.type not in (*QUANTISED_TYPES, dtypes.INT4_ROWS):
            return encode_floats(self.type, x_MK)
        width = x_MK.shape[1]
        ones_K = np.ones(width, np.float32)
        weights_K = ones_K if self.importance_EK is None else self.importance_EK[member]
        out = self.ops.quantise(self.type, x_MK, weights_K)
        table = StoredTensor(name="", type=self.type, shape=x_MK.shape, data=out.reshape(-1), source="")
        lost_MK = self.ops.embed(table, np.arange(len(x_MK)))
        lost_MK -= x_MK
        for index, values_MK in enumerate((lost_MK, x_MK)):
            self.sums[index] += float(np.einsum("mk,mk,k->", values_MK, values_MK, weights_K, dtype=np.float64))
        return out if self.type is not dtypes.INT4_ROWS else without_scales(out)

    def _check(self, x_MK: F32, largest: float = LARGEST) -> None:
        """Refuse what no scale stands for, and what is not finite."""
        most = float(np.abs(x_MK).max(initial=0))
        if most <= largest and math.isfinite(most):
            return
        found = "no number" if math.isnan(most) else f"the value {most:.3g}"
        raise FormatError(
            f"{self.tensor.parts[0].source}: tensor {self.tensor.parts[0].name!r} holds {found}; weights are finite, and "
            f"scales reach {LARGEST:.0f}: the file is damaged, get it again"
        )


def encode_floats(type_: TensorType, x_MK: F32) -> NDArray[np.uint8]:
    """[M, row bytes] of F32, F16 or BF16, rounded to nearest even."""
    if type_ is dtypes.BF16:
        bits_MK = x_MK.view(np.uint32)
        return ((bits_MK + 0x7FFF + (bits_MK >> 16 & 1)) >> 16).astype("<u2").view(np.uint8)
    assert type_ in (dtypes.F32, dtypes.F16), type_
    return np.ascontiguousarray(x_MK, "<f4" if type_ is dtypes.F32 else "<f2").view(np.uint8)
