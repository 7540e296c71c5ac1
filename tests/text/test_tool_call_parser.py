"""Calls are found alike, however the text is cut, and nothing that a model writes is lost."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samovar.text.json_stream import JsonStream, sound_json
from samovar.text.tool_call_parser import ToolCallParser
from samovar.text.tools import Tool
from tests.text.witnesses import qwen3

TOOLS = {
    "f": Tool(
        name="f",
        parameters={
            "type": "object",
            "properties": {
                "s": {"type": "string"},
                "command": {"type": "string"},
                "i": {"type": "integer"},
                "x": {"type": "number"},
                "b": {"type": "boolean"},
                "o": {"type": "object"},
                "a": {"type": "array", "items": {"type": "integer"}},
                "n": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "r": {"$ref": "#/$defs/count"},
                "e": {"enum": [1, 2, None]},
                "any": {},
            },
            "$defs": {"count": {"type": ["integer", "string"]}},
        },
    ),
    "g": Tool(name="g"),
    "mcp.files/read-it": Tool(name="mcp.files/read-it"),
}
HERMES = "<tool_call>\n%s\n</tool_call>"
ARGUMENTS = '{"name": "f", "arguments": %s}'
CODER = "<tool_call>\n<function=f>\n%s\n</function>\n</tool_call>"
P = "<parameter=%s>\n%s\n</parameter>"


def fold(deltas):
    """The text, and names and arguments of the calls."""
    content, calls = "", []
    for delta in deltas:
        assert delta.text
        if delta.field == "content":
            content += delta.text
        elif delta.field == "tool_name":
            assert delta.call == len(calls)
            calls.append((delta.text, ""))
        else:
            assert (delta.field, delta.call) == ("tool_arguments", len(calls) - 1)
            calls[-1] = (calls[-1][0], calls[-1][1] + delta.text)
    return content, calls


def parse(pieces, *, is_cut=False, **options):
    """By a tokenizer that has no tags."""
    parser = ToolCallParser(TOOLS, {}, **options)
    return fold([delta for piece in pieces for delta in parser.push(None, piece)] + parser.finish(is_cut=is_cut))


def parse_ids(ids, *, is_cut=False, **options):
    """By Qwen3's tokens."""
    parser, detokenizer = ToolCallParser(TOOLS, qwen3().control_tokens, **options), qwen3().detokenizer()
    deltas = [delta for i in ids for delta in parser.push(i, detokenizer.push(i))]
    return fold(deltas + parser.push(None, detokenizer.finish()) + parser.finish(is_cut=is_cut))


def call(arguments="{}", name="f"):
    return name, arguments


# What is written; the text, and the calls
SOUND = [
    (HERMES % ARGUMENTS % '{"s": "x"}', "", [call('{"s": "x"}')]),
    (HERMES % ARGUMENTS % "{}", "", [call()]),
    (HERMES % ARGUMENTS % '{ "i":1,\n  "o" : {"k": [1, {"l": null}], "é": "東京 🙂 \\u00e9 \\n \\" \\\\"} }', "",
     [call('{ "i":1,\n  "o" : {"k": [1, {"l": null}], "é": "東京 🙂 \\u00e9 \\n \\" \\\\"} }')]),
    (HERMES % ARGUMENTS % '{"i": 123456789012345678901234567890, "x": 0.10000000000000000001e-400}', "",
     [call('{"i": 123456789012345678901234567890, "x": 0.10000000000000000001e-400}')]),
    ("Look:\n\n" + HERMES % ARGUMENTS % "{}" + "\n\nDone.\n", "Look:\nDone.\n", [call()]),
    (f"a {HERMES % ARGUMENTS % '{}'} b", "a  b", [call()]),
    ("\n\n" + HERMES % ARGUMENTS % "{}" + "\n" + HERMES % '{"name": "g", "arguments": {"s": 1}}' + "\n", "",
     [call(), call('{"s": 1}', "g")]),
    (HERMES % '{"name": "mcp.files/read-it", "arguments": {}}', "", [call(name="mcp.files/read-it")]),
    (HERMES % '{"arguments": {"s": "x"}, "name": "f"}', "", [call('{"s": "x"}')]),
    (HERMES % '{"name": "f", "parameters": {"s": "x"}}', "", [call('{"s": "x"}')]),
    (HERMES % '{"name": "f", "arguments": {}, "id": "c1"}', "", [call()]),
    (HERMES % '{"name": "f", "arguments": null}', "", [call()]),
    (HERMES % '{"name": "f"}', "", [call()]),
    (HERMES % '{"name": "f", "arguments": "{\\"s\\": \\"x\\\\ny\\"}"}', "", [call('{"s": "x\\ny"}')]),
    (HERMES % '{"type": "function", "function": {"name": "f", "arguments": {"i": 1}}}', "", [call('{"i": 1}')]),
    (HERMES % '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"k": 2}}]', "", [call(), call('{"k": 2}', "g")]),
    (HERMES % '{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}', "", [call(), call(name="g")]),
    (CODER % P % ("s", "x"), "", [call('{"s": "x"}')]),
    ("<tool_call>\n<function=f>\n</function>\n</tool_call>", "", [call()]),
    ("<tool_call><function=f></function></tool_call>", "", [call()]),
    (CODER % P % ("s", "\n  if a < b && c > d:\n\n    <p>\"é\\n\"</p>\n"), "",
     [call('{"s": "\\n  if a < b && c > d:\\n\\n    <p>\\"é\\\\n\\"</p>\\n"}')]),
    ("A\n\n" + CODER % "\n".join([P % ("s", "1"), P % ("i", "1"), P % ("unknown", "1"), P % ("any", "{}")]) + "\n\nB", "A\nB",
     [call('{"s": "1", "i": 1, "unknown": "1", "any": "{}"}')]),
    ("<tool_call>\n<function=f>\n<parameter=s>x</parameter>\n<parameter=i>7</parameter></function></tool_call>", "",
     [call('{"s": "x", "i": 7}')]),
    (CODER % P % ("s", "") + CODER % P % ("s", "\n"), "", [call('{"s": ""}'), call('{"s": "\\n"}')]),
    (CODER % P % ("o", '{"s": "</parameter> <parameter=i>", "k": 1}'), "",
     [call('{"o": {"s": "</parameter> <parameter=i>", "k": 1}}')]),
]  # fmt: skip

