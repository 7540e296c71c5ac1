"""The second turn of a chat with a thinking model: time to its first token, beside llama.cpp's server in the same run.

    python -m benchmarks.second_turn [--rounds 3] [--threads 2] [--peers llama.cpp] [--json] [MODEL]

MODEL is as for `vs_peers`. First turn: a prompt (system and user) of 500 tokens, answered with 3,000 tokens of thoughts and 500
of answer. Templates leave the thoughts out of what they send next. So the second prompt is the first one, the answer without
its thoughts, and a new message of 30 tokens: of what an engine computed, 500 tokens are a common beginning, and the 500 of the
answer stand elsewhere and follow other tokens. Measured: from sending the second prompt until its first token.

Ids of prompts are random; the answer is what the engine generates. One chat at a time, one slot, room for both turns. Each
round is a chat of its own in a freshly started engine; engines alternate. The first turn's own figures are beside it: its time
to the first token shows what 500 tokens of prompt cost.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass, fields

from benchmarks.machine import describe_machine
from benchmarks.many_at_once import PEERS, add_options, begin, summary
from benchmarks.one_engine import HIGH_ID, LOW_ID
from benchmarks.serving_peer import MakePeer, Place, ServingPeer
from benchmarks.vs_peers import prepare

SPARE_TOKENS = 64  # of context, beyond what is measured
UNITS = {
    "first_turn_s": "first turn: first token, s",
    "answer_tokens_per_s": "first turn: thoughts and answer, tokens/s",
    "second_turn_s": "second turn: first token, s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Tokens of each part."""

    n_prompt: int
    n_thoughts: int
    n_answer: int
    n_message: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One chat with one engine."""

    first_turn_s: float
    answer_tokens_per_s: float
    second_turn_s: float


async def first_token_s(peer: ServingPeer, prompt_ids: list[int]) -> float:
    """Seconds until the first and only token."""
    sent_s = time.perf_counter()
    (arrived_s,) = [arrived async for arrived in peer.stream(prompt_ids, 1)]
    return arrived_s - sent_s


async def run_chat(make: MakePeer, place: Place, sizes: Sizes, seed: int) -> tuple[str, Figures]:
    """Start an engine, hold both turns, stop it. Returns its description, too."""
    source = random.Random(seed)

    def ids(n_tokens: int) -> list[int]:
        return [source.randrange(LOW_ID, HIGH_ID) for _ in range(n_tokens)]

    peer = make(place)
    try:
        await peer.start()
        await first_token_s(peer, ids(16))
        prompt, message = ids(sizes.n_prompt), ids(sizes.n_message)
        first_turn_s = await first_token_s(peer, prompt)
        started_s = time.perf_counter()
        answer = await peer.complete(prompt, sizes.n_thoughts + sizes.n_answer)
        rate = len(answer) / (time.perf_counter() - started_s)
        second_turn_s = await first_token_s(peer, prompt + answer[sizes.n_thoughts :] + message)
        return peer.description, Figures(first_turn_s=first_turn_s, answer_tokens_per_s=rate, second_turn_s=second_turn_s)
    finally:
        await peer.stop()


def table(found: dict[str, list[Figures]]) -> str:
    """Markdown."""
    lines = [["measured", *found], ["---"] * (len(found) + 1)]
    for field in fields(Figures):
        lines.append([UNITS[field.name], *(summary([getattr(f, field.name) for f in fs]) for fs in found.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    for name, n_tokens in (("prompt", 500), ("thoughts", 3000), ("answer", 500), ("message", 30)):
        parser.add_argument(f"--{name}", type=int, default=n_tokens, metavar="N", help=f"tokens (default: {n_tokens})")
    args = parser.parse_args()
    begin(args.peers)
    machine, model = describe_machine(), prepare(args.model, args.folder.absolute(), None).gguf
    sizes = Sizes(n_prompt=args.prompt, n_thoughts=args.thoughts, n_answer=args.answer, n_message=args.message)
    n_context = args.prompt + args.thoughts + args.answer + args.message + SPARE_TOKENS
    place = Place(model=model, n_slots=1, n_context=n_context, n_threads=args.threads)
    descriptions: dict[str, str] = {}
    found: dict[str, list[Figures]] = {name: [] for name in args.peers}
    for index in range(args.rounds):
        for name in args.peers if index % 2 == 0 else reversed(args.peers):
            print(f"round {index + 1} of {args.rounds}, {name}", file=sys.stderr)
            descriptions[name], one = asyncio.run(run_chat(PEERS[name], place, sizes, seed=index))
            found[name].append(one)
    command = f"python -m benchmarks.second_turn {' '.join(sys.argv[1:])}".strip()
    if args.json:
        rounds = {name: [asdict(f) for f in fs] for name, fs in found.items()}
        medians = {name: statistics.median(f.second_turn_s for f in fs) for name, fs in found.items()}
        print(json.dumps({"machine": machine, "command": command, "second_turn_s": medians, "rounds": rounds}))
        return 0
    print(f"machine: {machine}\ncommand: {command}\nengines, {args.threads} threads each:")
    for name, description in descriptions.items():
        print(f"  {name}: {description}")
    print(f"\n{table(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
