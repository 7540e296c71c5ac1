"""What an answer has to match, as plain data that can be sent to another process. Nothing is compiled here."""

import json
from dataclasses import dataclass, field
from typing import Final, Literal

from samovar.errors import BadRequest, FormatError

GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "lark", "ebnf", "tools"]

MAX_SOURCE_CHARS: Final = 256 << 10  # a schema of 11 tools, all written out, has 68 thousand
MAX_CHOICES: Final = 10_000
MAX_NESTING: Final = 100  # serde_json, which llguidance reads schemas with, refuses 128


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarSpec:
    """A grammar as its author wrote it. Made by the functions of this class, which check what can be checked without compiling.

    `source` is the schema's JSON text, the pattern, the grammar's text, the choices, or "" for any JSON object. `param` is the
    field of the request it came from: it is named in messages, and makes no difference otherwise.
    """

    kind: GrammarKind
    source: str | tuple[str, ...]
    param: str | None = field(default=None, compare=False)

    @classmethod
    def json_schema(cls, schema: str | dict[str, object], *, param: str = "response_format") -> "GrammarSpec":
        """JSON that a schema allows; the schema is an object, or its text.

        Properties come in the schema's order. Between the parts of the JSON stands nothing, a space, or a line break with up
        to 32 characters of indentation. BadRequest for a schema that is no JSON, too large (256 Ki characters) or nested
        deeper than 100 levels, and for the key x-guidance.
        """
        if not isinstance(schema, str):
            schema = _json_text(schema, param)
        _check_size("JSON schema", schema, param)
        if (depth := _json_nesting(schema)) > MAX_NESTING:
            found = f"the JSON schema is nested {depth} levels deep"
            raise BadRequest(f"{found}; expected at most {MAX_NESTING}: put parts into $defs and refer to them", param=param)
        try:
            parsed = parse_schema(schema, "JSON schema")
        except FormatError as error:
            raise BadRequest(str(error), param=param) from None
        return cls(kind="json_schema", source=_json_text(parsed, param), param=param)

    @classmethod
    def json_object(cls, *, param: str = "response_format") -> "GrammarSpec":
        """Any JSON object."""
        return cls(kind="json_object", source="", param=param)

    @classmethod
    def regex(cls, pattern: str, *, param: str = "regex") -> "GrammarSpec":
        """Texts that a pattern matches from end to end. Its syntax is Rust's: no look-around, no back-references.

        \\d is 0 to 9 alone, as in JSON schemas: which other digits there are depends on who reads the answer.
        """
        _check_text("pattern", pattern, param)
        return cls(kind="regex", source=pattern, param=param)

    @classmethod
    def choice(cls, choices: tuple[str, ...] | list[str], *, param: str = "choice") -> "GrammarSpec":
        """One of up to 10,000 texts, none of them empty."""
        if not isinstance(choices, (list, tuple)) or not 1 <= len(choices) <= MAX_CHOICES:
            found = f"{len(choices)} of them" if isinstance(choices, (list, tuple)) else f"a {type(choices).__name__}"
            raise BadRequest(f"the choices are {found}; expected a list of 1 to {MAX_CHOICES} texts", param=param)
        for choice in choices:
            _check_text("choice", choice, param)
        _check_size("list of choices", "".join(choices), param)
        return cls(kind="choice", source=tuple(choices), param=param)

    @classmethod
    def lark(cls, grammar: str, *, param: str = "grammar") -> "GrammarSpec":
        """A grammar as llguidance writes Lark: the rule `start`, rules in small letters, terminals in capitals."""
        _check_text("grammar", grammar, param)
        return cls(kind="lark", source=grammar, param=param)

    @classmethod
    def ebnf(cls, grammar: str, *, param: str = "grammar") -> "GrammarSpec":
        """A grammar as llama.cpp writes EBNF (GBNF): the rule `root`, and `::=`."""
        _check_text("grammar", grammar, param)
        return cls(kind="ebnf", source=grammar, param=param)

    @classmethod
    def tools(cls, grammar: str, *, param: str) -> "GrammarSpec":
        """A grammar of `text.tool_grammar`: Lark as it is compiled."""
        _check_size("list of tools", grammar, param)
        return cls(kind="tools", source=grammar, param=param)


def parse_schema(text: str, where: str) -> dict[str, object]:
    """The JSON object that a text spells. Raises FormatError beginning with `where`, also for options of llguidance in it."""
    # Imported where it is needed: it brings NumPy along, and the process that tries other grammars has no use for it.
    from samovar.formats.json_object import parse_json_object

    schema = parse_json_object(text.encode("utf-8", "surrogatepass"), where)
    if "x-guidance" in schema:
        raise FormatError(f"{where}: it has the key x-guidance, which is set by this program: remove it")
    return schema


def _json_text(value: object, param: str) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise BadRequest(f"the JSON schema is nested too deep; expected at most {MAX_NESTING} levels", param=param) from None
    except (TypeError, ValueError) as error:
        raise BadRequest(f"the JSON schema is no JSON: {error}", param=param) from None


def _json_nesting(text: str) -> int:
    """How deep brackets outside strings nest; text that is no JSON gives some number."""
    depth = deepest = 0
    for part in text.replace("\\\\", "").replace('\\"', "").split('"')[::2]:
        for char in part:
            if char in "[{":
                depth += 1
                deepest = max(deepest, depth)
            elif char in "]}":
                depth -= 1
    return deepest


def _check_text(what: str, text: object, param: str) -> None:
    if not isinstance(text, str) or not text:
        found = "empty" if text == "" else f"a {type(text).__name__}"
        raise BadRequest(f"the {what} is {found}; expected text of at least one character", param=param)
    _check_size(what, text, param)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"the {what} has half a surrogate pair, which is no valid Unicode: remove it", param=param) from None


def _check_size(what: str, text: str, param: str) -> None:
    if len(text) > MAX_SOURCE_CHARS:
        found = f"the {what} has {len(text)} characters"
        raise BadRequest(f"{found}; expected at most {MAX_SOURCE_CHARS}: leave out what the answer does not need", param=param)