DAMAGED = {
    "no opening tag, Hermes": (f"{ARGUMENTS % '{}'}\n</tool_call>", "", [call()]),
    "no opening tag behind text, Hermes": (f"I look.\n{ARGUMENTS % '{}'}\n</tool_call>", "I look.", [call()]),
    "no tags at all, Hermes": (f"\n{ARGUMENTS % '{}'}\n", "", [call()]),
    "no tags at all, twice": (f"{ARGUMENTS % '{}'}\n{ARGUMENTS % '{}'}", "", [call(), call()]),
    "fenced as code": (f"\n```json\n{ARGUMENTS % '{}'}\n```\n", "", [call()]),
    "fenced as code, and pretty": ('```\n{\n  "name": "f",\n  "arguments": {\n    "i": 1\n  }\n}\n```', "",
                                   [call('{\n    "i": 1\n  }')]),
    "fenced as code, twice": (f"```json\n{ARGUMENTS % '{}'}\n{ARGUMENTS % '{}'}", "", [call(), call()]),
    "no opening tag, Coder": ((CODER % P % ("s", "x")).removeprefix("<tool_call>\n"), "", [call('{"s": "x"}')]),
    "no opening tag behind text, Coder": ("I look.\n\n<function=f>\n</function>\n</tool_call>", "I look.", [call()]),
    "no tags but the function's": ("<function=f>\n<parameter=s>\nx", "", [call('{"s": "x"}')]),
    "no closing tag, Hermes": (f"<tool_call>\n{ARGUMENTS % '{}'}", "", [call()]),
    "no closing tag and text": (f"<tool_call>\n{ARGUMENTS % '{}'}\nThere.", "There.", [call()]),
    "no closing tag and a call": (f"<tool_call>\n{ARGUMENTS % '{}'}\n" + CODER % "", "", [call(), call()]),
    "the last brace is lost": ('<tool_call>\n{"name": "f", "arguments": {"i": 1}\n</tool_call>', "", [call('{"i": 1}')]),
    "both last braces are lost": ('<tool_call>\n{"name": "f", "arguments": {"a": [1\n</tool_call>.', ".", [call('{"a": [1]}')]),
    "a list that is open": ('<tool_call>\n[{"name": "g", "arguments": {"k": 2}}</function>\n</tool_call>', "",
                            [call('{"k": 2}', "g")]),
    "a brace too many": (HERMES % ARGUMENTS % '{"i": 1}}', "", [call('{"i": 1}')]),
    "a comma too many": (HERMES % ARGUMENTS % '{"a": [1, 2, ], }', "", [call('{"a": [1, 2 ] }')]),
    "single quotes": (HERMES % "{'name': 'f', 'arguments': {'s': 'it\\'s \"x\"', 'b': True, 'n': None}}", "",
                      [call('{"s": "it\'s \\"x\\"", "b": true, "n": null}')]),
    "bare line breaks in a string": (HERMES % ARGUMENTS % '{"s": "a\n\tb"}', "", [call('{"s": "a\\n\\tb"}')]),
    "escapes that are none": (HERMES % ARGUMENTS % '{"s": "\\d+ \\u12 \\x"}', "", [call('{"s": "\\\\d+ \\\\u12 \\\\x"}')]),
    "a tag in a string": (HERMES % ARGUMENTS % '{"s": "<tool_call></tool_call>"}', "",
     [call('{"s": "<tool_call></tool_call>"}')]),
    "tags twice": (f"<tool_call>\n{HERMES % ARGUMENTS % '{}'}\n</tool_call>", "", [call()]),
    "the name's tag is open": ("<tool_call>\n<function=f\n<parameter=s>\nx\n</parameter>\n</function>", "",
     [call('{"s": "x"}')]),
    "the name in quotes": ('<tool_call>\n<function="f">\n<parameter="s">\nx\n</parameter>\n</function>', "",
     [call('{"s": "x"}')]),
    "an object in a function's tag": ('<tool_call>\n<function=f>{"i": 2}</function>\n</tool_call>', "", [call('{"i": 2}')]),
    "Qwen3-Coder-480B": (CODER % "<parameter=command=create</parameter>", "", [call('{"command": "create"}')]),
    "the parameter's tag is open": (CODER % "<parameter=s\nx\n</parameter>", "", [call('{"s": "x"}')]),
    "no end of a parameter": (CODER % "<parameter=s>\nx\n<parameter=i>\n5\n</parameter>", "", [call('{"s": "x", "i": 5}')]),
    "no end of the last parameter": (CODER % "<parameter=s>\nx", "", [call('{"s": "x"}')]),
    "no end of parameter and function": ("<tool_call>\n<function=f>\n<parameter=s>\nx\n</tool_call>\nB", "B",
     [call('{"s": "x"}')]),
    "no end of the function": ("<tool_call>\n<function=f>\n" + P % ("s", "x") + "\n</tool_call>B", "B", [call('{"s": "x"}')]),
    "no end at all, and another call": ("<tool_call>\n<function=f>\n<parameter=s>\nx\n" + CODER % "", "",
     [call('{"s": "x"}'), call()]),
    "two functions between tags": ("<tool_call>\n<function=f>\n</function>\n<function=g>\n</function>\n</tool_call>", "",
                                   [call(), call(name="g")]),
}  # fmt: skip

