"""Structured answers through `LLM`: what ends by itself is valid, what is cut says so, and nobody else is disturbed."""

import json
import re
import threading
import time
from collections.abc import Iterator

import jsonschema
import pytest

from samovar.errors import BadRequest, SamovarError
from samovar.llm import LLM
from samovar.llm.random_model import Shape, write_random_model
from tests.llm.conftest import with_template
from tests.text.hostile_grammars import CASES
from tests.text.witnesses import template

QUESTION = "Is the tea hot?"
SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "on": {"type": "boolean"},
        "s": {"enum": ["x", "yy", "zürich"]},
    },
    "required": ["n", "on", "s"],
    "additionalProperties": False,
}
GRAMMARS = {
    "schema": {"json_schema": SCHEMA},
    "schema as text": {"json_schema": json.dumps(SCHEMA)},
    "pattern": {"regex": "[a-c]{2,6}-[0-9]{3}"},
    "choices": {"choices": ["left", "right", "straight on"]},
    "lark": {"lark": 'start: "tea" (" and " WORD)+\nWORD: /[a-z]{1,4}/'},
    "gbnf": {"ebnf": 'root ::= "yes" | "no" ", " [a-z]+ "."'},
}
PATTERNS = {
    "pattern": "[a-c]{2,6}-[0-9]{3}",
    "choices": "left|right|straight on",
    "lark": "tea( and [a-z]{1,4})+",
    "gbnf": r"yes|no, [a-z]+\.",
}
HOT = {"temperature": 1.5, "max_tokens": 60}


def check(name: str, result) -> bool:
    """Whether an answer ended by itself; it has to be valid then, and to say that it was cut else."""
    assert result.error is None
    if result.finish_reason != "stop":
        assert result.finish_reason in ("length", "loop")
        return False
    assert result.is_grammar_complete is True
    if name.startswith("schema"):
        jsonschema.validate(json.loads(result.text), SCHEMA)
    else:
        assert re.fullmatch(PATTERNS[name], result.text), result.text
    return True


@pytest.fixture(scope="module", params=["here", "process", "no guesses"])
def llm(request, tiny_folder) -> Iterator[LLM]:
    speculation = "off" if request.param == "no guesses" else "auto"
    llm = LLM(tiny_folder, process=request.param == "process", speculation=speculation)
    yield llm
    llm.close()


