"""What a grammar of calls lets through is read as calls that match their schemas, and nothing else is let through."""

import json

import jsonschema
import numpy as np
import pytest

from samovar.errors import BadRequest
from samovar.text.grammar import GrammarSpec
from samovar.text.tool_call_parser import ToolCallParser
from samovar.text.tool_grammar import CallForm, calls_only, calls_or, style_of, text_and_calls
from samovar.text.tools import Tool
from tests.text.grammar_walks import compiler, walk
from tests.text.test_tool_call_parser import fold
from tests.text.witnesses import qwen3, template

SCHEMA = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "minLength": 1, "maxLength": 12},
        "path": {"type": "string", "pattern": "^[a-c]+/\\d$"},
        "depth": {"type": "integer", "minimum": 1, "maximum": 9},
        "lamp": {"type": "boolean"},
        "colour": {"$ref": "#/$defs/colour"},
        "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
        "more": {
            "type": "object",
            "properties": {"all": {"type": "array", "items": {"$ref": "#/$defs/colour"}, "maxItems": 2}},
            "required": ["all"],
            "additionalProperties": False,
        },
    },
    "required": ["place", "depth", "more"],
    "$defs": {"colour": {"enum": ["red", 'a"b/é']}},
}
TOOLS = [
    Tool(name="look", parameters=SCHEMA, is_strict=True),
    Tool(name="look_at", parameters={"type": "object"}),
    Tool(name="wait"),
]
SCHEMAS = {"look": {**SCHEMA, "additionalProperties": False}, "look_at": {"type": "object"}, "wait": {"maxProperties": 0}}
CALL = {
    "hermes": '<tool_call>\n{"name": "look", "arguments": %s}\n</tool_call>',
    "coder": "<tool_call>\n<function=look>\n%s</function>\n</tool_call>",
}
GOOD = {
    "hermes": '{"place":"attic", "depth": 3,"more":{"all": ["red"]}}',
    "coder": "<parameter=place>\nattic\n</parameter>\n<parameter=depth>\n3\n</parameter>\n"
    '<parameter=more>\n{"all": ["red"]}\n</parameter>\n',
}


def form(style, has_tokens, max_calls=None):
    return CallForm(style=style, control_tokens=qwen3().control_tokens if has_tokens else {}, max_calls=max_calls)


def read(text):
    """Text and calls; the arguments as they are written match their tool's schema."""
    parser = ToolCallParser({tool.name: tool for tool in TOOLS}, {}, finds_bare=False)
    content, calls = fold(parser.push(None, text) + parser.finish(is_cut=False))
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])
    return content, [name for name, _ in calls]


def takes(spec, text, has_tokens=True):
    """Whether a text is a whole answer; in Qwen3's tokens, or with tags in ordinary ones."""
    tokenizer, grammars = compiler("qwen3")
    ids = tuple(tokenizer.encode(text, parse_control=has_tokens))
    matcher = grammars.compile(spec)
    if matcher.n_allowed(ids) < len(ids):
        return False
    for token_id in ids:
        matcher.accept(token_id)
    return matcher.is_accepting


@pytest.mark.slow
@pytest.mark.parametrize("style", ["hermes", "coder"])
@pytest.mark.parametrize("has_tokens", [True, False])
def test_random_answers_are_calls_that_match_their_schemas(style, has_tokens):
    tokenizer, grammars = compiler("qwen3")
    found = set()
    for tools in ([TOOLS[0]], TOOLS):
        only = calls_only(tools, form(style, has_tokens), param="tools")
        either = calls_or(GrammarSpec.choice(["yes", "no"]), tools, form(style, has_tokens, 1), param="tools")
        for spec in (only, either) if tools is TOOLS else (only,):
            for seed in range(4):
                text, is_whole = walk(grammars.compile(spec), tokenizer, np.random.default_rng(seed), n_free=6, n_max=200)
                if is_whole:
                    content, names = read(text.decode())
                    assert bool(names) != (content in ("yes", "no"))
                    assert names if spec is only else len(names) <= 1
                    found.update(names)
    assert "look" in found


