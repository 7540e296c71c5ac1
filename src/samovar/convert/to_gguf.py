"""A Hugging Face folder to a GGUF file. No value changes; for what GGUF holds in another form see `forms`.

Matrices stay in their float type; vectors and the routers of experts become F32, as llama.cpp has them. Quantised matrices
become F32, since GGUF has no type of theirs. One slab of rows is in memory at a time. The file shows when it is whole, and a
second run goes on where the first stopped.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.convert.differences import differences, left_out
from samovar.convert.metadata import file_metadata
from samovar.convert.quantise import encode_floats
from samovar.convert.source import SourceTensor, read_source
from samovar.convert.type_mix import stays_f32
from samovar.errors import FormatError
from samovar.formats.gguf_writer import TensorPlan, write_gguf_part
from samovar.formats.hf_folder import HfCheckpoint
from samovar.kernels import Ops
from samovar.tensors.dtypes import BF16, F16, F32, TensorType

Progress = Callable[[int, int, str], None]
_VERSION: Final = 2  # counts the changes of what is written for the same source
_FILE_TYPES: Final = {F32: 0, F16: 1, BF16: 32}  # llama.cpp's numbers (`general.file_type`)


def write_gguf_file(
    checkpoint: HfCheckpoint, target: Path, ops: Ops, progress: Progress, *, replace: bool = False
) -> tuple[str, ...]:
    """Write the file `target`, and return what a user should know of it, a line each.

    Raises FormatError for values that are not finite, and what checking the folder raises; StoreError where the target is there
    and `replace` is not set, is being written, or the disk refuses.
    """
    source = read_source(checkpoint)
    works = [_Work(tensor=tensor, type=_type_of(tensor), ops=ops) for tensor in source.tensors]
    n_values: Counter[TensorType] = Counter()
    for work in works:
        n_values[work.type] += work.tensor.n_elements
    file_type = _FILE_TYPES[n_values.most_common(1)[0][0]]
    metadata = file_metadata(checkpoint, source, file_type)
    job = f"convert {_VERSION} {checkpoint.identity}"
    write_gguf_part(target, metadata, [work.plan() for work in works], job=job, replace=replace, progress=progress)
    return differences(source.config) + left_out(source.n_left_out)


def _type_of(tensor: SourceTensor) -> TensorType:
    first = tensor.parts[0].type
    return F32 if stays_f32(tensor.name, tensor.shape) or not first.is_float else first


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One tensor on its way."""

    tensor: SourceTensor
    type: TensorType
    ops: Ops

    def plan(self) -> TensorPlan:
        """What the writer does with it."""
        return TensorPlan(name=self.tensor.name, type=self.type, shape=self.tensor.shape, fill=self._fill)

    def _fill(self) -> Iterator[NDArray[np.uint8]]:
        for x_MK in self.tensor.slabs(self.ops):
            if not np.isfinite(x_MK).all():
                part = self.tensor.parts[0]
                raise FormatError(
                    f"{part.source}: tensor {part.name!r} holds infinite values or such as are no numbers: the file is "
                    "damaged, get it again"
                )
            yield encode_floats(self.type, x_MK).reshape(-1)
