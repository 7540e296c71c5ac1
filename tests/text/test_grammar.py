import json
import re

import hypothesis.strategies as st
import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from samovar.errors import GrammarError
from samovar.text.grammar import GrammarCompiler, GrammarSpec
from tests.text.grammar_walks import TOKENIZERS, accepts, allowed_ids, answers, compiler, feed, matcher_of, walk
from tests.text.tiny_tokenizers import byte_tokenizer

END, THINK = 269, 270


# Masks


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "pattern", ["(foo|ba+r){1,4}", "[a-z]+@[a-z]{2,5}\\.(com|org)", "-?[\\d.]{1,3}(/\\d)?", "a|ab|abc", "\"[^\"\\n]{0,9}\""]
)  # fmt: skip
def test_an_answer_under_a_pattern_matches_it_from_end_to_end(name, pattern):
    drawn = answers(GrammarSpec.regex(pattern), name, 12)
    assert len(drawn) >= 8
    assert all(re.fullmatch(pattern, text) for text in drawn), drawn


@pytest.mark.parametrize("name", ["bytes", "qwen3"])
def test_characters_of_several_bytes_come_out_whole(name):
    drawn = answers(GrammarSpec.regex("[é你😀x]{3,9}"), name, 30)
    assert {"é", "你", "😀"} <= set("".join(drawn))
    assert all(re.fullmatch("[é你😀x]{3,9}", text) for text in drawn)


@pytest.mark.parametrize("name", ["bytes", "qwen3"])
def test_an_answer_is_one_of_the_choices_and_each_can_be_had(name):
    choices = ["yes", "yes!", "no/\\", 'a "quoted" one', "é\n你", "(a|b)+", "{[/"]
    drawn = answers(GrammarSpec.choice(choices), name, 120)
    assert len(drawn) == 120
    assert set(drawn) == set(choices)


def test_the_mask_covers_padded_and_short_vocabularies():
    ids = {ord("a"), ord("b")}
    for n_words in (9, 20):
        assert set(allowed_ids(matcher_of(GrammarSpec.choice(["a", "b"])), n_words)) == ids
    assert set(allowed_ids(matcher_of(GrammarSpec.choice(["!", "a", "b"])), 2)) == {ord("!")}


def test_the_end_is_allowed_exactly_where_the_grammar_accepts_and_all_end_ids_are():
    matcher = GrammarCompiler(byte_tokenizer(), end_ids=(END, 7)).compile(GrammarSpec.regex("ab?"))
    assert set(allowed_ids(matcher, 9)) == {ord("a")}
    assert not matcher.is_accepting
    matcher.accept(ord("a"))
    assert set(allowed_ids(matcher, 9)) == {ord("b"), END, 7}
    assert (matcher.is_accepting, matcher.is_done) == (True, False)
    matcher.accept(ord("b"))
    assert set(allowed_ids(matcher, 9)) == {END, 7}
    assert matcher.is_done
    matcher.accept(7)
    assert set(allowed_ids(matcher, 9)) == {END, 7}


def test_control_tokens_stand_for_no_text_and_lark_can_ask_for_them():
    assert THINK not in allowed_ids(matcher_of(GrammarSpec.lark('start: "<think>"')), 9)
    matcher = matcher_of(GrammarSpec.lark('start: <think> "x"'))
    assert list(allowed_ids(matcher, 9)) == [THINK]
    feed(matcher, (THINK, ord("x"), END))
    string = matcher_of(GrammarSpec.json_schema({"type": "string"}))
    string.accept(ord('"'))
    assert not {THINK, END} & set(allowed_ids(string, 9))


def test_a_token_outside_the_mask_is_refused_and_changes_nothing():
    matcher = matcher_of(GrammarSpec.regex("ab+"))
    matcher.accept(ord("a"))
    for token_id in (ord("x"), END, THINK, 271, 300, -1, 1 << 40):
        with pytest.raises(GrammarError):
            matcher.accept(token_id)
    assert list(allowed_ids(matcher, 9)) == [ord("b")]
    feed(matcher, (ord("b"), END))
    with pytest.raises(GrammarError, match="cannot follow"):
        matcher.accept(ord("b"))


