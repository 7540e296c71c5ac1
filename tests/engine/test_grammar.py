"""Real grammars on a tiny random model: an answer that ends by itself matches, whatever runs beside it and is guessed."""

import json
import re
from dataclasses import replace

import jsonschema
import pytest

from samovar.engine.ngram_drafter import NgramDrafter
from samovar.text.grammar import GrammarCompiler, GrammarSpec
from tests.engine.fakes import generate, request, tiny_engine
from tests.text.tiny_tokenizers import printable_tokenizer

TOKENIZER = printable_tokenizer()
COMPILER = GrammarCompiler(TOKENIZER)
END = TOKENIZER.eos_ids[0]
SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "on": {"type": "boolean"},
        "s": {"enum": ["x", "yy"]},
    },
    "required": ["n", "on", "s"],
    "additionalProperties": False,
}
SPECS = {
    "schema": GrammarSpec.json_schema(SCHEMA),
    "pattern": GrammarSpec.regex("[a-c]{2,6}-[0-9]{3}"),
    "choice": GrammarSpec.choice(["left", "right", "straight on"]),
    "any": GrammarSpec.json_object(),
}


def is_valid(name: str, text: str) -> bool:
    if name == "pattern":
        return re.fullmatch("[a-c]{2,6}-[0-9]{3}", text) is not None
    if name == "choice":
        return text in ("left", "right", "straight on")
    jsonschema.validate(json.loads(text), SCHEMA if name == "schema" else {"type": "object"})
    return True


def requests(max_tokens: int):
    for seed in range(4):
        for name, spec in SPECS.items():
            plain = request([1 + seed, 2, 3] * 5, max_tokens=max_tokens, temperature=1.5, seed=seed, stop_ids=(END,))
            yield name, replace(plain, grammar=COMPILER.compile(spec))


def answers(sequences, names):
    for name, sequence in zip(names, sequences, strict=True):
        ids = sequence.token_ids[sequence.n_prompt :]
        yield name, sequence.finish_reason, TOKENIZER.decode([i for i in ids if i != END])


@pytest.mark.parametrize("drafters", [(), (lambda _: NgramDrafter(),)], ids=["plain", "guessing"])
def test_what_ends_by_itself_is_valid_and_what_is_cut_says_so(drafters):
    names, batch = zip(*requests(max_tokens=60), strict=True)
    plain = request([9, 9, 9, 8] * 4, max_tokens=60, temperature=0.0)
    *sequences, beside = generate(tiny_engine(n_pages=128, start_drafters=drafters), *batch, plain)
    found = list(answers(sequences, names))
    assert {name for name, reason, _ in found if reason == "stop"} >= {"schema", "pattern", "choice"}
    for name, reason, text in found:
        assert reason in ("stop", "length")
        assert reason == "length" or is_valid(name, text)
    assert beside.token_ids == generate(tiny_engine(), plain)[0].token_ids


def test_an_answer_that_max_tokens_cuts_is_the_beginning_of_a_valid_one():
    names, batch = zip(*requests(max_tokens=3), strict=True)
    for name, reason, text in answers(generate(tiny_engine(n_pages=128), *batch), names):
        assert reason == "length"
        assert COMPILER.compile(SPECS[name]).n_allowed(tuple(TOKENIZER.encode(text))) == 3


def test_answers_in_a_batch_are_those_of_each_alone():
    batch = [r for _, r in requests(max_tokens=40)]
    together = [s.token_ids for s in generate(tiny_engine(n_pages=128), *batch)]
    assert together == [generate(tiny_engine(), r)[0].token_ids for _, r in requests(max_tokens=40)]
