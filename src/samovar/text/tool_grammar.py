"""Grammars of answers that call tools, in the format that a model's template teaches.

Arguments match their tool's schema. In Qwen3-Coder's format the arguments are raw text: those that may be any string are free
but for the tags that would end them, and of what else a schema asks of strings `format` is not looked at.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from samovar.errors import BadRequest
from samovar.text.chat_messages import Json
from samovar.text.grammar_source import json_part, part_of
from samovar.text.grammar_spec import GrammarSpec
from samovar.text.tools import Tool, referred, types_of
from samovar.text.xml_arguments import CLOSE_TAG, OPEN_TAG

Style = Literal["hermes", "coder"]

_ANY_OBJECT: Final[dict[str, Json]] = {"type": "object"}
_NO_ARGUMENTS: Final[dict[str, Json]] = {"type": "object", "properties": {}, "additionalProperties": False}
_COMBINES: Final = (
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
    "if",
    "patternProperties",
    "unevaluatedProperties",
    "additionalProperties",
)
_END: Final = '"\\n</parameter>\\n"'
_VALUE: Final = r"/(?s:.*)/ & ~/(?s:.*(<\/parameter>|<parameter=|<\/function>|<\/?tool_call>).*)/"
_NAME: Final = re.compile(r"""[^\s"'<>=]+""")
_MAX_DEPTH: Final = 16


def style_of(template_source: str) -> Style:
    """The format of calls that a template teaches."""
    return "coder" if "<function=" in template_source else "hermes"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForm:
    """How a model writes calls: the format, and whether it has tokens for the tags. At most `max_calls`, if that is given."""

    style: Style
    control_tokens: Mapping[str, int]
    max_calls: int | None = None


def calls_only(tools: Sequence[Tool], form: CallForm, *, param: str) -> GrammarSpec:
    """Answers that are calls of these tools, and nothing else. Raises BadRequest for a schema that is refused."""
    return _Grammar(form).spec("start: calls", tools, param)


def text_and_calls(tools: Sequence[Tool], form: CallForm, *, param: str) -> GrammarSpec:
    """Any text, with calls in it; the arguments of those that are not strict are free. Raises BadRequest."""
    times = "*" if form.max_calls is None else "?"
    if OPEN_TAG in form.control_tokens:
        start = f"start: TEXT (call TEXT){times}\nTEXT: /(?s:.*)/"
    else:  # a terminal takes as much as it can: text before a tag and the tag are one
        start = f'start: (BEFORE inner){times} TEXT\nTEXT: /(?s:.*)/ & ~/(?s:.*{OPEN_TAG}.*)/\nBEFORE: TEXT "{OPEN_TAG}"'
    return _Grammar(form, free=[tool.name for tool in tools if not tool.is_strict]).spec(start, tools, param)


def calls_or(answer: GrammarSpec, tools: Sequence[Tool], form: CallForm, *, param: str) -> GrammarSpec:
    """Answers that are calls, or match another grammar. Raises BadRequest for a grammar that cannot be combined."""
    start = f"start: calls | answer\nanswer: {part_of(answer)}"
    return _Grammar(form).spec(start, tools, param)