@pytest.fixture(scope="module")
def qwen_like(tiny_folder, tmp_path_factory) -> Iterator[LLM]:
    """The tiny model with Qwen3's own template, and think tags in its vocabulary."""
    folder = with_template(tiny_folder, template("qwen3"), tmp_path_factory.mktemp("qwen") / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for token_id, tag in ((318, "<think>"), (319, "</think>")):  # in the place of the last merges
        old = next(piece for piece, i in vocabulary.items() if i == token_id)
        tokenizer["model"]["merges"] = [pair for pair in tokenizer["model"]["merges"] if "".join(pair) != old]
        del vocabulary[old]
        tokenizer["added_tokens"].append(
            {"id": token_id, "content": tag, "special": False, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        )
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    llm = LLM(folder)
    yield llm
    llm.close()


@pytest.mark.parametrize("name", GRAMMARS)
def test_what_ends_by_itself_matches_and_what_is_cut_says_so(llm, name):
    n_whole = 0
    for seed in range(6):
        result = llm.generate(QUESTION, seed=seed, **HOT, **GRAMMARS[name])
        n_whole += check(name, result)
        cut = llm.generate(QUESTION, seed=seed, temperature=1.5, max_tokens=2, **GRAMMARS[name])
        if cut.finish_reason == "length":
            assert cut.token_ids == result.token_ids[:2]
            complete = result.finish_reason == "stop" and len(result.token_ids) == 3 and cut.text == result.text
            assert cut.is_grammar_complete or not complete
    assert n_whole


def test_an_answer_cut_inside_is_not_complete(llm):
    for option in ({"json_schema": SCHEMA}, {"regex": "[a-c]{40}"}, {"choices": ["straight on and on"]}):
        result = llm.generate(QUESTION, temperature=1.0, seed=1, max_tokens=3, **option)
        assert (result.finish_reason, result.is_grammar_complete) == ("length", False)
    assert llm.generate(QUESTION, max_tokens=3).is_grammar_complete is None


def test_any_json_object_is_one(llm):
    texts = []
    for seed in range(12):
        result = llm.generate(QUESTION, seed=seed, temperature=1.0, max_tokens=90, json_object=True, stop_token_ids=[])
        assert result.text.startswith("{")
        if result.finish_reason == "stop":
            texts.append(json.loads(result.text))
    assert all(isinstance(value, dict) for value in texts)
    assert llm.generate(QUESTION, json_object=False, max_tokens=2).is_grammar_complete is None


def test_several_grammars_and_free_requests_go_on_side_by_side(llm):
    names = [*GRAMMARS, None] * 3
    calls = [{"seed": seed, **HOT, **(GRAMMARS[name] if name else {})} for seed, name in enumerate(names)]
    streams = [llm.stream_generate(QUESTION, **call) for call in calls]
    for stream in streams:
        pieces = "".join(delta.text for delta in stream)
        assert pieces == stream.result.text
    for name, call, stream in zip(names, calls, streams, strict=True):
        assert stream.result.token_ids == llm.generate(QUESTION, **call).token_ids
        if name:
            check(name, stream.result)
    several = llm.generate([QUESTION, "snow"], n=2, seed=1, **HOT, choices=["hot", "cold"])
    assert {answer.text for result in several for answer in (result, *result.alternatives)} <= {"hot", "cold"}


def test_a_request_that_its_own_options_leave_no_token_ends_alone(llm):
    beside = llm.stream_generate(QUESTION, temperature=0, max_tokens=40)
    with pytest.raises(SamovarError, match="token"):
        llm.generate(QUESTION, choices=["a"], min_tokens=30, max_tokens=40, temperature=0)
    for _ in beside:
        pass
    assert beside.result.token_ids == llm.generate(QUESTION, temperature=0, max_tokens=40).token_ids


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"json_schema": SCHEMA, "regex": "a"}, "json_schema and regex are given"),
        ({"json_object": True, "choices": ["a"]}, "json_object and choices are given"),
        ({"lark": "start: /a/", "ebnf": 'root ::= "a"'}, "lark and ebnf are given"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos is on"),
        ({"json_object": "yes"}, "json_object is 'yes'"),
        ({"json_object": 0}, "json_object is 0"),
        ({"regex": False}, "pattern is a bool"),
        ({"regex": ""}, "pattern is empty"),
        ({"choices": []}, "choices are 0"),
        ({"choices": "hot"}, "choices are a str"),
        ({"json_schema": "{"}, "JSON schema"),
        ({"json_schema": []}, "JSON schema"),
        ({"json_schema": {"type": "nothing known"}}, "JSON schema is refused"),
        ({"json_schema": {"x-guidance": {}}}, "x-guidance"),
        ({"regex": "(?=a)b"}, "regular expression is refused"),
        ({"lark": "start: nowhere"}, "Lark grammar is refused"),
        ({"ebnf": 'r ::= "a"'}, "GBNF grammar is refused"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name_in_all_ways_of_asking(llm, options, words):
    for ask in (
        lambda: llm.generate(QUESTION, **options),
        lambda: llm.generate([QUESTION, QUESTION], **options),
        lambda: llm.stream_generate(QUESTION, **options),
        lambda: llm.chat(QUESTION, **options),
    ):
        with pytest.raises(BadRequest, match=re.escape(words)) as caught:
            ask()
        assert caught.value.param in options


def test_thoughts_are_free_and_the_answer_is_valid(qwen_like):
    for seed, (name, option) in enumerate(GRAMMARS.items()):
        result = qwen_like.chat(QUESTION, thinking=True, thinking_budget=8, seed=seed, temperature=1.2, max_tokens=90, **option)
        check(name, result)
        assert result.reasoning
        assert 1 <= result.usage.n_thinking <= 8
        assert result.thinking_stopped in ("budget", "natural")
        assert "think>" not in result.text


def test_thoughts_that_a_budget_closes_leave_the_answer_to_the_grammar(qwen_like):
    reasons = []
    for seed in range(8):
        stream = qwen_like.stream_chat(
            QUESTION, thinking=True, thinking_budget=12, seed=seed, temperature=1.2, max_tokens=80, json_schema=SCHEMA
        )
        deltas = list(stream)
        result = stream.result
        reasons.append(result.thinking_stopped)
        if check("schema", result):
            assert "".join(d.text for d in deltas if d.field == "content") == result.text
        other = qwen_like.chat(
            QUESTION, thinking=True, thinking_budget=12, seed=seed, temperature=1.2, max_tokens=80, choices=["hot"]
        )
        assert result.reasoning == other.reasoning  # they are not the grammar's matter
    assert "budget" in reasons


def test_no_thoughts_and_thoughts_off_begin_with_the_answer(qwen_like):
    for how in ({"thinking": False}, {"thinking": True, "thinking_budget": 0}):
        for name, option in GRAMMARS.items():
            result = qwen_like.chat(QUESTION, seed=3, temperature=1.2, max_tokens=90, **how, **option)
            check(name, result)
            assert result.usage.n_thinking == 0


def test_an_answer_cut_within_its_thoughts_is_not_complete(qwen_like):
    result = qwen_like.chat(QUESTION, thinking=True, seed=1, temperature=1.0, max_tokens=2, json_schema=SCHEMA)
    assert (result.text, result.is_grammar_complete) == ("", False)
    assert result.finish_reason == "length"


@pytest.fixture(scope="module", params=[False, True], ids=["here", "process"])
def talking(request, tmp_path_factory) -> Iterator[LLM]:
    """A model that talks for some seconds: 4,000 tokens of context."""
    path = tmp_path_factory.mktemp("talking") / "model.gguf"
    shape = Shape(n_layers=2, d_model=128, n_heads=4, d_ffn=256, is_tied=True, n_kv_heads=2, d_head=32, vocab_size=1024)
    write_random_model(path, shape, "q8_0")
    llm = LLM(path, max_context=8192, process=request.param)
    yield llm
    llm.close()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("name", ["multiples of four primes", "rules in a chain"])
def test_a_hostile_grammar_is_refused_while_a_stream_goes_on(talking, name):
    spec = CASES[name]()
    option = {"lark": "lark", "regex": "regex", "json_schema": "json_schema"}[spec.kind]
    talking.generate(QUESTION, choices=["a"])  # what the first grammar of all takes is no matter of this
    outcome: list[object] = []

    def ask() -> None:
        started = time.monotonic()
        try:
            outcome.append(talking.generate(QUESTION, max_tokens=5, **{option: spec.source}))
        except SamovarError as error:
            outcome.append(error)
        outcome.append(time.monotonic() - started)

    stream = talking.stream_generate(QUESTION, temperature=1.0, seed=1, ignore_eos=True)
    next(stream)
    asker = threading.Thread(target=ask)
    asker.start()
    last, longest, n = time.monotonic(), 0.0, 0
    for _ in stream:
        now = time.monotonic()
        last, longest, n = now, max(longest, now - last), n + 1
        if not asker.is_alive():
            break
    stream.close()
    asker.join(30)
    refused, seconds = outcome
    assert isinstance(refused, BadRequest)
    assert seconds < 15
    assert n > 5
    assert longest < 1.5, f"the stream stood still for {longest:.1f} s of {seconds:.1f}"
    quick = time.monotonic()
    assert talking.generate(QUESTION, choices=["a"]).text == "a"
    assert time.monotonic() - quick < 2


def test_a_hostile_grammar_holds_up_no_other_request(talking):
    talking.generate(QUESTION, choices=["a"])
    schema = json.loads(CASES["multiples of four primes"]().source)
    schema["allOf"].append({"type": "integer", "multipleOf": 9931})
    refusals: list[SamovarError] = []

    def ask() -> None:
        try:
            talking.generate(QUESTION, json_schema=schema)
        except BadRequest as error:
            refusals.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    waits = []
    while asker.is_alive():
        started = time.monotonic()
        talking.generate(QUESTION, max_tokens=2)
        assert talking.generate(QUESTION, choices=["a"]).text == "a"
        waits.append(time.monotonic() - started)
    assert len(refusals) == 1
    assert len(waits) >= 2
    assert sorted(waits)[-2] < 0.5
