"""Whether a model stays sound under thousands of short requests: `python -m benchmarks.soak [--requests N] [--model NAME]`.

Up to 64 requests at once, of random length, sampling, priority, tenant, deadline and grammar, some for several answers, some
cancelled after a few tokens or at once. Each has to end exactly once; resident memory has to stay flat, which is within 2 %
between the mark of 20 % and the end; and the page pool has to come out empty. Prints a table, and exits 1 where that is
violated. `--model tiny` is a small model with random weights.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread

from samovar.engine.engine import Engine
from samovar.errors import SamovarError
from samovar.llm import LLM
from samovar.llm.options import Options
from samovar.llm.random_model import Shape, write_random_model
from samovar.llm.stream import Stream

MAX_OPEN, GROWTH, MARK, CONTEXT = 64, 0.02, 0.2, 2048
TINY = Shape(n_layers=2, d_model=128, n_heads=4, d_ffn=256, is_tied=True, n_kv_heads=2, d_head=32, vocab_size=1024)
_WORDS = (
    "the", "water", "in", "the", "samovar", "is", "hot", "and", "nobody", "remembers", "which", "of", "the", "cousins",
    "carried", "it", "home", "through", "the", "snow",
)  # fmt: skip
_FORMS: tuple[Options, ...] = (
    {"regex": "[a-z]{2,9}( [a-z]{2,9}){0,3}"},
    {"choices": ["hot", "cold", "neither of them"]},
    {"json_schema": {"type": "object", "properties": {"n": {"type": "integer"}, "on": {"type": "boolean"}}}},
    {"json_object": True},
)


@dataclass(slots=True)
class Found:
    """What became of the requests: endings by reason, requests lost or ended twice, resident bytes by requests done, and what
    the pool held at the end."""

    n_requests: int
    endings: Counter[str] = field(default_factory=Counter)
    n_tokens: int = 0
    unsound: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    pages: tuple[int, int, int] = (0, 0, 0)  # available, free once the cache is cleared, in all
    seconds: float = 0.0

    @property
    def growth(self) -> float:
        """Of the most resident memory behind the mark, relative to that at the mark."""
        at_mark = self.resident[int(len(self.resident) * MARK)]
        return max(self.resident[int(len(self.resident) * MARK) :]) / at_mark - 1

    def violations(self, growth: float = GROWTH) -> list[str]:
        """What is not as it has to be, in words."""
        found = list(self.unsound)
        if (n := self.endings.total()) != self.n_requests:
            found.append(f"{self.n_requests} requests had {n} endings")
        if self.growth > growth:
            found.append(f"resident memory grew by {self.growth:.1%}, more than {growth:.0%}")
        if len(set(self.pages)) > 1:
            found.append("of {2} pages {0} are available, and {1} free once the cache is cleared".format(*self.pages))
        return found


def options(rng: random.Random, seed: int) -> Options:
    """Of one request."""
    chosen: Options = {"max_tokens": rng.randint(1, 24), "temperature": rng.choice((0.0, 0.7, 1.2)), "seed": seed}
    if rng.random() < 0.3:
        chosen |= rng.choice(_FORMS)
    if rng.random() < 0.3:
        chosen["tenant"] = rng.choice(("ann", "bob"))
    if rng.random() < 0.3:
        chosen["priority"] = rng.randint(-5, 5)
    if rng.random() < 0.1:
        chosen["deadline_s"] = rng.choice((0.001, 0.05, 0.5, 30.0))
    if rng.random() < 0.1:
        chosen["logprobs"] = 2
    if rng.random() < 0.1:
        chosen["stop"] = ["e", "\n"]
    return chosen


def prompt(rng: random.Random) -> str:
    """A few words; many begin alike."""
    return " ".join([*_WORDS[: rng.choice((0, 0, 12))], *rng.choices(_WORDS, k=rng.randint(1, 40))])


def soak(llm: LLM, n_requests: int, *, max_open: int = MAX_OPEN) -> Found:
    """Send the requests, and see what becomes of each."""
    found, lock, numbers = Found(n_requests), Lock(), SimpleQueue[int]()
    for number in range(n_requests):
        numbers.put(number)
    every, started = max(1, n_requests // 100), time.perf_counter()

    def work() -> None:
        while not numbers.empty():
            number = numbers.get()
            try:
                reasons, n_tokens = _ask(llm, random.Random(number), number)
            except SamovarError as error:
                reasons, n_tokens = [f"{type(error).__name__}: {error}"], 0
            with lock:
                found.endings[reasons[0]] += 1
                found.n_tokens += n_tokens
                if len(reasons) != 1:
                    found.unsound.append(f"request {number} ended {len(reasons)} times")
                if found.endings.total() % every == 0:
                    found.resident.append(resident_bytes())

    workers = [Thread(target=work) for _ in range(max_open)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    llm.settle()
    found.seconds = time.perf_counter() - started
    found.pages = _pages(llm)
    return found


def _ask(llm: LLM, rng: random.Random, number: int) -> tuple[list[str], int]:
    """How one request ended, and its tokens; more than one ending is unsound."""
    chosen, text = options(rng, number), prompt(rng)
    if rng.random() < 0.1:
        several = llm.generate(text, **chosen, n=rng.randint(2, 4))
        answers = (several, *several.alternatives)
        return [several.finish_reason], sum(len(answer.token_ids) for answer in answers)
    n_read = rng.choice((0, 1, 3, 8)) if rng.random() < 0.3 else None
    stream = llm.stream_generate(text, **chosen)
    for n, _ in enumerate(stream):
        if n == n_read:
            break
    stream.close()
    endings = [stream.result.finish_reason, *_further_endings(stream)]
    return endings, len(stream.result.token_ids)


def _further_endings(stream: Stream) -> list[str]:
    """What the engine said behind the ending."""
    events = []
    while not stream._events.empty():
        events.append(stream._events.get())
    return [event.ending.reason for event in events if event.ending is not None]


def _pages(llm: LLM) -> tuple[int, int, int]:
    def count(engine: Engine) -> tuple[int, int, int]:
        n_available = engine.cache.n_available
        engine.cache.clear()
        return n_available, engine.pool.n_free, engine.pool.n_pages

    return llm._here.client.call(count)


def resident_bytes() -> int:
    """Of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def table(found: Found) -> str:
    """The figures, a line each."""
    mib, mark = [n / 2**20 for n in found.resident], int(len(found.resident) * MARK)
    lines = [
        f"requests              {found.n_requests}, {found.endings.total()} endings, in {found.seconds:.0f} s",
        f"tokens                {found.n_tokens}, {found.n_tokens / found.seconds:.0f}/s",
        *(f"  {reason:20}{n:6}" for reason, n in found.endings.most_common()),
        f"resident memory       {mib[0]:.1f} MiB at first, {mib[mark]:.1f} at {MARK:.0%}, {max(mib[mark:]):.1f} at most, "
        f"{mib[-1]:.1f} at the end: {found.growth:+.2%}",
        "pages                 {} available at the end, {} free once the cache is cleared, of {}".format(*found.pages),
    ]
    return "\n".join(lines)


def main() -> int:
    """Run it; 1 where something is violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--model", help="a file, a folder, a name in the store, or tiny (default: the embedded default)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = asked.model
        if path == "tiny":
            path = Path(folder) / "tiny.gguf"
            write_random_model(path, TINY, "q8_0")
        llm = LLM(path, max_context=CONTEXT)
        found = soak(llm, asked.requests)
    print(f"{llm.path.name}\n{table(found)}")
    for violation in (violations := found.violations()):
        print(f"VIOLATED: {violation}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
