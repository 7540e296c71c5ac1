"""Decoding with speculation beside plain decoding of the same answers, alternating in one run.

    python -m benchmarks.speculation [--rounds 3] [--threads 2] [--tokens 200] [--case edit ...]

Answers must be the same, token for token, or the run fails. The table shows the median of decoded tokens a second (minimum to
maximum), the ratio of the medians, and what part of the guessed tokens was right. The models are those of `samovar pull`.
"""

import argparse
import platform
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

from samovar import LLM
from samovar.llm.options import Options

ROOT = Path(__file__).parents[1]
SMALL, LARGE = "qwen2.5-coder:0.5b", "qwen2.5-coder:1.5b"
_CODE = (ROOT / "src/samovar/engine/page_pool.py").read_text()
_TEXT = (ROOT / "src/samovar/evals/udhr_eng.txt").read_text()[:4000]
_EDIT = f"Rename the parameter `n_tokens` to `n_slots` in this file. Answer with the whole file.\n\n```python\n{_CODE}```"
_EXTRACT = f"{_TEXT}\n\nCopy out word for word every sentence of the text above that contains the word 'right'."
_GREEDY: Options = {"temperature": 0.0}
_RESTLESS: Options = {"temperature": 1.2, "top_p": 1.0, "seed": 1, "repetition_penalty": 1.1, "presence_penalty": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A question to a model, and what may guess."""

    question: str
    model: str = SMALL
    draft: str | None = None
    options: Options = field(default_factory=lambda: _GREEDY)


CASES = {
    "edit": Case(question=_EDIT),
    "extraction": Case(question=_EXTRACT),
    "story": Case(question="Tell a story about a lighthouse keeper."),
    "nothing repeats": Case(question="Write a poem about the sea with many rare words.", options=_RESTLESS),
    "draft, code": Case(question="Write a Python class for a binary search tree with tests.", model=LARGE, draft=SMALL),
    "draft, edit": Case(question=_EDIT, model=LARGE, draft=SMALL),
}


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; default: all")
    args = parser.parse_args()
    names = args.case or list(CASES)
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, python -m benchmarks.{Path(__file__).stem}")
    print("| case | plain, tokens/s | speculation, tokens/s | ratio | guessed | right |\n|---|---|---|---|---|---|")
    for name in names:
        print(row(name, CASES[name], args.rounds, args.threads, args.tokens), flush=True)
    return 0


def row(name: str, case: Case, n_rounds: int, n_threads: int, n_tokens: int) -> str:
    """Measure one case; a row of the table."""
    engines = {
        "plain": LLM(case.model, n_threads=n_threads, max_context=4096, speculation="off"),
        "ahead": LLM(case.model, n_threads=n_threads, max_context=4096, draft=case.draft),
    }
    rates: dict[str, list[float]] = {"plain": [], "ahead": []}
    answers = set()
    for index in range(n_rounds + 1):  # the first is not counted: prompts are read, costs are learnt
        for which, llm in engines.items() if index % 2 else reversed(engines.items()):
            result = llm.chat(case.question, max_tokens=n_tokens, **case.options)
            answers.add(result.token_ids)
            if which == "ahead":
                usage = result.usage
            if index:
                rates[which].append((result.usage.n_completion - 1) / result.timing.decode_s)
    if len(answers) != 1:
        sys.exit(f"{name}: answers differ between plain decoding and speculation")
    ratio = statistics.median(rates["ahead"]) / statistics.median(rates["plain"])
    share = usage.n_accepted / usage.n_drafted if usage.n_drafted else 0.0
    plain, ahead = (f"{statistics.median(r):.1f} ({min(r):.1f} to {max(r):.1f})" for r in rates.values())
    return f"| {name} | {plain} | {ahead} | {ratio:.2f} | {usage.n_drafted} | {share:.0%} |"


if __name__ == "__main__":
    sys.exit(main())