def test_taking_tokens_back_restores_every_earlier_mask():
    rng = np.random.default_rng(5)
    matcher = matcher_of(GrammarSpec.json_object())
    ids, masks = [], [allowed_ids(matcher, 9)]
    while len(ids) < 60 and masks[-1].tolist() != [END]:
        ids.append(int(rng.choice([i for i in masks[-1] if i != END])))
        matcher.accept(ids[-1])
        masks.append(allowed_ids(matcher, 9))
    for n in (0, 1, len(ids) // 2):
        matcher.rollback(n)
        at = len(ids) - n
        assert allowed_ids(matcher, 9).tolist() == masks[at].tolist()
        assert matcher.n_allowed(tuple(ids[at:])) == n
        feed(matcher, tuple(ids[at:]))
    matcher.rollback(len(ids))
    assert allowed_ids(matcher, 9).tolist() == masks[0].tolist()
    with pytest.raises(GrammarError, match="cannot be taken back"):
        matcher.rollback(1)


def test_an_end_token_can_be_taken_back():
    matcher = matcher_of(GrammarSpec.regex("ab+"))
    feed(matcher, (ord("a"), ord("b"), END))
    assert matcher.n_allowed((ord("b"),)) == 0
    matcher.rollback(2)
    assert list(allowed_ids(matcher, 9)) == [ord("b")]


def test_drafts_count_as_far_as_they_follow_and_not_from_an_end_on():
    matcher = matcher_of(GrammarSpec.regex("ab+"))
    assert matcher.n_allowed(tuple(b"abbxb")) == 3
    assert matcher.n_allowed((*b"abb", END, *b"b")) == 3
    assert matcher.n_allowed(tuple(b"ba")) == 0
    assert [matcher.n_allowed((ord("a"), i)) for i in (THINK, 271, -1, 1 << 40)] == [1] * 4
    assert list(allowed_ids(matcher, 9)) == [ord("a")]


# JSON

SCHEMAS = (
    ({"type": "integer", "minimum": 3, "maximum": 12}, ["3", "12", "7", "2", "13", "3.5", "-3", '"3"', "03"]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, ["0.5", "1", "0", "1.1", "0.0", "-1"]),
    ({"type": "integer", "multipleOf": 7}, ["0", "14", "-7", "15", "7.5"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"é你"', '"a"', '"abcd"', "12"]),
    ({"type": "string", "pattern": "^a+b?$"}, ['"aab"', '"a"', '"b"', '"abb"', '"xa"']),
    ({"type": "string", "pattern": "a"}, ['"xax"', '"b"']),
    ({"type": "string", "format": "date"}, ['"2024-02-29"', '"2024-13-01"', '"x"', "1"]),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}, ["[true]", "[]", "[true,true,true]"]),
    ({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "type": "array"}, ['[1,"a"]', '["a",1]']),
    (
        {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"], "additionalProperties": False},
        ['{"a":1}', '{"a":1,"b":null}', '{"b":1}', "{}", '{"a":1,"c":2}', '{"a":"x"}', "[]"],
    ),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, ['{"x":1}', '{"x":"1"}', "{}"]),
    ({"type": "object", "patternProperties": {"^n": {"type": "integer"}}}, ['{"n1":1}', '{"n1":"x"}', '{"m":"x"}']),
    ({"enum": ["a", 1, None, {"k": [1]}]}, ['"a"', "1", "null", '{"k":[1]}', '"b"', "2", "{}"]),
    ({"const": {"a": "x"}}, ['{"a":"x"}', '{"a":"y"}', "{}"]),
    ({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}, ["5", '"a"', '"ab"', "null"]),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, ["5", '"a"', "null"]),
    ({"allOf": [{"minimum": 3}, {"type": "integer", "maximum": 5}]}, ["4", "2", "6", '"x"']),
    ({"type": ["null", "boolean"]}, ["null", "true", "0", '"null"']),
    (
        {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["v"],
         "additionalProperties": False, "$comment": "v is required and not allowed otherwise"} | {"properties": {
         "v": {"type": "integer"}, "n": {"$ref": "#/$defs/n"}}}}},
        ['{"v":1}', '{"v":1,"n":{"v":2}}', '{"v":1,"n":{}}', '{"n":{"v":1}}'],
    ),
)  # fmt: skip


@pytest.mark.parametrize(("schema", "instances"), SCHEMAS, ids=[json.dumps(s)[:50] for s, _ in SCHEMAS])
def test_a_schema_accepts_what_jsonschema_calls_valid_and_nothing_else(schema, instances):
    spec = GrammarSpec.json_schema(schema)
    verdicts = []
    for text in instances:
        try:
            jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
            verdicts.append(True)
        except (ValueError, jsonschema.ValidationError):
            verdicts.append(False)
    assert [accepts(spec, text) for text in instances] == verdicts
    assert any(verdicts)
    assert not all(verdicts)


