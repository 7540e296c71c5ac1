"""JSON from untrusted files: one object, bounded in size, each key once, finite numbers only."""

import json
from pathlib import Path
from typing import NoReturn

from samovar.errors import FormatError
from samovar.formats.mapped_file import open_plain, unreadable

MAX_JSON_BYTES = 64 << 20  # the largest index files have some 10 MiB


def read_json_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """The object in file `path`. Raises FormatError for anything else in it."""
    return parse_json_object(read_limited(path, max_bytes), str(path))


def read_limited(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file of at most `max_bytes`."""
    try:
        with open_plain(path) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise unreadable(path, error) from None
    if len(data) > max_bytes:
        raise FormatError(f"{path}: larger than {max_bytes} bytes, the most that is expected of such a file")
    return data


def parse_json_object(data: bytes, where: str) -> dict[str, object]:
    """The object that `data` spells in UTF-8. `where` begins each message."""
    try:
        parsed: object = json.loads(data.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except RecursionError:
        raise FormatError(f"{where}: JSON is nested too deep") from None
    except ValueError as error:  # the decoder's own, broken UTF-8, and those raised below
        raise FormatError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise FormatError(f"{where}: holds a JSON {type(parsed).__name__}; an object is expected")
    return parsed


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} appears twice")
    return unique


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
