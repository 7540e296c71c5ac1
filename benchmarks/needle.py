"""Whether a model finds sentences anywhere in a long text, up to the limit of memory, and what int8 keys and values change.

The text is source code of Python's standard library, cut to the length asked for, with a line `# The secret number of the red
samovar is 48213.` (a colour and a number of its own) at each depth. It is computed once; each line is then asked for. So every
question has the others as distractors. A length beyond the native context takes YaRN (`models.long_context`). `--factor` takes
the factor given at every length: 1 beyond the native context shows what YaRN is for, 2 or 4 within it what it costs.
`--memory` takes the longest text that the engine holds in so many bytes, weights and all, and then asks a longer one,
which has to be refused.

With several types of keys and values, the last positions are compared: KL is sum(p * log(p / q)) over the vocabulary, p by the
first type.

Examples:
  python -m benchmarks.needle --model qwen2.5-coder:0.5b --lengths 4096 16384 --kv-types bf16 int8
  python -m benchmarks.needle --lengths 36864 --kv-types int8 --factor 1
  python -m benchmarks.needle --memory 1200M --kv-types bf16 int8
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from samovar import LLM
from samovar.cli.arguments import size_bytes
from samovar.engine.engine import Engine
from samovar.engine.request import Request, SamplingParams
from samovar.engine.sequence import Sequence as EngineSequence
from samovar.errors import SamovarError
from samovar.kernels import KV_DTYPES, PAGE_TOKENS, KvType
from samovar.llm.memory import kv_page_bytes, size
from samovar.models.long_context import FACTORS, LongContext

COLOURS = ("red", "blue", "green", "yellow", "white", "black", "orange", "purple", "silver")
DEPTHS = (0.02, 0.25, 0.5, 0.75, 0.98)
N_COMPARED = 32  # positions at the end of the prompt, over which the KL is taken
N_ANSWER = 24  # tokens, which a number and some words around it need


@dataclass(frozen=True, slots=True, kw_only=True)
class Needles:
    """A text with a number hidden at each depth, and the questions for them."""

    text: str
    numbers: dict[str, str]  # by colour, in the order of depth

    def messages(self, colour: str) -> list[dict[str, object]]:
        """A conversation that asks for one of the numbers."""
        question = f"What is the secret number of the {colour} samovar? Answer with the number alone."
        return [{"role": "user", "content": f"{self.text}\n\nThe code above has comments about samovars. {question}"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What became of one text: which depths were found, at what cost, and log-probabilities [N, V] at the prompt's end."""

    n_prompt: int
    factor: int
    hits: tuple[bool, ...]
    prefill_s: float
    kv_bytes: int
    log_p_NV: NDArray[np.float32]


def source_text(n_chars: int) -> str:
    """The first characters of the standard library's sources, in the order of their names, in whole lines."""
    pieces, n_read = [], 0
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        pieces.append(path.read_text(encoding="utf-8", errors="replace"))
        n_read += len(pieces[-1])
        if n_read > n_chars:
            break
    return "".join(pieces)[:n_chars].rpartition("\n")[0]


def hide(llm: LLM, n_tokens: int, depths: Sequence[float], seed: int = 1) -> Needles:
    """A text with needles that, with its question, has at most `n_tokens`, and nearly as many."""
    draw = random.Random(seed)
    numbers = {colour: str(draw.randrange(10_000, 100_000)) for colour in COLOURS[: len(depths)]}

    def made(n_chars: int) -> Needles:
        lines = source_text(n_chars).split("\n")
        for depth, (colour, number) in reversed(list(zip(depths, numbers.items(), strict=True))):
            lines.insert(int(depth * len(lines)), f"# The secret number of the {colour} samovar is {number}.")
        return Needles(text="\n".join(lines), numbers=numbers)

    low, high = 0, 8 * n_tokens
    while high - low > n_tokens // 100 + 1:
        middle = (low + high) // 2
        n_prompt = len(llm.render_chat(made(middle).messages(COLOURS[0])).ids)
        low, high = (middle, high) if n_prompt + N_ANSWER + 8 <= n_tokens else (low, middle)
    return made(low)


