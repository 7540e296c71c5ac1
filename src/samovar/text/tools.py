"""Tools as a client defines them, and values that are written as plain text, typed by a tool's schema."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from samovar.text.chat_messages import Json
from samovar.text.json_stream import sound_json

STRING: Final = frozenset(("string",))
NULLS: Final = ("null", "none")  # templates print None
_ORDER: Final = ("null", "boolean", "integer", "number", "array", "object")
_TYPES: Final = frozenset((*_ORDER, "string"))
_OTHER_NAMES: Final = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
}
_INTEGER: Final = re.compile(r"([+-]?)0*([0-9]+)(?:\.0*)?")
_NUMBER: Final = re.compile(r"([+-]?)(?=\.?[0-9])0*([0-9]*)(?:\.([0-9]*))?([eE][+-]?[0-9]+)?")
_MAX_DEPTH: Final = 16


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function that a model may call. `parameters` is the JSON schema of its arguments, None where any will do; `is_strict`
    when calls have to match it."""

    name: str
    parameters: Mapping[str, Json] | None = None
    is_strict: bool = False

    @cached_property
    def properties(self) -> Mapping[str, Json]:
        """The schemas of its arguments by name."""
        found = (self.parameters or {}).get("properties")
        return found if isinstance(found, dict) else {}

    def types(self, parameter: str) -> frozenset[str]:
        """What an argument may be, in JSON schema's words. One that is not defined, or without a type, is a string."""
        return types_of(self.properties.get(parameter), self.parameters or {}) or STRING


def named_tools(tools: Sequence[Json] | None) -> dict[str, Tool]:
    """Tools by name, from definitions that `chat_messages.read_tools` has checked."""
    named = dict[str, Tool]()
    for tool in tools or ():
        assert isinstance(tool, dict)
        function = tool.get("function", tool)
        assert isinstance(function, dict)
        name, parameters = str(function["name"]), function.get("parameters")
        named[name] = Tool(
            name=name,
            parameters=parameters if isinstance(parameters, dict) else None,
            is_strict=function.get("strict") is True,
        )
    return named


def types_of(schema: Json, root: Mapping[str, Json], depth: int = 0) -> frozenset[str]:
    """The types that a schema speaks of; none where it speaks of none. `root` is what its references point into."""
    if not isinstance(schema, dict) or depth == _MAX_DEPTH:
        return frozenset()
    if isinstance(schema.get("$ref"), str):
        return types_of(referred(str(schema["$ref"]), root), root, depth + 1)
    given = schema.get("type")
    if given is not None:
        named = [str(name).lower() for name in (given if isinstance(given, list) else [given])]
        return frozenset(_OTHER_NAMES.get(name, name) for name in named) & _TYPES
    if isinstance(values := schema.get("enum", [schema["const"]] if "const" in schema else None), list):
        return frozenset(_type_of_value(value) for value in values)
    found = frozenset[str]()
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(parts := schema.get(key), list):
            found |= frozenset[str]().union(*(types_of(part, root, depth + 1) for part in parts))
    return found or frozenset(kind for key, kind in (("properties", "object"), ("items", "array")) if key in schema)


def typed(text: str, types: frozenset[str]) -> str:
    """A value that was written as text, as JSON: the first of the types that it can be, and a string where it is none."""
    bare = text.strip()
    if bare == "null" and "string" not in types:
        return "null"
    for kind in _ORDER:
        if kind in types and (found := _read(kind, bare)) is not None:
            return found
    return json.dumps(text, ensure_ascii=False)


def _read(kind: str, text: str) -> str | None:
    if kind == "null":
        return "null" if text.lower() in NULLS else None
    if kind == "boolean":
        return text.lower() if text.lower() in ("true", "false") else None
    if kind == "integer":
        found = _INTEGER.fullmatch(text)
        return None if found is None else _signed(found[1]) + found[2]
    if kind == "number":
        return _read_number(text)
    return sound_json(text) if text[:1] == ("[" if kind == "array" else "{") else None


def _read_number(text: str) -> str | None:
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    fraction = "" if not found[3] else f".{found[3]}"
    return f"{_signed(found[1])}{found[2] or '0'}{fraction}{found[4] or ''}"


def _signed(sign: str) -> str:
    return "-" if sign == "-" else ""


def _type_of_value(value: Json) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def referred(reference: str, root: Mapping[str, Json]) -> Json:
    """What `#/$defs/x` points to; None for what is not there."""
    found: Json = dict(root)
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found
