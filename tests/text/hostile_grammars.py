"""Grammars made to take time, memory or the process down. `python -m tests.text.hostile_grammars` runs one after another.

It prints a JSON object of a list for each: what became of it, seconds of processor time to compile it, child processes
included, MB that this process grew by at its peak, MB of the largest child so far, and the longest of 60 steps in seconds.
"""

import json
import resource
import sys
import time

import numpy as np

from samovar.errors import SamovarError
from samovar.text.grammar import GrammarCompiler, GrammarSpec
from tests.text.grammar_walks import allowed_ids
from tests.text.tiny_tokenizers import byte_tokenizer


def _chain(n: int, link, last) -> GrammarSpec:
    links = {f"a{i}": link({"$ref": f"#/$defs/a{i + 1}"}) for i in range(n)}
    return GrammarSpec.json_schema({"$ref": "#/$defs/a0", "$defs": {**links, f"a{n}": last}})


def _text(n: int, line: str, last: str) -> str:
    return "\n".join([line.format(i, i + 1) for i in range(n)] + [last.format(n)])


CASES = {
    "references in a chain": lambda: _chain(5000, lambda r: r, {"type": "null"}),
    "arrays of references in a chain": lambda: _chain(4000, lambda r: {"type": "array", "items": r}, {"type": "null"}),
    "allOf that doubles": lambda: _chain(40, lambda r: {"allOf": [r, r]}, {"type": "string"}),
    "properties that double": lambda: _chain(40, lambda r: {"type": "object", "properties": {"x": r, "y": r}}, {}),
    "recursion through allOf": lambda: _chain(1, lambda r: {"allOf": [{"$ref": "#/$defs/a0"}, r]}, {"type": "object"}),
    "10 to the 10 combinations": lambda: GrammarSpec.json_schema(
        {
            "allOf": [
                {"anyOf": [{"type": "object", "properties": {f"p{i}": {"const": j}}} for j in range(10)]} for i in range(10)
            ]
        }
    ),
    "multiples of four primes": lambda: GrammarSpec.json_schema(
        {"allOf": [{"type": "integer", "multipleOf": p} for p in (9973, 9967, 9949, 9941)]}
    ),
    "3,000 optional properties": lambda: GrammarSpec.json_schema(
        {"type": "object", "properties": {f"prop{i}": {"type": "string"} for i in range(3000)}}
    ),
    "an enum of 3,000 objects": lambda: GrammarSpec.json_schema({"enum": [{"a": i, "b": [i]} for i in range(3000)]}),
    "arrays of at least 100,000,000": lambda: GrammarSpec.json_schema(
        {"type": "array", "items": {"const": 1}, "minItems": 10**8}
    ),
    "arrays of at most 100,000,000": lambda: GrammarSpec.json_schema(
        {"type": "array", "items": {"const": 1}, "maxItems": 10**8}
    ),
    "strings of 1,000,000": lambda: GrammarSpec.json_schema({"type": "string", "minLength": 10**5, "maxLength": 10**6}),
    "numbers of 300 digits": lambda: GrammarSpec.json_schema({"type": "integer", "minimum": -(10**300), "maximum": 10**300}),
    "JSON nested without end": lambda: GrammarSpec.json_schema({"type": "array", "items": {"$ref": "#"}, "minItems": 1}),
    "a pattern in a string": lambda: GrammarSpec.json_schema({"type": "string", "pattern": "a.{500}b"}),
    "repeated repetition": lambda: GrammarSpec.regex("(a+)+$"),
    "counts of counts": lambda: GrammarSpec.regex("((a{1,1000}){1,1000}){1,1000}"),
    "two counts": lambda: GrammarSpec.regex("a{1,1000}{1,1000}"),
    "a count of 1,000,000,000": lambda: GrammarSpec.regex("x{1000000000}"),
    "2 to the 500 states": lambda: GrammarSpec.regex("(?s:.*)a.{500}b"),
    "letters of all scripts": lambda: GrammarSpec.regex("\\p{L}{1,1000}\\p{N}{1,1000}"),
    "brackets 10,000 deep": lambda: GrammarSpec.regex("(" * 10_000 + "a" + ")" * 10_000),
    "20,000 alternatives": lambda: GrammarSpec.regex("|".join(f"{i * 7919:x}" for i in range(20_000))),
    "intersections": lambda: GrammarSpec.lark("start: A\nA: /.*a.{30}/ & /.*b.{31}/ & /.*c.{32}/ & /.*d.{33}/"),
    "a complement": lambda: GrammarSpec.lark("start: A\nA: ~/.*a.{30}/"),
    "200 overlapping terminals": lambda: GrammarSpec.lark(
        "start: " + " | ".join(f'/[a-z]*{chr(97 + i % 26)}[a-z]{{{i}}}/ "{i}"' for i in range(200))
    ),
    "rules in a chain": lambda: GrammarSpec.lark(_text(8000, "a{0}: a{1}", 'a{0}: "y"') + "\nstart: a0"),
    "terminals in a chain": lambda: GrammarSpec.lark(_text(8000, 'A{0}: A{1} "x"', 'A{0}: "y"') + "\nstart: A0"),
    "terminals that double": lambda: GrammarSpec.lark(_text(40, "A{0}: A{1} A{1}", 'A{0}: "y"') + "\nstart: A0"),
    "rule brackets 10,000 deep": lambda: GrammarSpec.lark("start: " + "(" * 10_000 + '"a"' + ")" * 10_000),
    "counted rules": lambda: GrammarSpec.lark('start: (("a"{1,1000}){1,1000}){1,1000}'),
    "left recursion and ambiguity": lambda: GrammarSpec.lark('start: start start start | "a" | ""'),
    "bytes forced without end": lambda: GrammarSpec.lark('start: /x+/ "x"'),
    "GBNF rules in a chain": lambda: GrammarSpec.ebnf(_text(6000, "a{0} ::= a{1}", 'a{0} ::= "y"') + "\nroot ::= a0"),
    "GBNF brackets 10,000 deep": lambda: GrammarSpec.ebnf("root ::= " + "(" * 10_000 + '"a"' + ")" * 10_000),
}


def _cpu_s() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _peak_mb() -> tuple[float, float]:
    return tuple(resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _longest_step_s(matcher) -> float:
    """The longest of up to 60 steps at random: a mask, and a token of it accepted."""
    rng, longest = np.random.default_rng(0), 0.0
    for _ in range(60):
        started = time.process_time()
        ids = allowed_ids(matcher, 9)
        ids = ids[ids < 256]
        if len(ids):
            matcher.accept(int(rng.choice(ids)))
        longest = max(longest, time.process_time() - started)
        if not len(ids):
            break
    return longest


def _run(compiler: GrammarCompiler, name: str) -> tuple[str, float, float, float, float]:
    started, peak_mb = _cpu_s(), _peak_mb()[0]
    outcome, step_s, compiled_s = "compiled", 0.0, None
    try:
        matcher = compiler.compile(CASES[name]())
        compiled_s = _cpu_s() - started
        step_s = _longest_step_s(matcher)
    except SamovarError as error:
        outcome = f"{type(error).__name__}: {error}"[:300]
    compiled_s = _cpu_s() - started if compiled_s is None else compiled_s
    own_mb, child_mb = _peak_mb()
    return outcome, compiled_s, own_mb - peak_mb, child_mb, step_s


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    compiler = GrammarCompiler(byte_tokenizer())
    compiler.compile(GrammarSpec.json_object())
    sys.stdout.write(json.dumps({name: _run(compiler, name) for name in CASES}))