@dataclass(slots=True)
class _Grammar:
    """Rules as they are made. The arguments of tools that are named in `free` are free."""

    form: CallForm
    free: Sequence[str] = ()
    rules: list[str] = field(default_factory=list)

    def spec(self, start: str, tools: Sequence[Tool], param: str) -> GrammarSpec:
        """The grammar that begins with `start`, with calls of these tools."""
        make = self._coder_call if self.form.style == "coder" else self._hermes_call
        for index, tool in enumerate(tools):
            try:
                self.rules.append(f"call_{index}: {make(index, tool)}")
            except BadRequest as error:
                raise BadRequest(f"the tool {tool.name!r} cannot be held to its schema: {error}", param=param) from None
        any_call = " | ".join(f"call_{index}" for index in range(len(tools)))
        more = "" if self.form.max_calls == 1 else ' ("\\n" call)*'
        call = f"calls: call{more}\ncall: {self._tag(OPEN_TAG)} inner\ninner: ({any_call}) {self._tag(CLOSE_TAG)}"
        return GrammarSpec.tools("\n".join([start, call, *self.rules]), param=param)

    def _tag(self, tag: str) -> str:
        return tag if tag in self.form.control_tokens else _quoted(tag)

    def _hermes_call(self, index: int, tool: Tool) -> str:
        schema = _ANY_OBJECT if tool.name in self.free else _arguments_schema(tool)
        self.rules.append(f"arguments_{index}: {_json(schema)}")
        head = _quoted(f'\n{{"name": "{tool.name}", "arguments": ')
        return f'{head} arguments_{index} "}}\\n"'

    def _coder_call(self, index: int, tool: Tool) -> str:
        head, end = _quoted(f"\n<function={tool.name}>\n"), _quoted("</function>\n")
        schema = _arguments_schema(tool)
        is_free = tool.name in self.free
        if is_free or (not tool.properties and schema.keys() <= {"type", "title", "description", "additionalProperties"}):
            if not is_free and schema.get("additionalProperties") is False:
                return f"{head} {end}"
            self._add("NAME: /[^ \\n\"'<>=]+/", f"VALUE: {_VALUE}", f"ANY: VALUE {_END}")
            return f'{head} ("<parameter=" NAME ">\\n" ANY)* {end}'
        if combined := sorted(schema.keys() & set(_COMBINES[:-1])):
            raise BadRequest(f"it has {combined[0]} beside its properties, which this model's format of calls cannot follow")
        given = schema.get("required")
        required = [str(name) for name in given] if isinstance(given, list) else []
        parts = []
        undefined = {name: None for name in required if name not in tool.properties}
        for at, (name, part) in enumerate({**tool.properties, **undefined}.items()):
            if not _NAME.fullmatch(name):
                raise BadRequest(f"the parameter {name!r} has a name that this model's format of calls cannot hold")
            value = self._value(f"{index}_{at}", part, schema)
            self.rules.append(f'parameter_{index}_{at}: {_quoted(f"<parameter={name}>")} "\\n" ({value})')
            parts.append(f"parameter_{index}_{at}{'' if name in required else '?'}")
        return f"{head} {' '.join(parts)} {end}"

    def _value(self, name: str, given: Json, root: Mapping[str, Json], depth: int = 0) -> str:
        """What an argument may be, with its end."""
        schema: Mapping[str, Json] = given if isinstance(given, dict) else {}
        if depth == _MAX_DEPTH:
            raise BadRequest(f"its references nest more than {_MAX_DEPTH} deep")
        if isinstance(schema.get("$ref"), str):
            return self._value(name, referred(str(schema["$ref"]), root), root, depth + 1)
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(values, list) and values:
            texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
            return " | ".join(_quoted(f"{text}\n</parameter>\n") for text in texts)
        for key in ("anyOf", "oneOf"):
            if isinstance(parts := schema.get(key), list) and parts:
                return " | ".join(self._value(f"{name}_{at}", part, root, depth + 1) for at, part in enumerate(parts))
        types = types_of(dict(schema), root)
        if not types or "string" in types:
            return self._string(name, schema)
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        self.rules.append(f"value_{name}: {_json({**definitions, **schema})}")
        return f"value_{name} {_END}"

    def _string(self, name: str, schema: Mapping[str, Json]) -> str:
        """A terminal of its own for each string: one that takes as much as it can would take its end tag too."""
        bounds = [_VALUE]
        least, most, pattern = (schema.get(key) for key in ("minLength", "maxLength", "pattern"))
        if least is not None or most is not None:
            bounds.append(f"/(?s:.{{{least or 0},{'' if most is None else most}}})/")
        if isinstance(pattern, str):
            bounds.append(_searched(pattern))
        self._add(f"VALUE_{name}: {' & '.join(bounds)}", f"STRING_{name}: VALUE_{name} {_END}")
        return f"STRING_{name}"

    def _add(self, *rules: str) -> None:
        self.rules += [rule for rule in rules if rule not in self.rules]


def _arguments_schema(tool: Tool) -> dict[str, Json]:
    """The schema of a call's arguments. Where it lists properties, and says of no others, there are no others."""
    schema = dict(tool.parameters or _NO_ARGUMENTS)
    schema.setdefault("type", "object")
    if "properties" in schema and not any(key in schema for key in _COMBINES):
        schema["additionalProperties"] = False
    return schema


def _json(schema: dict[str, Json]) -> str:
    """A part of a grammar: JSON that a schema allows."""
    return json_part(json.loads(str(GrammarSpec.json_schema(dict(schema)).source)))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _searched(pattern: str) -> str:
    """A pattern that a text need not match from end to end, as JSON schemas have it, as a terminal that does."""
    left = "" if pattern.startswith("^") else "(?s:.*)"
    is_anchored = pattern.endswith("$") and not pattern.endswith("\\$")
    right = "" if is_anchored else "(?s:.*)"
    inner = pattern.removeprefix("^")
    inner = inner.removesuffix("$") if is_anchored else inner
    inner = re.sub(r"\\.|[/\n]", lambda at: {"/": "\\/", "\n": "\\n"}.get(at[0], at[0]), inner, flags=re.DOTALL)
    return f"/{left}({inner}){right}/"
