"""Calls of tools that are written as JSON: `{"name": ..., "arguments": {...}}`, or a list of such objects."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from samovar.text.json_stream import sound_json
from samovar.text.tools import Tool

_SEPARATORS: Final = re.compile(r"[\s,:]*")
_JSON: Final = json.JSONDecoder(parse_int=str, parse_float=str)


def calls_in(text: str, tools: Mapping[str, Tool]) -> list[tuple[str, str]] | None:
    """Names and arguments in sound JSON: of a call, or a list of them. None for what is none, or calls no known tool."""
    try:
        calls = [_call(part) for part in (_parts(text) if text.startswith("[") else [text])]
    except (ValueError, RecursionError):
        return None
    found = [call for call in calls if call is not None and call[0] in tools]
    return found if found and len(found) == len(calls) else None


def _call(text: str) -> tuple[str, str] | None:
    members = _members(text)
    if members.get("function", "").startswith("{"):
        members = _members(members["function"])
    name = json.loads(members.get("name", "null"))
    arguments = members.get("arguments", members.get("parameters", "{}"))
    if arguments.startswith('"'):  # an object as text
        arguments = sound_json(json.loads(arguments) or "{}") or ""
    arguments = "{}" if arguments == "null" else arguments
    return (name, arguments) if isinstance(name, str) and arguments.startswith("{") else None


def _members(text: str) -> dict[str, str]:
    """The members of a sound object, their values as they are written. Raises ValueError for anything else."""
    parts = list(_parts(text)) if text.startswith("{") else []
    return {json.loads(key): value for key, value in zip(parts[::2], parts[1::2], strict=True)}


def _parts(text: str) -> Iterator[str]:
    """The values in a sound list, or the keys and values in a sound object, as they are written."""
    at = 1
    while (start := _SEPARATORS.match(text, at).end()) < len(text) - 1:  # type: ignore[union-attr]
        _, at = _JSON.raw_decode(text, start)
        yield text[start:at]
