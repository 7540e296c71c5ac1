"""A grammar spec as text in the one language that llguidance compiles: its own kind of Lark.

Forcing is turned off in every grammar. With it, llguidance follows bytes that have no alternative until there is one, which
takes forever where there never is: `start: /x+/ "x"`.
"""

import json
import re
from collections.abc import Sequence
from typing import Final

from samovar.errors import BadRequest, FormatError
from samovar.text.grammar_spec import GrammarKind, GrammarSpec, parse_schema

_HEADER: Final = '%llguidance {"no_forcing": true}\n'
N_HEADER_LINES: Final = 1

# Between the tokens of JSON: nothing, a space, or a line break with up to 32 characters of indentation. Without a bound a model
# may write spaces for ever.
_JSON_OPTIONS: Final = {"whitespace_pattern": r" |\n[ \t]{0,32}", "whitespace_flexible": True, "lenient": False}

_MAX_OPTIONAL: Final = 240  # each takes 4 of the 1,000 items that `grammar_trial.parser_limits` allows a row

# What stands in a Lark grammar apart from names and operators.
_LARK_PARTS: Final = re.compile(
    r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/(?:\\.|[^/\\\n])+/|(?P<json>%json\s*)|(?P<ids><\[)|\[(?P<options>[^\]"/\[]*)\]'
)
_UNSUPPORTED_OPTIONS: Final = ("temperature", "max_tokens", "capture")


def to_lark(kind: GrammarKind, source: str | list[str]) -> str:
    """The grammar of a spec's kind and source. Raises BadRequest for what is not supported."""
    if kind in ("choice", "json_object", "json_schema", "regex"):
        return f"{_HEADER}start: {_part(kind, source)}"
    assert isinstance(source, str)
    if kind == "tools":
        return _HEADER + source
    if "%llguidance" in source:
        raise BadRequest("the grammar holds %llguidance, whose options are set by this program: remove it")
    return _HEADER + (_from_gbnf(source) if kind == "ebnf" else _checked_lark(source))


def part_of(spec: GrammarSpec) -> str:
    """A spec as a part of a larger grammar. Raises BadRequest for one that is a grammar of its own."""
    if spec.kind in ("lark", "ebnf", "tools"):
        raise BadRequest(
            f"{spec.param} is a grammar of its own, and cannot be combined with tools; use a JSON schema, a pattern or choices",
            param=spec.param,
        )
    return _part(spec.kind, spec.source)


def _part(kind: GrammarKind, source: str | Sequence[str]) -> str:
    if kind == "choice":
        return f"/{'|'.join(map(_literal, source))}/"
    assert isinstance(source, str)
    if kind == "regex":
        from llguidance import regex_to_lark

        return f"/{regex_to_lark(source, 'd')}/"
    return json_part({"type": "object"} if kind == "json_object" else json.loads(source))


def json_part(schema: dict[str, object]) -> str:
    """JSON that a schema allows, as a part of a larger grammar. Raises BadRequest for one with too much that is optional."""
    _check_optional(schema)
    return "%json " + json.dumps({**schema, "x-guidance": _JSON_OPTIONS})


def _check_optional(part: object) -> None:
    """Refuse what compiles and then exceeds the limits at the first bracket of the answer."""
    if isinstance(part, list):
        for inner in part:
            _check_optional(inner)
    if not isinstance(part, dict):
        return
    properties, required = part.get("properties"), part.get("required")
    if isinstance(properties, dict):
        names = required if isinstance(required, list) else []
        n = len(properties.keys() - {name for name in names if isinstance(name, str)})
        if n > _MAX_OPTIONAL:
            raise BadRequest(
                f"an object in it has {n} optional properties; expected at most {_MAX_OPTIONAL}: require more of them"
            )
    for inner in part.values():
        _check_optional(inner)


def _literal(text: str) -> str:
    """A pattern that matches `text` alone, in Lark's slashes."""
    return "".join(char if char.isalnum() or not char.isascii() else f"\\x{ord(char):02X}" for char in text)


def _from_gbnf(source: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return gbnf_to_lark(re.sub(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", _gbnf_escape, source)).removeprefix(
            "%llguidance {}"
        )
    except Exception as error:  # it raises plain Exception, and IndexError for text that breaks off
        raise BadRequest(f"it is no grammar in GBNF: {error or type(error).__name__}") from None


def _gbnf_escape(match: re.Match[str]) -> str:
    """An escape as the converter understands it: it drops leading zeros of \\u0041, which then reads on into what follows."""
    if len(match[1]) == 1:
        return match[0]
    code = int(match[1][1:], 16)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise BadRequest(f"{match[0]} is no character")
    return f"\\x{code:02x}" if code < 0x80 else chr(code)


def _checked_lark(source: str) -> str:
    """The grammar with our options in its JSON schemas. Refuses what would be ignored, or would name tokens by number."""
    done = 0
    pieces: list[str] = []
    while found := _LARK_PARTS.search(source, done):
        pieces.append(source[done : found.start()])
        done = found.end()
        if found["ids"]:
            raise BadRequest("the grammar names tokens by number, <[...]>, which is not supported: spell their text")
        for option in _UNSUPPORTED_OPTIONS:
            if found["options"] and re.search(rf"\b{option}\b", found["options"]):
                raise BadRequest(f"the grammar gives a rule the option {option}, which is not supported: remove it")
        if not found["json"]:
            pieces.append(found[0])
            continue
        try:
            _, done = json.JSONDecoder().raw_decode(source, found.end())
            pieces.append(json_part(parse_schema(source[found.end() : done], "%json")))
        except (ValueError, FormatError) as error:
            raise BadRequest(f"a schema of the grammar, behind %json, cannot be read: {error}") from None
    return "".join([*pieces, source[done:]])
