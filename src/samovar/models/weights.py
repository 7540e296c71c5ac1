"""Filling a model from a checkpoint: each tensor is taken exactly once, under its Hugging Face name, with its shape checked.

What a model asks for and is not there, what has another shape, and what nobody took is named with file, found and expected.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError, UnsupportedModel
from samovar.kernels import Linear, Ops, Stack, WeightForm
from samovar.kernels.dequantise import dequantise
from samovar.kernels.finite import finite_values
from samovar.models.packing import EagerPacker, Packer, in_order
from samovar.tensors.dtypes import F32 as F32_TYPE
from samovar.tensors.dtypes import INT4_ROWS
from samovar.tensors.stored import AssembledTensor, StoredTensor, Tensor

F32 = NDArray[np.float32]
_APART = ": config and weights are not of one model, or not whole; get both again from one place"
INT4_UNIT = 64  # values that rows of int4 come in


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear layer: its Hugging Face name, packed weights, and a float32 bias [N] where the layer has one."""

    name: str
    weight: Linear
    bias_N: F32 | None


class WeightSource:
    """Hands out a checkpoint's tensors in the form that the operations compute on.

    `file_name` maps a Hugging Face tensor name to the name in the file. `interleaved_heads` maps the names of tensors whose
    rows are stored for interleaved rotation (GGUF files of the `llama` architecture) to their number of heads. `packer`
    decides when weights are packed; the default does so at once. `form` is that of all linear layers but the output head and
    routers. `stacks_experts` says that the files keep each projection of all experts of a layer as one tensor, as GGUF files
    do, `has_centred_norms` that a norm's weight is 1 more than what the files hold.
    `projections` lists those that were taken so far, by name: (n_out, n_in). `packed_bytes` counts all that was packed, and
    `read_bytes` of it what one token needs, whose experts are only some of a stack.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        ops: Ops,
        *,
        where: str,
        file_name: Callable[[str], str] = str,
        interleaved_heads: Mapping[str, int] | None = None,
        packer: Packer | None = None,
        form: WeightForm = "stored",
        stacks_experts: bool = False,
        has_centred_norms: bool = False,
    ) -> None:
        self._rest = dict(tensors)
        self._packer, self._where, self._file_name, self._form = packer or EagerPacker(ops), where, file_name, form
        self._interleaved_heads = interleaved_heads or {}
        self.stacks_experts, self._has_centred_norms = stacks_experts, has_centred_norms
        self.packed_bytes = self.read_bytes = 0
        self.projections: dict[str, tuple[int, int]] = {}

    def stored(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """The tensor with its bytes, its shape checked."""
        return self.tensor(name, shape).stored()

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor, its shape checked."""
        file_name = self._file_name(name)
        tensor = self._rest.pop(file_name, None)
        if tensor is None:
            raise FormatError(f"{self._where}: tensor {file_name!r} is missing; expected one of shape {list(shape)}{_APART}")
        if tensor.shape != shape:
            raise FormatError(
                f"{tensor.source}: tensor {file_name!r} has shape {list(tensor.shape)}; the config asks for {list(shape)}"
                f"{_APART}"
            )
        return tensor

    def array(self, name: str, shape: tuple[int, ...]) -> F32:
        """A float32 copy of a tensor that is small. Raises FormatError for values that are no numbers."""
        return finite_values(self.stored(name, shape)).reshape(shape)

    def vector(self, name: str, width: int) -> F32:
        """A float32 copy of a [width] tensor, in the order that is computed in. Raises FormatError for values that are no
        numbers."""
        return finite_values(in_order(self.stored(name, (width,)), self._order(name, width)))

    def norm(self, name: str, width: int) -> F32:
        """The float32 weight [width] of an RMS norm."""
        held = self.vector(name, width)
        return held + np.float32(1) if self._has_centred_norms else held

    def linear(self, name: str, n_out: int, n_in: int) -> Linear:
        """A packed weight in the source's form. Raises UnsupportedModel where its width does not suit int4."""
        tensor = self.tensor(name, (n_out, n_in))
        self._check_form(tensor)
        return self._pack(tensor, self._order(name, n_out), self._form)

    def _check_form(self, tensor: Tensor) -> None:
        n_in = tensor.shape[-1]
        if (self._form == "int4" or tensor.type is INT4_ROWS) and n_in % INT4_UNIT:
            raise UnsupportedModel(
                f"{tensor.source}: tensor {tensor.name!r} has rows of {n_in} values; int4 weights need a multiple of "
                f"{INT4_UNIT}: use the weights as they are stored"
            )

    def has(self, name: str) -> bool:
        """Whether the tensor is there, and nobody took it."""
        return self._file_name(name) in self._rest

    def router(self, name: str, n_experts: int, n_in: int) -> Linear:
        """The weight [n_experts, n_in] that chooses experts. It is computed on in float32, whatever its stored type."""
        tensor = self.stored(name, (n_experts, n_in))
        if not tensor.type.is_float:
            values = dequantise(tensor.type, tensor.data)
            tensor = replace(tensor, type=F32_TYPE, data=values.view(np.uint8))
        return self.pack(tensor)

    def stack(self, tensors: tuple[Tensor, ...], n_read: int) -> Stack:
        """A projection of all experts of a layer, see `Ops.pack_stack`, of which a token needs `n_read`.

        Raises FormatError where their types differ, or some have an order of inputs and some none; UnsupportedModel where their
        width does not suit int4.
        """
        first = tensors[0]
        if other := next((tensor for tensor in tensors if tensor.type != first.type), None):
            raise FormatError(
                f"{other.source}: tensor {other.name!r} is {other.type.name}, and {first.name!r} is {first.type.name}; "
                "all experts of a layer have to be stored in one type"
            )
        if other := next((tensor for tensor in tensors if tensor.has_input_order != first.has_input_order), None):
            ordered, plain = (other, first) if other.has_input_order else (first, other)
            raise FormatError(
                f"{ordered.source}: tensor {ordered.name!r} has an order of inputs, and {plain.name!r} has none; "
                "either all experts of a layer have one, or none"
            )
        self._check_form(first)
        packed = self._packer.pack_stack(tensors, self._form)
        self.packed_bytes += packed.size_bytes
        self.read_bytes += packed.size_bytes // packed.n_stacked * n_read
        return packed

    def pack(self, tensor: Tensor) -> Linear:
        """Take a tensor into the compute layout of the type that it is stored in."""
        return self._pack(tensor, None, "stored")

    def _pack(self, tensor: Tensor, order: NDArray[np.int64] | None, form: WeightForm) -> Linear:
        packed = self._packer.pack(tensor, order, form)
        self.packed_bytes += packed.size_bytes
        self.read_bytes += packed.size_bytes
        return packed

    def end_part(self) -> None:
        """A layer is complete: what is taken after this is needed later."""
        self._packer.end_part()

    def _order(self, name: str, n_rows: int) -> NDArray[np.int64] | None:
        """The order that rows stored for interleaved rotation have to be brought into."""
        heads = next((n for part, n in self._interleaved_heads.items() if part in name), None)
        return None if heads is None else half_split_order(n_rows, heads)

    def projection(self, name: str, n_out: int, n_in: int, *, has_bias: bool) -> Projection:
        """`name.weight`, and `name.bias` where the layer has one."""
        bias_N = self.vector(f"{name}.bias", n_out) if has_bias else None
        self.projections[name] = n_out, n_in
        return Projection(name, self.linear(f"{name}.weight", n_out, n_in), bias_N)

    def split_projection(self, name: str, n_outs: Mapping[str, int], n_in: int) -> tuple[Projection, ...]:
        """Linear layers whose rows lie one after the other in `name.weight`: `n_outs` of each, by its own name.

        Adapters have no names for them, so none of them is listed in `projections`.
        """
        whole = self.stored(f"{name}.weight", (sum(n_outs.values()), n_in))
        found, start = [], 0
        for part, n_out in n_outs.items():
            rows = whole.part(start, start + n_out)
            start += n_out
            if start == whole.shape[0]:
                rows = replace(rows, release=whole.release)
            self._check_form(rows)
            found.append(Projection(f"{name}.{part}", self._pack(rows, None, self._form), None))
        return tuple(found)

    def mixed_projection(self, name: str, rows: Mapping[str, NDArray[np.int64]], n_in: int) -> tuple[Projection, ...]:
        """Linear layers whose rows are mixed in `name.weight`: the numbers of those of each, in their order, by its own name.

        Each row belongs to one of them. As with `split_projection`, adapters have no names for them.
        """
        whole = self.tensor(f"{name}.weight", (sum(map(len, rows.values())), n_in))
        self._check_form(whole)
        return tuple(
            Projection(f"{name}.{part}", self._pack(_rows_of(whole, numbers), None, self._form), None)
            for part, numbers in rows.items()
        )

    def accept_copy(self, name: str, of: StoredTensor) -> None:
        """A tensor that may be there and must then repeat `of` to the byte. Raises FormatError where it does not."""
        copy = self._rest.pop(self._file_name(name), None)
        if copy is not None and not (
            copy.shape == of.shape and copy.type == of.type and np.array_equal(copy.stored().data, of.data)
        ):
            raise FormatError(
                f"{copy.source}: tensor {copy.name!r} differs from {of.name!r}, and the config says that the two are tied; "
                "one of them is wrong"
            )

    def finish(self) -> None:
        """Refuse tensors that the model has no place for."""
        if self._rest:
            names = sorted(self._rest)
            shown = ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise FormatError(
                f"{self._where}: {len(names)} tensors that this architecture has no place for: {shown}; "
                "the file and its config do not belong together (get both again from one place), or the model needs a feature "
                "that is not implemented"
            )


def _rows_of(whole: Tensor, numbers: NDArray[np.int64]) -> Tensor:
    """Some rows of a matrix, copied when they are asked for."""

    def make() -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
        taken = whole.stored().take_rows(numbers)
        return taken.data, taken.input_order

    return AssembledTensor(
        name=whole.name, type=whole.type, shape=(len(numbers), whole.shape[1]), source=whole.source, make=make,
        has_input_order=whole.has_input_order, release=whole.release,
    )  # fmt: skip


def half_split_order(n_rows: int, n_heads: int) -> NDArray[np.int64]:
    """Row order that turns heads stored for interleaved rotation (0, 1), (2, 3) ... into half-split (0, K/2), (1, K/2 + 1)."""
    d_head = n_rows // n_heads
    within = np.concatenate([np.arange(0, d_head, 2), np.arange(1, d_head, 2)])
    order: NDArray[np.int64] = (np.arange(n_heads)[:, None] * d_head + within).reshape(-1)
    return order
