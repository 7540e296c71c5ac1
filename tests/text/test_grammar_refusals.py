import json
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from samovar.errors import BadRequest, GrammarError
from samovar.text import grammar, grammar_trial
from samovar.text.grammar import GrammarCompiler, GrammarSpec
from tests.text import hostile_grammars
from tests.text.grammar_walks import accepts, allowed_ids, matcher_of, walk
from tests.text.tiny_tokenizers import byte_tokenizer, tokenizer_of

# Refusals


def with_optional(n: int) -> dict:
    properties = {f"property{i}": {"type": "string"} for i in range(n + 50)}
    return {"type": "object", "properties": properties, "required": [f"property{i}" for i in range(50)]}


@pytest.mark.parametrize(
    ("make", "message", "param"),
    [
        (lambda: GrammarSpec.json_schema("{"), "not valid JSON", "response_format"),
        (lambda: GrammarSpec.json_schema("[]"), "an object is expected", "response_format"),
        (lambda: GrammarSpec.json_schema('{"type":"null","type":"null"}'), "appears twice", "response_format"),
        (lambda: GrammarSpec.json_schema('{"maximum":NaN}'), "NaN", "response_format"),
        (lambda: GrammarSpec.json_schema({"const": float("inf")}), "no JSON", "response_format"),
        (lambda: GrammarSpec.json_schema({"const": {1}}), "no JSON", "response_format"),
        (lambda: GrammarSpec.json_schema({"x-guidance": {"lenient": True}}), "x-guidance", "response_format"),
        (lambda: GrammarSpec.json_schema("[" * 10_000), "10000 levels", "response_format"),
        (lambda: GrammarSpec.json_schema('{"a":"' + "x" * 10_000_000 + '"}', param="format"), "262144", "format"),
        (lambda: GrammarSpec.regex(""), "empty", "regex"),
        (lambda: GrammarSpec.regex(5), "a int", "regex"),
        (lambda: GrammarSpec.regex("a\ud800"), "surrogate", "regex"),
        (lambda: GrammarSpec.choice([]), "0 of them", "choice"),
        (lambda: GrammarSpec.choice("abc"), "a str", "choice"),
        (lambda: GrammarSpec.choice(["a", ""]), "empty", "choice"),
        (lambda: GrammarSpec.choice(["a"] * 10_001), "10001", "choice"),
        (lambda: GrammarSpec.lark("x" * 300_000), "300000", "grammar"),
    ],
)
def test_what_is_malformed_is_refused_before_anything_is_compiled(make, message, param):
    with pytest.raises(BadRequest, match=re.escape(message)) as refused:
        make()
    assert refused.value.param == param


def _deep_schema():
    schema = {}
    for _ in range(5000):
        schema = {"items": schema}
    return schema


def test_a_schema_object_nested_too_deep_is_refused():
    with pytest.raises(BadRequest, match="100"):
        GrammarSpec.json_schema(_deep_schema())