@pytest.mark.parametrize("style", ["hermes", "coder"])
@pytest.mark.parametrize("has_tokens", [True, False])
def test_what_has_to_be_a_call_is_nothing_else(style, has_tokens):
    good, spec = CALL[style] % GOOD[style], calls_only(TOOLS, form(style, has_tokens), param="tools")
    one = calls_only(TOOLS, form(style, has_tokens, 1), param="tools")
    assert read(good) == ("", ["look"])
    assert takes(spec, good, has_tokens)
    assert takes(spec, f"{good}\n{good}", has_tokens)
    assert takes(one, good, has_tokens)
    wrong = [
        "", f"Hm. {good}", f"{good} Done.", good.replace("look", "zz"), good.replace("3", "10"), good.replace("attic", ""),
        good.replace("attic", "a" * 13), good.replace("red", "blue"), CALL[style] % "", good.replace("place", "where"),
    ]  # fmt: skip
    assert not [text for text in wrong if takes(spec, text, has_tokens)]
    assert not takes(one, f"{good}\n{good}", has_tokens)


@pytest.mark.parametrize("style", ["hermes", "coder"])
@pytest.mark.parametrize("has_tokens", [True, False])
def test_text_is_free_until_a_call_begins(style, has_tokens):
    good, spec = CALL[style] % GOOD[style], text_and_calls(TOOLS, form(style, has_tokens), param="tools")
    free = good.replace("look", "look_at").replace("depth", "deep")
    for text in ("", "Hm.", "a < b\n\n<function=look>\n{", good, f"Hm.\n\n{good}", f"{good}\n{good} Done.", free):
        assert takes(spec, text, has_tokens), text
    assert not takes(spec, f"Hm. {good.replace('depth', 'deep')}", has_tokens)
    assert not takes(spec, good.replace("look", "zz"), has_tokens)
    one = text_and_calls(TOOLS, form(style, has_tokens, 1), param="tools")
    assert takes(one, f"Hm. {good} Done.", has_tokens)
    assert not takes(one, f"{good}\n{good}", has_tokens)


def test_the_format_is_that_of_the_template():
    assert [style_of(template(name)) for name in ("qwen3", "qwen2_5", "qwen3_5_nothink")] == ["hermes", "hermes", "coder"]


REFUSED = {
    "x-guidance": ({"properties": {}, "x-guidance": {}}, "hermes", "x-guidance"),
    "too deep": ({"properties": {"a": json.loads('{"items":' * 120 + "{}" + "}" * 120)}}, "hermes", "levels deep"),
    "odd name": ({"properties": {"a b": {}}}, "coder", "'a b' has a name"),
    "combined": ({"properties": {"a": {}}, "anyOf": [{"required": ["a"]}]}, "coder", "anyOf beside its properties"),
    "no end": ({"properties": {"a": {"$ref": "#/properties/a"}}}, "coder", "nest more than"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_schema_that_cannot_be_followed_is_refused_by_name(name):
    parameters, style, message = REFUSED[name]
    with pytest.raises(BadRequest, match=message) as caught:
        calls_only([Tool(name="f", parameters=parameters)], form(style, True), param="tools")
    assert caught.value.param == "tools"
    assert "the tool 'f' cannot be held to its schema" in str(caught.value)


@pytest.mark.parametrize("pattern", ["a/b", "^a\nb$", "\\/", "x$", "a|b", '^[/"]+$'])
def test_patterns_of_strings_cannot_break_out_of_their_place(pattern):
    spec = calls_only(
        [Tool(name="f", parameters={"properties": {"s": {"type": "string", "pattern": pattern}}, "required": ["s"]})],
        form("coder", True),
        param="tools",
    )
    tokenizer, grammars = compiler("qwen3")
    text, is_whole = walk(grammars.compile(spec), tokenizer, np.random.default_rng(0), n_free=20, n_max=60)
    assert text.startswith(b"<tool_call>\n<function=f>\n<parameter=s>\n")
    assert not is_whole or text.endswith(b"\n</parameter>\n</function>\n</tool_call>")


@pytest.mark.parametrize("pattern", ["(", "a\\", "[", "(?=a)"])
def test_patterns_that_are_none_are_refused(pattern):
    parameters = {"properties": {"s": {"type": "string", "pattern": pattern}}}
    spec = calls_only([Tool(name="f", parameters=parameters)], form("coder", True), param="tools")
    with pytest.raises(BadRequest, match="what the tools' schemas ask for is refused") as caught:
        compiler("qwen3")[1].compile(spec)
    assert caught.value.param == "tools"