@pytest.mark.parametrize(
    ("text", "is_answer"),
    [
        ('{"a":[1,2]}', True),
        ('{"a": [1, 2]}', True),
        ('{\n  "a": [\n    1,\n    2\n  ]\n}', True),
        ('{\n\t"a": [1]\n}', True),
        ('{"a":  [1]}', False),
        ('{"a":\n\n[1]}', False),
        (' {"a":1}', False),
        ('{"a":1} ', False),
        ("[1]", False),
        ("{" + "\n" + " " * 32 + "}", True),
        ("{" + "\n" + " " * 33 + "}", False),
    ],
)
def test_whitespace_is_a_space_or_a_line_break_with_indentation(text, is_answer):
    assert accepts(GrammarSpec.json_object(), text) == is_answer


@pytest.mark.parametrize("name", TOKENIZERS)
def test_any_json_object_that_ends_parses(name):
    drawn = answers(GrammarSpec.json_object(), name, 12, n_free=20)
    assert len(drawn) >= 4
    assert all(isinstance(json.loads(text), dict) for text in drawn)


_NAMES = st.text("abc_é", min_size=1, max_size=3)
_BOUNDS = st.tuples(st.integers(-300, 300), st.integers(0, 300)).map(lambda b: (b[0], b[0] + b[1]))
_LEAVES = st.one_of(
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": "string", "maxLength": 5}, {"type": "number"}]),
    _BOUNDS.map(lambda b: {"type": "integer", "minimum": b[0], "maximum": b[1]}),
    st.sampled_from(["^a+b$", "x", "[0-9]{2}", "^(é|你)*$"]).map(lambda p: {"type": "string", "pattern": p}),
    st.lists(st.one_of(_NAMES, st.integers(-9, 9), st.none()), min_size=1, max_size=4).map(lambda v: {"enum": v}),
    _NAMES.map(lambda v: {"const": {"k": [v, 1.5]}}),
)


def _object_of(properties):
    required = st.lists(st.sampled_from(sorted(properties)), unique=True) if properties else st.just([])
    closed = st.sampled_from([False, {"type": "integer"}])
    return st.tuples(required, closed).map(
        lambda rc: {"type": "object", "properties": properties, "required": rc[0], "additionalProperties": rc[1]}
    )


def _nested(inner):
    return st.one_of(
        st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
            lambda a: {"type": "array", "items": a[0], "minItems": a[1], "maxItems": a[1] + a[2]}
        ),
        st.dictionaries(_NAMES, inner, max_size=3).flatmap(_object_of),
        st.lists(inner, min_size=1, max_size=3).map(lambda s: {"anyOf": s}),
    )


@pytest.mark.parametrize(("name", "n_walks"), [("bytes", 6), ("qwen3", 3)])
def test_answers_under_random_schemas_parse_and_validate(name, n_walks):
    n_whole = 0

    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.recursive(_LEAVES, _nested, max_leaves=8))
    def check(schema):
        nonlocal n_whole
        for text in answers(GrammarSpec.json_schema(schema), name, n_walks):
            n_whole += 1
            jsonschema.validate(json.loads(text), schema)

    check()
    assert n_whole >= 15 * n_walks // 2


# GBNF and Lark


def test_gbnf_is_followed_escapes_included():
    spec = GrammarSpec.ebnf('root ::= "\\u0041BC" item+ | [\\u0078-z]{2} # a comment\nitem ::= "é" | "\\u4f60" ("-" item)?\n')
    assert [accepts(spec, t) for t in ("ABCé", "ABC你-é", "xz", "zzz", "\x04\x1bC", "ABC")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_lark_is_followed_with_our_whitespace_in_its_schemas():
    spec = GrammarSpec.lark(
        'start: "call " NAME " " arguments\nNAME: /[a-z]+/\narguments: %json {"type": "object"} // "%json"\n'
    )
    assert accepts(spec, 'call f {"a": 1}')
    assert not accepts(spec, 'call f {"a":  1}')
    assert not accepts(spec, "call f [1]")


@pytest.mark.parametrize("source", ['start: /x+/ "x"', 'start: %lark {\nstart: /x+/ "x"\n}', 'start: "a" tail\ntail: "b" tail'])
def test_a_grammar_that_can_never_end_goes_on_until_it_is_cut(source):
    tokenizer, compiles = compiler()
    text, is_whole = walk(compiles.compile(GrammarSpec.lark(source)), tokenizer, np.random.default_rng(0), n_max=50)
    assert (len(text) >= 50, is_whole) == (True, False)