# What is no call stays as it is
TEXTS = [
    "", "\n\n", " ", "Paris.\n\n", "<tool_call>", "<tool_call>\n", "a\n<tool_call", "a\n<tool_call>\n</tool_call>\n",
    "</tool_call>",
    HERMES % '{"name": "zz", "arguments": {"a": {"name": "f"}}}', "x\n" + HERMES % "print(1)", HERMES % '{"name": "f", oops}',
    HERMES % '{"name": 1, "arguments": {}}', HERMES % '{"name": "f", "arguments": [1]}',
    HERMES % '{"name": "f", "arguments": "x"}',
    HERMES % "[]", HERMES % "[1]", HERMES % '[{"name": "f"}, {"name": "zz"}]', '<tool_call>\n{"name": "f", "argum',
    "Use <function=f> here", "`<function=f>`", "a\n<function=zz>\n<parameter=s>\nx\n</parameter>\n</function>", "a\n<func",
    "{", "{}",
    '{"answer": 42}', '{"name": "Ann", "age": 3}', f"{ARGUMENTS % '{}'} is a call.", f"So: {ARGUMENTS % '{}'}",
    f"So:\n{ARGUMENTS % '{}'}", f"So:\n```json\n{ARGUMENTS % '{}'}\n```", f"```json\n{ARGUMENTS % '{}'}\n```\nis one.", "```",
    "```json\n{}\n```",
    "```json\n{\"name\": 1}\n```", "```python\nx\n```\n", "\n``", '{"name": "f", "arguments": {"i": ', "a\n\n  {\n",
    "5 < 6\n{x}",
    "<tool_call>\n<function=zz>\n</function>\n</tool_call>",
]  # fmt: skip


def every_way(text, *, is_cut=False, **options):
    """What a text gives in one piece; in single characters, and as Qwen3's tokens, it gives the same."""
    whole = parse([text], is_cut=is_cut, **options)
    assert parse(list(text), is_cut=is_cut, **options) == whole
    assert parse_ids(qwen3().encode(text), is_cut=is_cut, **options) == whole
    return whole


