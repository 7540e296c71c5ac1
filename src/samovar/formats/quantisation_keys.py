"""A quantised folder's config and tensors, taken piece by piece and checked; what nobody takes is refused by name."""

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError, UnsupportedModel
from samovar.tensors.dtypes import BF16, F16, F32, TensorType
from samovar.tensors.stored import StoredTensor

FLOATS: Final = (F32, F16, BF16)
_APART: Final = ": config and tensors do not belong together; get both again from one place"


class Keys:
    """The keys of a quantisation config. `where` names it in messages."""

    def __init__(self, raw: dict[str, object], where: str) -> None:
        self._rest, self.where = dict(raw), where

    def pop(self, key: str) -> object:
        """Any value; None where the key is missing."""
        return self._rest.pop(key, None)

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number. Raises FormatError where it is missing and there is no default, or of another kind."""
        value = self.pop(key)
        if value is None and default is not None:
            return default
        if type(value) is not int:
            raise self._wrong(key, value, "a whole number")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.pop(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return default if value is None else value

    def text(self, key: str, default: str) -> str:
        """Text, in lower case."""
        value = self.pop(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, value, "text")
        return default if value is None else value.lower()

    def names(self, key: str) -> tuple[str, ...]:
        """A list of text, empty where it is missing."""
        value = self.pop(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self._wrong(key, value, "a list of names")
        return tuple(value)

    def inner(self, key: str) -> "Keys | None":
        """An object's keys."""
        value = self.pop(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return Keys(value, f"{self.where}.{key}")

    def left(self) -> list[str]:
        """The keys that nobody took yet."""
        return list(self._rest)

    def want(self, key: str, *choices: object) -> object:
        """A value out of these, the first where it is missing. Raises UnsupportedModel for another."""
        value = self.pop(key)
        value = value.lower() if isinstance(value, str) else value
        if value is None:
            return choices[0]
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            expected = " or ".join(map(repr, choices))
            raise UnsupportedModel(f"{self.where}.{key} is {str(value)[:60]!r}, which is not read; expected {expected}")
        return value

    def need(self, key: str, *choices: object) -> object:
        """As `want`, of a key that has no default. Raises FormatError where it is missing."""
        if self._rest.get(key) is None:
            raise self._wrong(key, None, " or ".join(map(repr, choices)))
        return self.want(key, *choices)

    def finish(self, harmless: Iterable[str] = ()) -> None:
        """Refuse the keys that are left over; `harmless` ones have no effect on values, nor has any that is empty."""
        left = {key: value for key, value in self._rest.items() if value not in (None, [], {}, "")}
        if unread := sorted(left.keys() - set(harmless)):
            raise UnsupportedModel(f"{self.where}: keys that this version does not read: {', '.join(unread[:8])}")

    def _wrong(self, key: str, value: object, expected: str) -> FormatError:
        return FormatError(f"{self.where}.{key} is {str(value)[:60]!r}; {expected} is expected")


class Parts:
    """A folder's tensors, each taken once. `rest` is what nobody took. `where` names the folder in messages."""

    def __init__(self, tensors: dict[str, StoredTensor], where: str) -> None:
        self.rest, self.where = dict(tensors), where

    def modules(self, part: str) -> list[str]:
        """The names of the modules that have such a part: `model.layers.0.mlp.up_proj` for `qweight`."""
        return [name.removesuffix(f".{part}") for name in self.rest if name.endswith(f".{part}")]

    def take(self, name: str, types: tuple[TensorType, ...], shape: tuple[int | None, ...]) -> StoredTensor:
        """A tensor of one of these types; an extent of None may be any. Raises FormatError for another, or none."""
        tensor = self.rest.pop(name, None)
        wanted = f"one of type {' or '.join(t.name for t in types)} and shape {_shown(shape)}"
        if tensor is None:
            raise FormatError(f"{self.where}: tensor {name!r} is missing; the quantisation config asks for {wanted}{_APART}")
        fits = len(shape) == len(tensor.shape) and all(b in (None, a) for a, b in zip(tensor.shape, shape, strict=True))
        if tensor.type not in types or not fits:
            raise FormatError(
                f"{tensor.source}: tensor {name!r} has type {tensor.type.name} and shape {_shown(tensor.shape)}; "
                f"the quantisation config asks for {wanted}{_APART}"
            )
        return tensor

    def optional(self, name: str, types: tuple[TensorType, ...], shape: tuple[int | None, ...]) -> StoredTensor | None:
        """As `take`, or None where it is missing."""
        return self.take(name, types, shape) if name in self.rest else None

    def drop(self, name: str) -> None:
        """Take a tensor that has no effect here, if it is there."""
        self.rest.pop(name, None)


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if extent is None else str(extent) for extent in shape)}]"


def integers(tensor: StoredTensor) -> NDArray[np.signedinteger]:
    """A part's whole numbers in its shape; nothing is copied."""
    dtypes = {"I8": "i1", "I32": "<i4", "I64": "<i8"}
    return tensor.data.view(dtypes[tensor.type.name]).reshape(tensor.shape)


def floats(tensor: StoredTensor, shape: tuple[int, int], rows: slice | NDArray[np.intp], columns: slice) -> NDArray[np.float32]:
    """Some of the numbers of a part of any type of `FLOATS`, seen as a matrix of `shape`. Exact."""
    if tensor.type is BF16:
        bits = tensor.data.view("<u2").reshape(shape)[rows, columns].astype(np.uint32) << 16
        return bits.view(np.float32)
    dtype = "<f2" if tensor.type is F16 else "<f4"
    return tensor.data.view(dtype).reshape(shape)[rows, columns].astype(np.float32)


def whole_groups(keys: Keys, name: str, n_in: int, group_size: int) -> int:
    """Columns that share a scale: `group_size`, all for -1. Raises FormatError where they do not divide a row."""
    if group_size == -1:
        return n_in
    if group_size < 1 or n_in % group_size:
        raise FormatError(f"{keys.where}: groups of {group_size} do not divide the {n_in} inputs of {name!r}{_APART}")
    return group_size


def refuse_listed(modules: Iterable[str], listed: tuple[str, ...], where: str) -> None:
    """Raise FormatError where a module that the config calls unquantised is quantised.

    An entry is a module's path or whole parts of one: `mlp.gate` is in `layers.0.mlp.gate`, not in `layers.0.mlp.gate_proj`.
    """
    if wrong := sorted(module for module in modules if any(f".{entry}." in f".{module}." for entry in listed)):
        raise FormatError(
            f"{where}: {wrong[0]!r} is listed as not quantised, and its tensors are quantised; one of them is wrong"
        )


def n_groups(n_in: int, group: int) -> int:
    """Groups of a row, the last of which may be short."""
    return math.ceil(n_in / group)