def look(llm: LLM, needles: Needles, *, compares: bool) -> Found:
    """Ask for every number."""
    hits, results, started = [], [], time.perf_counter()
    prefill_s = 0.0
    for colour, number in needles.numbers.items():
        results.append(llm.chat(needles.messages(colour), temperature=0, max_tokens=N_ANSWER))
        hits.append(number in results[-1].text)
        prefill_s = prefill_s or time.perf_counter() - started
    ids = llm.render_chat(needles.messages(COLOURS[0])).ids
    usage = results[0].usage
    log_p_NV = llm._here.client.call(lambda engine: last_log_probabilities(engine, ids)) if compares else np.empty((0, 0), "f4")
    return Found(
        n_prompt=usage.n_prompt,
        factor=usage.yarn_factor,
        hits=tuple(hits),
        prefill_s=prefill_s,
        kv_bytes=-(-usage.n_prompt // PAGE_TOKENS) * kv_page_bytes(llm.config, llm.kv_type),
        log_p_NV=log_p_NV,
    )


def last_log_probabilities(engine: Engine, ids: tuple[int, ...]) -> NDArray[np.float32]:
    """After each of the last tokens of a prompt whose beginning is cached."""
    request = Request(prompt_ids=ids, sampling=SamplingParams(max_tokens=N_ANSWER))
    sequence = EngineSequence(request=request, token_ids=list(ids[:-N_COMPARED]), factor=engine.factor_of(request))
    rows = []
    try:
        for token_id in (*ids[-N_COMPARED:], None):
            logits_V = engine.catch_up(sequence)[0].astype(np.float64)
            shifted_V = logits_V - logits_V.max()
            rows.append((shifted_V - np.log(np.exp(shifted_V).sum())).astype(np.float32))
            if token_id is not None:
                sequence.token_ids.append(token_id)
    finally:
        engine.let_go(sequence)
    return np.stack(rows)


def mean_kl(log_p_NV: NDArray[np.float32], log_q_NV: NDArray[np.float32]) -> float:
    """In nats."""
    p_NV = np.exp(log_p_NV.astype(np.float64))
    return float((p_NV * (log_p_NV.astype(np.float64) - log_q_NV)).sum(1).mean())


def table_row(kv_type: KvType, found: Found, first: Found) -> str:
    """A line of the table."""
    hits = " ".join("yes" if hit else "-" for hit in found.hits)
    rotation = "own" if found.factor == 1 else f"YaRN {found.factor}"
    kl = "" if found is first or not len(first.log_p_NV) else f"{mean_kl(first.log_p_NV, found.log_p_NV):.5f}"
    n_found, memory = f"{sum(found.hits)}/{len(found.hits)}", size(found.kv_bytes)
    return f"| {found.n_prompt:,} | {rotation} | {kv_type} | {memory} | {hits} | {n_found} | {found.prefill_s:.0f} | {kl} |"


def held_to(llm: LLM, factor: int) -> LongContext | None:
    """What makes an engine take one factor for every request."""
    long = llm.config.long_context
    if long is None or factor == 1:
        return None
    return replace(long, native=0, ropes={of: rope for of, rope in long.ropes.items() if of in (1, factor)})


def main() -> int:
    """Print a row for each length and type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder:0.5b", help="default: %(default)s")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--lengths", type=int, nargs="+", default=[4096, 16_384, 36_864], metavar="N", help="tokens")
    which.add_argument("--memory", type=size_bytes, metavar="SIZE", help="as in 2G: the longest text that it holds")
    parser.add_argument("--kv-types", nargs="+", choices=tuple(KV_DTYPES), default=["bf16", "int8"])
    parser.add_argument("--depths", type=float, nargs="+", default=list(DEPTHS), metavar="X", help="0 (start) to 1 (end)")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--factor", type=int, choices=(1, *FACTORS), help="YaRN's factor, or 1 for the model's own rotation")
    args = parser.parse_args()
    if len(args.depths) > len(COLOURS):
        parser.error(f"{len(args.depths)} depths; expected at most {len(COLOURS)}")
    print(
        f"machine: {describe_machine()}\ncommand: python -m benchmarks.needle {' '.join(sys.argv[1:])}\nmodel: {args.model}\n"
    )
    depths = " ".join(f"{100 * depth:.0f} %" for depth in args.depths)
    print(f"| prompt tokens | rotation | keys and values | their memory | found at {depths} | found | first answer, s | KL |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for n_tokens in args.lengths if args.memory is None else [None]:
        first = None
        for kv_type in args.kv_types:
            llm = LLM(
                args.model, kv_type=kv_type, max_context=n_tokens, max_streams=1, n_threads=args.threads, memory=args.memory
            )
            if args.factor is not None:
                llm._engine.long_context = held_to(llm, args.factor)
            needles = hide(llm, n_tokens or llm.max_context, args.depths)
            found = look(llm, needles, compares=len(args.kv_types) > 1 and n_tokens is not None)
            first = first or found
            print(table_row(kv_type, found, first), flush=True)
            if n_tokens is None:
                print(f"{kv_type}: {refusal(llm)}", flush=True)
            llm.close()
    return 0


def refusal(llm: LLM) -> str:
    """What is said to a prompt that is longer than the context."""
    try:
        llm.generate(" hello" * (llm.max_context + 1), max_tokens=1)
    except SamovarError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("a prompt beyond the context was taken")


if __name__ == "__main__":
    sys.exit(main())
