"""Request bodies: JSON to one typed object, in one place. What is not known is refused by name.

A route's fields are a `msgspec.Struct` with `forbid_unknown_fields`; fields of the dialect that cannot be honoured are listed
beside it as `Unsupported`, with the values that ask for nothing.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from samovar.errors import BadRequest

T = TypeVar("T", bound=msgspec.Struct)
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`")
_MISSING: Final = re.compile(r"missing required field `([^`]*)`")
_OBJECT: Final = re.compile(rb'\{\s*"')  # no text in JSON holds it, as its quotes are escaped
_MAX_OBJECTS: Final = 50_000  # they are gone through on the event loop
_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`")


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A field of a dialect that is refused, and why; `harmless` are values that ask for nothing, None always."""

    reason: str
    harmless: tuple[object, ...] = ()


class Fields(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The fields of a route. None means: not given."""


def read_body(kind: type[T], body: bytes, unsupported: Mapping[str, Unsupported]) -> T:
    """The fields in a body. Raises BadRequest for what is no JSON object, for one that holds too many, for an unknown field,
    or a value of a wrong type."""
    if next(islice(_OBJECT.finditer(body), _MAX_OBJECTS, None), None) is not None:
        raise BadRequest(f"the body holds more than {_MAX_OBJECTS} JSON objects; send fewer messages, parts or tools")
    try:
        raw: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is no sound JSON: {error}") from None
    if not isinstance(raw, dict):
        raise BadRequest(f"the body is a JSON {type(raw).__name__}; expected an object")
    return read_fields(kind, raw, unsupported)


def read_fields(kind: type[T], raw: dict[str, Any], unsupported: Mapping[str, Unsupported]) -> T:
    """The fields in a JSON object. Raises BadRequest as `read_body` does."""
    given = dict(raw)
    for name in given.keys() & unsupported.keys():
        value, entry = given.pop(name), unsupported[name]
        if value is not None and not any(value == h and type(value) is type(h) for h in entry.harmless):
            raise BadRequest(f"{name} is given, which is not supported: {entry.reason}", param=name)
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise _refused(str(error)) from None
    except RecursionError:
        raise BadRequest("the body nests too deep") from None


@contextmanager
def naming(**fields: str) -> Iterator[None]:
    """Have errors name a dialect's own field where they name one of ours: `naming(messages="prompt")`."""
    try:
        yield
    except BadRequest as error:
        ours, message = error.param or "", str(error)
        if (name := fields.get(ours)) is not None:
            told = f"{name}{message.removeprefix(ours)}" if message.startswith(f"{ours} ") else message
            error.args, error.param = (told if name in told else f"{name}: {told}",), name
        raise


def _refused(message: str) -> BadRequest:
    """msgspec's words, and the field they speak of."""
    path = found[1] if (found := _PATH.search(message)) else ""
    unknown = _UNKNOWN.search(message)
    name = ".".join(filter(None, (path, unknown[1]))) if unknown else path
    if unknown:
        return BadRequest(f"{name} is no field that is known here", param=name)
    if missing := _MISSING.search(message):
        name = ".".join(filter(None, (path, missing[1])))
        return BadRequest(f"{name} is missing, which is required", param=name)
    return BadRequest(f"{name or 'the body'}: {_PATH.sub('', message)}", param=name or None)
