"""Many chats at once: throughput, time to the first token and between tokens, beside llama.cpp's server in the same run.

    python -m benchmarks.many_at_once [--streams 1 4 16 32] [--rounds 3] [--threads 2] [--peers llama.cpp] [--json] [MODEL]

MODEL is as for `vs_peers`. A closed loop: N users each send a request, wait for the whole answer, and send the next, until all
requests are taken; at the end fewer than N are at work, for every engine alike. Engines get the same requests, the same
number of threads and memory for the keys and values (f16) of N sequences of 512 tokens. They alternate, each started afresh
for each round; every second round runs them in reverse order. One request is answered before the clock starts.

Lengths are log-normal, as those of chats are, with a long tail (`requests`). In the vLLM paper (Kwon et al., "Efficient Memory
Management for Large Language Model Serving with PagedAttention", 2023, fig. 11) the mean of ShareGPT's prompts is 161 tokens,
of its answers 338. Here prompts have a median of 64 and a mean of about 90, answers a median of 100 and a mean of about 115, so
that a round of 32 streams takes two minutes or so at 0.6B on two cores. Token ids are random: no two prompts begin alike.

Throughput counts the tokens of prompts and answers, from the first request until the last token. The time to the first token
runs from sending a request; the time between tokens is that between arrivals in one stream. Percentiles are over all requests
(all gaps) of a round; tables show medians over rounds, with minimum and maximum.
"""

import argparse
import asyncio
import json
import math
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.llama_server import AMX_BUILD, BINARY, LlamaServer
from benchmarks.machine import describe_machine
from benchmarks.one_engine import HIGH_ID, LOW_ID
from benchmarks.serving_peer import MakePeer, Place, SamovarPeer, ServingPeer, UncachedPeer
from benchmarks.vs_peers import BUSY_LOAD, ROOT, prepare
from samovar.kernels.cores import usable_cores

