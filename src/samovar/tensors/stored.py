"""A tensor as it lies on disk: its type, its shape and a view of its bytes; or one whose bytes are yet to be made."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from samovar.tensors.dtypes import TensorType


def _nothing() -> None:
    """Stands in where no mapped pages wait to be released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One named tensor in its storage type.

    `shape` is row-major, outermost first, in elements: a linear layer's weight is (n_out, n_in). Blocks run along the last
    axis. `data` is a flat uint8 view, read-only and usually memory-mapped. `source` names the file for messages.
    `release` tells the system that the mapped pages need not stay resident; the view stays valid.
    `input_order` [n_in] is there where the columns of a matrix are not in the order of its inputs: column j belongs to input
    input_order[j].
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    data: NDArray[np.uint8]
    source: str
    release: Callable[[], None] = field(default=_nothing, repr=False, compare=False)
    input_order: NDArray[np.int32] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert self.shape[-1] % self.type.block_elements == 0, self.name
        assert self.data.dtype == np.uint8, self.name
        assert self.data.shape == (self.size_bytes,), self.name

    @property
    def n_elements(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return self.n_elements // self.type.block_elements * self.type.block_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (the last axis)."""
        return self.shape[-1] // self.type.block_elements * self.type.block_bytes

    @property
    def has_input_order(self) -> bool:
        """Whether the columns are in an order of their own."""
        return self.input_order is not None

    def stored(self) -> "StoredTensor":
        """This tensor; see `AssembledTensor.stored`."""
        return self

    def rows(self) -> NDArray[np.uint8]:
        """The bytes as a [rows, row_bytes] view."""
        return self.data.reshape(-1, self.row_bytes)

    def entry(self, index: int) -> "StoredTensor":
        """A view of one entry of the first axis. To release its pages is left to the whole tensor."""
        data = self.data.reshape(self.shape[0], -1)[index]
        return replace(self, shape=self.shape[1:], data=data, release=_nothing)

    def part(self, start: int, stop: int) -> "StoredTensor":
        """A view of the entries `start` to `stop` of the first axis. To release their pages is left to the whole tensor."""
        data = self.data.reshape(self.shape[0], -1)[start:stop].reshape(-1)
        return replace(self, shape=(stop - start, *self.shape[1:]), data=data, release=_nothing)

    def take_rows(self, index: NDArray[np.int64]) -> "StoredTensor":
        """A copy that holds the entries `index` of the first axis, in that order. Blocks are untouched."""
        rows = np.ascontiguousarray(self.data.reshape(self.shape[0], -1)[index])
        return replace(self, shape=(len(index), *self.shape[1:]), data=rows.reshape(-1), release=_nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledTensor:
    """A weight that a file does not hold as blocks. They are made by `stored`, in memory, and not kept here.

    `make` returns the bytes that `StoredTensor.data` holds, and its `input_order`; it raises FormatError for parts that make
    no weight. `release` lets go of the parts' mapped pages.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    source: str
    make: Callable[[], tuple[NDArray[np.uint8], NDArray[np.int32] | None]] = field(repr=False, compare=False)
    has_input_order: bool = False
    release: Callable[[], None] = field(default=_nothing, repr=False, compare=False)

    @property
    def n_elements(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of its blocks."""
        return self.n_elements // self.type.block_elements * self.type.block_bytes

    def stored(self) -> StoredTensor:
        """Its blocks, made anew."""
        data, order = self.make()
        assert (order is not None) == self.has_input_order, self.name
        return StoredTensor(name=self.name, type=self.type, shape=self.shape, data=data, source=self.source, input_order=order)


Tensor: TypeAlias = StoredTensor | AssembledTensor