@pytest.mark.parametrize(("text", "content", "calls"), SOUND)
def test_sound_calls_are_found_as_they_are_written(text, content, calls):
    assert every_way(text) == (content, calls)
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in calls)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_calls_are_recovered(name):
    text, content, calls = DAMAGED[name]
    assert every_way(text) == (content, calls)
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in calls)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_call_is_text(text):
    assert every_way(text) == (text, [])


@pytest.mark.parametrize("text", [text for text, _, calls in DAMAGED.values() if "<tool_call>" not in text])
def test_where_a_grammar_sees_to_the_tags_nothing_else_is_a_call(text):
    assert parse([text], finds_bare=False) == (text, [])


# Values of the Coder format by the tool's schema
VALUES = [
    ("i", "12", "12"), ("i", "-0012", "-12"), ("i", "+3", "3"), ("i", "4.0", "4"), ("i", "9" * 5000, "9" * 5000),
    ("i", "1e3", '"1e3"'),
    ("i", "twelve", '"twelve"'), ("i", "null", "null"), ("x", "1.50", "1.50"), ("x", ".5", "0.5"), ("x", "1e9", "1e9"),
    ("x", "nan", '"nan"'), ("x", "-7", "-7"), ("b", "true", "true"), ("b", "False", "false"), ("b", "yes", '"yes"'),
    ("s", "null", '"null"'),
    ("s", "true", '"true"'), ("s", "12", '"12"'), ("n", "null", "null"), ("n", "None", "null"), ("n", "nullable", '"nullable"'),
    ("n", "", '""'), ("a", "[1, 2]", "[1, 2]"), ("a", "1", '"1"'), ("a", "[1,", '"[1,"'), ("o", "{'k': True}", '{"k": true}'),
    ("o", '{"k": 12345678901234567890}', '{"k": 12345678901234567890}'), ("o", "[1]", '"[1]"'), ("o", "x()", '"x()"'),
    ("r", "5", "5"), ("r", "five", '"five"'), ("e", "2", "2"), ("e", "null", "null"), ("any", "[1]", '"[1]"'),
    ("zz", "5", '"5"'),
    ("s", "  x  ", '"  x  "'), ("i", " 5 ", "5"),
]  # fmt: skip


@pytest.mark.parametrize(("parameter", "value", "expected"), VALUES)
def test_a_value_has_the_type_that_the_schema_gives_it(parameter, value, expected):
    text = CODER % P % (parameter, value)
    assert every_way(text) == ("", [call(f'{{"{parameter}": {expected}}}')])


def test_arguments_stream_as_they_come():
    for text, least in (
        (HERMES % ARGUMENTS % '{"s": "a long value, long"}', 25),
        (CODER % P % ("s", "a long value, long"), 18),
        (CODER % P % ("n", "a long value, long"), 17),
    ):
        parser = ToolCallParser(TOOLS, {})
        shown = [len([d for d in parser.push(None, char) if d.field == "tool_arguments"]) for char in text]
        assert sum(shown) >= least
        assert shown.index(1) < len(text) - 40


@pytest.mark.parametrize(
    "text", [HERMES % ARGUMENTS % '{"s": "x", "a": [1]}', CODER % "\n".join([P % ("s", "x"), P % ("i", "12")])]
)
def test_a_call_that_is_cut_is_what_was_given_of_it(text):
    _, ((_, whole),) = parse([text])
    for n in range(len(text)):
        content, calls = parse(list(text[:n]), is_cut=True)
        assert not content or not calls
        assert text[:n] == content or calls
        for name, arguments in calls:
            assert name == "f"
            assert whole.startswith(arguments)


def test_where_tags_are_sure_a_call_without_a_name_is_dropped():
    for text in ('<tool_call>\n{"na', "<tool_call>", "<tool_call>\n<function=f"):
        assert parse(list("Hm." + text), is_cut=True, finds_bare=False) == ("Hm.", [])
        assert parse(list("Hm." + text), is_cut=True) == ("Hm." + text, [])


@pytest.mark.parametrize("text", [HERMES % ARGUMENTS % '{"s": "x", "i": }', HERMES % ARGUMENTS % '{"i": 1 oops}'])
def test_arguments_that_turn_out_unsound_stay_and_the_rest_is_text(text):
    content, ((name, arguments),) = every_way(text)
    assert name == "f"
    assert arguments
    assert text.endswith(content)
    assert content.endswith("</tool_call>")