N_CONTEXT = 512
PROMPT = (64, 1.0, 8, 256)  # median, standard deviation of the logarithm, least, most
ANSWER = (100, 0.6, 16, 255)
PEERS: dict[str, MakePeer] = {"samovar": SamovarPeer, "samovar-uncached": UncachedPeer, "llama.cpp": LlamaServer}
UNITS = {
    "tokens_per_s": ("prompt and answer, tokens/s", 1),
    "answer_tokens_per_s": ("answer, tokens/s", 1),
    "first_token_p50_s": ("first token, p50, ms", 1000),
    "first_token_p95_s": ("first token, p95, ms", 1000),
    "between_p50_s": ("between tokens, p50, ms", 1000),
    "between_p95_s": ("between tokens, p95, ms", 1000),
    "peak_bytes": ("peak memory, MiB", 1 / 2**20),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt, and how many tokens to answer it with."""

    prompt_ids: list[int]
    n_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """When a request was sent and when its tokens came: `time.perf_counter()`."""

    n_prompt: int
    sent_s: float
    arrivals_s: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One round of one engine."""

    tokens_per_s: float
    answer_tokens_per_s: float
    first_token_p50_s: float
    first_token_p95_s: float
    between_p50_s: float
    between_p95_s: float
    peak_bytes: int


def requests(n_requests: int, seed: int) -> list[Request]:
    """Log-normal lengths within limits, random ids; the same for the same seed."""
    source = random.Random(seed)

    def length(median: float, sigma: float, least: int, most: int) -> int:
        return min(max(round(source.lognormvariate(math.log(median), sigma)), least), most)

    return [
        Request(
            prompt_ids=[source.randrange(LOW_ID, HIGH_ID) for _ in range(length(*PROMPT))],
            n_tokens=length(*ANSWER),
        )
        for _ in range(n_requests)
    ]


async def serve(peer: ServingPeer, wanted: list[Request], n_streams: int) -> list[Served]:
    """Send the requests, `n_streams` at any time."""
    rest, served = iter(wanted), []

    async def user(rest: Iterator[Request]) -> None:
        for request in rest:  # all users take from one list
            sent_s = time.perf_counter()
            arrivals_s = [arrived async for arrived in peer.stream(request.prompt_ids, request.n_tokens)]
            assert len(arrivals_s) == request.n_tokens
            served.append(Served(n_prompt=len(request.prompt_ids), sent_s=sent_s, arrivals_s=arrivals_s))

    async with asyncio.TaskGroup() as users:
        for _ in range(n_streams):
            users.create_task(user(rest))
    return served


def figures(served: list[Served], peak_bytes: int) -> Figures:
    """What a round comes to."""
    seconds = max(s.arrivals_s[-1] for s in served) - min(s.sent_s for s in served)
    n_answers = sum(len(s.arrivals_s) for s in served)
    firsts = [s.arrivals_s[0] - s.sent_s for s in served]
    gaps = [after - before for s in served for before, after in zip(s.arrivals_s, s.arrivals_s[1:], strict=False)]
    return Figures(
        tokens_per_s=(sum(s.n_prompt for s in served) + n_answers) / seconds,
        answer_tokens_per_s=n_answers / seconds,
        first_token_p50_s=percentile(firsts, 50),
        first_token_p95_s=percentile(firsts, 95),
        between_p50_s=percentile(gaps, 50),
        between_p95_s=percentile(gaps, 95),
        peak_bytes=peak_bytes,
    )


def percentile(values: list[float], percent: int) -> float:
    """The smallest of the values that at least `percent` of a hundred do not exceed."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


async def run_round(make: MakePeer, place: Place, wanted: list[Request]) -> tuple[str, Figures]:
    """Start an engine, serve the requests, stop it. Returns its description, too."""
    peer = make(place)
    try:
        await peer.start()
        await serve(peer, requests(1, seed=-1), 1)
        served = await serve(peer, wanted, place.n_slots)
        return peer.description, figures(served, peer.peak_bytes())
    finally:
        await peer.stop()


def n_requests_for(n_streams: int) -> int:
    """Enough for each user to come twice, and for a percentile of few users to be one."""
    return max(2 * n_streams, min(8 * n_streams, 12), 6)


def table(found: dict[int, dict[str, list[Figures]]]) -> str:
    """Markdown: a row for each number of streams and quantity."""
    names = list(next(iter(found.values())))
    lines = [["streams", "measured", *names], ["---"] * (len(names) + 2)]
    for n, by_peer in found.items():
        for field in fields(Figures):
            what, factor = UNITS[field.name]
            cells = [summary([factor * getattr(f, field.name) for f in by_peer[name]]) for name in names]
            lines.append([str(n), what, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(values: list[float]) -> str:
    """Median (minimum to maximum)."""
    median = statistics.median(values)
    digits = 2 if median < 10 else 1 if median < 100 else 0
    return f"{median:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `second_turn` has as well."""
    parser.add_argument("model", nargs="?", default="qwen3-0.6b:q4_0", metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=["samovar", "llama.cpp"])
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench", help="where random models are kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def begin(peers: list[str]) -> None:
    """See that all is there, say what makes figures wrong, and let SIGTERM end a run as Ctrl-C does, servers included."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if "llama.cpp" in peers and not BINARY.exists():
        sys.exit(f"{BINARY} is not there; build it with: make {BINARY.relative_to(ROOT)}")
    if "llama.cpp" in peers and "amx" in describe_machine():
        print(AMX_BUILD, file=sys.stderr)
    if os.getloadavg()[0] > BUSY_LOAD * usable_cores():
        print("warning: other work is running; peers' threads wait by spinning and suffer most from it", file=sys.stderr)


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 4, 16, 32])
    args = parser.parse_args()
    begin(args.peers)
    machine, model = describe_machine(), prepare(args.model, args.folder.absolute(), None).gguf
    descriptions: dict[str, str] = {}
    found: dict[int, dict[str, list[Figures]]] = {n: {name: [] for name in args.peers} for n in args.streams}
    for n in args.streams:
        place = Place(model=model, n_slots=n, n_context=N_CONTEXT, n_threads=args.threads)
        for index in range(args.rounds):
            wanted = requests(n_requests_for(n), seed=index)
            for name in args.peers if index % 2 == 0 else reversed(args.peers):
                print(f"{n} streams: round {index + 1} of {args.rounds}, {name}", file=sys.stderr)
                descriptions[name], one = asyncio.run(run_round(PEERS[name], place, wanted))
                found[n][name].append(one)
    command = f"python -m benchmarks.many_at_once {' '.join(sys.argv[1:])}".strip()
    if args.json:
        rounds = {n: {name: [asdict(f) for f in fs] for name, fs in by_peer.items()} for n, by_peer in found.items()}
        print(json.dumps({"machine": machine, "command": command, "engines": descriptions, "rounds": rounds}))
        return 0
    print(f"machine: {machine}\ncommand: {command}\nengines, {args.threads} threads each:")
    for name, description in descriptions.items():
        print(f"  {name}: {description}")
    print(f"\n{table(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