def test_brackets_and_quotes_within_strings_are_no_nesting():
    GrammarSpec.json_schema({"enum": ["[" * 200, '\\"' + "{" * 200, "\\"]})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (GrammarSpec.json_schema({"$ref": "http://localhost:9/x"}), "does not fetch"),
        (GrammarSpec.json_schema({"$ref": "file:///etc/passwd"}), "does not fetch"),
        (GrammarSpec.json_schema({"$ref": "#/nowhere"}), "nowhere"),
        (GrammarSpec.json_schema({"not": {"type": "null"}}), "not"),
        (GrammarSpec.json_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (GrammarSpec.json_schema({"type": "strin"}), "strin"),
        (GrammarSpec.json_schema({"oneOf": [{"type": "integer"}, {"minimum": 2}]}), "oneOf"),
        (GrammarSpec.json_schema({"type": "integer", "minimum": 2, "maximum": 1}), "minimum"),
        (GrammarSpec.json_schema({"items": with_optional(241)}), "241 optional properties"),
        (GrammarSpec.json_schema({"$ref": "#"}), "no text that"),
        (GrammarSpec.regex("a(?=b)"), "look-around"),
        (GrammarSpec.regex("(a)\\1"), "backreferences"),
        (GrammarSpec.regex("["), "unclosed"),
        (GrammarSpec.lark("start: nothing"), "nothing"),
        (GrammarSpec.lark('start: start "a"'), "no text that"),
        (GrammarSpec.lark('start[temperature=0.5]: "a"'), "temperature"),
        (GrammarSpec.lark("start: <[3-5]>"), "by number"),
        (GrammarSpec.lark('%llguidance {"no_forcing": false}\nstart: "a"'), "%llguidance"),
        (GrammarSpec.lark("start: %json {"), "%json"),
        (GrammarSpec.lark('start: %json {"x-guidance": {}}'), "x-guidance"),
        (GrammarSpec.ebnf('start: "a"'), "Expected ::="),
        (GrammarSpec.ebnf('root ::= "a'), "Unexpected end"),
        (GrammarSpec.ebnf("root ::= other"), "other"),
        (GrammarSpec.ebnf('root ::= "\\ud800"'), "no character"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_the_reason(spec, message):
    with pytest.raises(BadRequest, match=re.escape(message)) as refused:
        matcher_of(spec)
    assert refused.value.param == spec.param
    assert "refused" in str(refused.value)


def test_an_object_of_as_many_optional_properties_as_are_allowed_is_followed():
    text = json.dumps({f"property{i}": "x" for i in range(290) if i < 50 or i % 7 == 0})
    assert accepts(GrammarSpec.json_schema(with_optional(240)), text)


def test_a_model_without_an_end_token_or_the_letters_is_told_so():
    with pytest.raises(BadRequest, match="no token that ends"):
        GrammarCompiler(byte_tokenizer(), end_ids=()).compile(GrammarSpec.json_object())
    with pytest.raises(BadRequest, match="tokens spell"):
        GrammarCompiler(tokenizer_of([b"a", b"b"])).compile(GrammarSpec.choice(["x"]))


# Cache


def test_a_grammar_is_compiled_once_and_its_matchers_are_apart(monkeypatch):
    calls = []
    monkeypatch.setattr(
        grammar, "try_to_compile", lambda spec, _: calls.append(spec) or '%llguidance {"no_forcing": true}\nstart: "ab"'
    )
    compiles = GrammarCompiler(byte_tokenizer())
    first, second = (compiles.compile(GrammarSpec.regex("ab", param=param)) for param in ("regex", "guided_regex"))
    first.accept(ord("a"))
    assert (list(allowed_ids(first, 9)), list(allowed_ids(second, 9))) == ([ord("b")], [ord("a")])
    assert len(calls) == 1


def test_refusals_are_remembered_with_the_field_of_each_request(monkeypatch):
    calls = []

    def refuse(spec, _):
        calls.append(spec)
        raise BadRequest("no")

    monkeypatch.setattr(grammar, "try_to_compile", refuse)
    compiles = GrammarCompiler(byte_tokenizer())
    for param in ("a", "b"):
        with pytest.raises(BadRequest, match="no") as refused:
            compiles.compile(GrammarSpec.regex("x", param=param))
        assert refused.value.param == param
    assert len(calls) == 1


def test_the_cache_drops_what_was_used_longest_ago_and_is_bounded_in_text(monkeypatch):
    compiles = GrammarCompiler(byte_tokenizer())
    monkeypatch.setattr(grammar, "_MAX_CACHED", 2)
    a, b, c = (GrammarSpec.choice([text]) for text in ("a", "b", "c"))
    for spec in (a, b, a, c):
        compiles.compile(spec)
    assert [key[1] for key in compiles._compiled] == [("a",), ("c",)]
    monkeypatch.setattr(grammar, "_MAX_CACHED_CHARS", 10)
    compiles.compile(GrammarSpec.choice(["x" * 9, "y" * 9]))
    assert len(compiles._compiled) == 1


def test_threads_share_a_compiler():
    compiles = GrammarCompiler(byte_tokenizer())
    specs = [GrammarSpec.choice([f"choice {i % 3}"]) for i in range(12)]
    found: list[bytes] = [b""] * len(specs)

    def run(i: int) -> None:
        found[i] = walk(compiles.compile(specs[i]), byte_tokenizer(), np.random.default_rng(i))[0]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(specs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [f"choice {i % 3}".encode() for i in range(12)]


# Hostile grammars


@cache
def hostile_outcomes() -> dict[str, list]:
    """One process, limited in memory, goes through all of them: see `hostile_grammars`."""
    command = [sys.executable, "-m", "tests.text.hostile_grammars"]
    done = subprocess.run(command, capture_output=True, timeout=300, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("name", hostile_grammars.CASES)
def test_a_hostile_grammar_is_refused_or_followed_within_bounds(name):
    outcome, compiled_s, own_mb, child_mb, step_s = hostile_outcomes()[name]
    assert outcome == "compiled" or outcome.startswith(("BadRequest", "GrammarError"))
    assert compiled_s < 2.5
    assert own_mb < 200
    assert child_mb < 200
    assert step_s < 0.5


@pytest.mark.slow
def test_limits_of_a_compile_turn_into_refusals_that_name_them():
    outcomes = hostile_outcomes()
    for name in ("references in a chain", "multiples of four primes", "rules in a chain", "terminals in a chain"):
        assert re.search("BadRequest: .* takes more than 1 s of processor time, 256 MB and a stack of 2 MB", outcomes[name][0])


def test_a_compile_that_gets_no_processor_can_be_asked_for_again(monkeypatch):
    compiles = GrammarCompiler(byte_tokenizer())
    with monkeypatch.context() as patched:
        patched.setattr(grammar_trial, "MAX_WAIT_S", 0.001)
        with pytest.raises(GrammarError, match="try again"):
            compiles.compile(GrammarSpec.regex("a"))
    assert compiles.compile(GrammarSpec.regex("a"))


def test_cached_grammars_do_not_wait_for_one_that_compiles(monkeypatch):
    compiles = GrammarCompiler(byte_tokenizer())
    known = GrammarSpec.choice(["a"])
    compiles.compile(known)
    is_inside, may_end = threading.Event(), threading.Event()

    def slow(spec, _):
        is_inside.set()
        assert may_end.wait(10)
        raise BadRequest("no")

    monkeypatch.setattr(grammar, "try_to_compile", slow)
    with ThreadPoolExecutor() as pool:
        refused = pool.submit(compiles.compile, GrammarSpec.regex("b"))
        assert is_inside.wait(10)
        compiles.compile(known)
        may_end.set()
        with pytest.raises(BadRequest):
            refused.result(10)