def test_a_text_that_quotes_the_tag_opens_no_call_where_it_is_a_token():
    quoted = f"The format is {HERMES % ARGUMENTS % '{}'}, like this."
    assert parse_ids(qwen3().encode(quoted, parse_control=False)) == (quoted, [])
    inside = qwen3().encode('<tool_call>\n{"name": "f", "arguments": {"s": "') + qwen3().encode(
        "</tool_call>", parse_control=False
    )
    assert parse_ids(inside + qwen3().encode('"}}\n</tool_call>')) == ("", [call('{"s": "</tool_call>"}')])


def test_a_tag_that_shows_no_text_still_is_one():
    parser = ToolCallParser(TOOLS, qwen3().control_tokens)
    deltas = parser.push(151_657, "") + parser.push(None, '\n{"name": "f", "arguments": {}}\n') + parser.push(151_658, "")
    assert fold(deltas + parser.finish(is_cut=False)) == ("", [call()])


@pytest.mark.parametrize("text", [HERMES % ARGUMENTS % "{}", CODER % "", HERMES % '[{"name": "f"}, {"name": "g"}]'])
def test_no_more_calls_are_read_than_wanted(text):
    parser = ToolCallParser(TOOLS, {}, max_calls=1)
    deltas = parser.push(None, text)
    assert parser.is_full
    assert fold(deltas + parser.push(None, text) + parser.finish(is_cut=False)) == ("", [call()])
    assert every_way(f"{text}\n{text} and", max_calls=1) == ("", [call()])


FRAGMENTS = [
    "<tool_call>", "</tool_call>", "\n", " ", '{"name": "f", "arguments": ', '{"i": 1}', "{", "}", "[", "]", ",", ":", '"',
    "'", "\\", "é",
    "<function=f>", "<function=zz>", "<function=f", "<parameter=s>", "<parameter=i>", "<parameter=n>", "<parameter=o>",
    "</parameter>",
    "</function>", "```json\n", "```", "text", "null", "12", "true", "=", ">", "<", '{"name": "', '"s": "x"',
    '{"arguments": {}, "name": "g"}',
]  # fmt: skip


@st.composite
def cut_texts(draw):
    """Texts made of pieces of calls, and the same text cut elsewhere."""
    text = "".join(draw(st.lists(st.sampled_from(FRAGMENTS), max_size=16)))
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return text, [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(cut_texts(), st.booleans(), st.sampled_from([{}, {"finds_bare": False}, {"max_calls": 1}]))
@example(("<function=f{<function=f>", ["<function=f{<function=f>"]), False, {})
def test_how_a_text_is_cut_makes_no_difference(cut, is_cut, options):
    text, pieces = cut
    whole = parse([text], is_cut=is_cut, **options)
    assert parse(pieces, is_cut=is_cut, **options) == whole
    assert parse(list(text), is_cut=is_cut, **options) == whole
    if not whole[1] and not (is_cut and "finds_bare" in options):
        assert whole[0] == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=4), st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_sound_arguments_come_byte_for_byte(arguments, is_ascii, indent):
    written = json.dumps(arguments, ensure_ascii=is_ascii, indent=indent)
    written = written.encode("utf-8", "replace").decode()
    assert parse(list(f"Hm.\n{HERMES % ARGUMENTS % written}")) == ("Hm.", [call(written)])
    assert sound_json(written) == written


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_a_string_comes_back_as_it_was_written_in_the_coder_format(value):
    content, ((_, arguments),) = parse(list(CODER % P % ("s", value)))
    if not any(tag in value for tag in ("<parameter=", "</parameter>", "</function>", "<tool_call>", "</tool_call>")):
        assert (content, json.loads(arguments)) == ("", {"s": value})


@pytest.mark.parametrize(
    "text", ["", "1", '"x"', "{} x", "[1", "{1: 2}", "[NaN]", "[01]", "[1 2]", "{'a' 1}", "[,]", "nul", "[}", '{"a":}']
)
def test_what_cannot_be_mended_is_no_json(text):
    assert sound_json(text) is None


def test_deep_and_long_values_are_read_without_recursion():
    deep = "[" * 100_000 + "]" * 100_000
    stream = JsonStream()
    assert stream.push(deep) == deep
    assert stream.is_done
    content, ((_, arguments),) = parse([HERMES % ARGUMENTS % f'{{"a": {deep}}}'])
    assert (content, arguments) == ("", f'{{"a": {deep}}}')
    swapped = HERMES % f'{{"arguments": {{"a": {deep}}}, "name": "f"}}'
    assert parse([swapped]) == (swapped, [])
