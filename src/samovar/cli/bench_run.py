"""What `samovar bench` measures: one model, in this process and, for its start, in processes of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from samovar.errors import SamovarError
from samovar.formats import open_checkpoint
from samovar.formats.cache import CacheStore
from samovar.kernels import KvType, Ops, WeightForm
from samovar.kernels.limits import Limits, measure_limits
from samovar.kernels.native import NativeOps
from samovar.llm import LLM
from samovar.llm.model_text import read_model_text
from samovar.llm.speed import bench_engine, random_prompts, timed_run

N_SHORT = 16  # tokens that decoding starts after
_TEXT = "The capital of France is"
_ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to measure. `streams` are the numbers of sequences that are decoded together: ascending, at least one."""

    n_rounds: int
    n_prompt: int
    n_tokens: int
    streams: tuple[int, ...]
    n_threads: int | None
    max_context: int | None
    kv_type: KvType | None
    weights: WeightForm = "stored"
    isa: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One list entry a round. Rates count tokens a second, of all streams together; `limits` is empty on NumPy kernels.

    The machine's limits change with what else it has to do. So they are measured in every round, right before prefill and right
    after decoding one stream, and the larger figures count: a share is above 1 only where other work came and went between.
    """

    isa: str
    n_threads: int
    kv_type: KvType
    weight_bytes: int
    product_weights: int
    limits: list[Limits]
    prefill: list[float]
    decode: dict[int, list[float]]
    python_shares: list[float]
    first_token_s: list[float]
    first_start_s: float
    tokenizer_s: list[float]
    resident_bytes: int

    @property
    def bandwidth_share(self) -> list[float]:
        """Of the memory's read rate: what decoding one stream reads of weights, round by round."""
        rates = zip(self.limits, self.decode.get(1, []), strict=False)
        return [tokens * self.weight_bytes / limits.read_bytes_per_s for limits, tokens in rates]

    @property
    def peak_share(self) -> list[float]:
        """Of the integer units' rate: one multiplication and addition for each weight and token of prefill."""
        rates = zip(self.limits, self.prefill, strict=False)
        return [tokens * 2 * self.product_weights / limits.int8_ops_per_s for limits, tokens in rates]


def run_bench(path: Path, settings: Settings, advance: Callable[[str], None]) -> Report:
    """Measure the model at `path`; `advance` is called with what comes next, `n_steps` times.

    The cache of packed weights is a fresh one in a temporary folder, so that a first and a later start can be told apart.
    """
    with temporary_folder() as home:
        advance("start-up")
        starts = [_start(path, settings, home) for _ in range(settings.n_rounds + 1)]
        cache = CacheStore(home / "cache")
        tokenizer = [_tokenizer_s(path, cache) for _ in range(settings.n_rounds)]
        advance("loading")
        # Room for a token or two: the runs below have an engine of their own.
        llm = LLM(
            path, n_threads=settings.n_threads, max_context=N_SHORT, kv_type=settings.kv_type, weights=settings.weights,
            isa=settings.isa,
            speculation="off", cache=False,
        )  # fmt: skip
        llm.card.check_writes_text()
        return _measure(llm, settings, advance, starts, tokenizer)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is there inside the context, and removed even where a signal ends the program (code 128 + its number)."""
    tempfile.gettempdir()  # at its first call it tries the place with a file, which an exception would leave there
    caught = [number for number in _ENDING_SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    early: list[int] = []
    for number in caught:
        signal.signal(number, lambda number, _: early.append(number))  # wait until the folder is in the context's hands
    try:
        with tempfile.TemporaryDirectory(prefix="samovar-bench-") as folder:
            for number in caught:
                signal.signal(number, _leave)
            if early:
                signal.raise_signal(early[0])
            yield Path(folder)
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    for ending in _ENDING_SIGNALS:
        signal.signal(ending, signal.SIG_IGN)  # a second one must not end the removal
    raise SystemExit(128 + number)


def n_steps(settings: Settings) -> int:
    """How often `run_bench` advances."""
    return 2 + settings.n_rounds * (1 + len(settings.streams))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rounds:
    """What is measured round by round, as in `Report`."""

    limits: list[Limits] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)
    decode: dict[int, list[float]]
    python_shares: list[float] = field(default_factory=list)


def _measure(
    llm: LLM, settings: Settings, advance: Callable[[str], None], starts: list[float], tokenizer: list[float]
) -> Report:
    rounds = _run_rounds(llm, settings, advance)
    config = llm.model.config
    return Report(
        isa=llm.ops.isa,
        n_threads=llm.ops.n_threads,
        kv_type=llm.kv_type,
        weight_bytes=llm.model.read_bytes,
        product_weights=config.product_weights,
        limits=rounds.limits,
        prefill=rounds.prefill,
        decode=rounds.decode,
        python_shares=rounds.python_shares,
        first_token_s=starts[1:],
        first_start_s=starts[0],
        tokenizer_s=tokenizer,
        resident_bytes=_resident_bytes(),
    )


def _run_rounds(llm: LLM, settings: Settings, advance: Callable[[str], None]) -> _Rounds:
    """Each kind of run once untimed, then all of them in every round."""
    vocab_size = llm.model.config.vocab_size
    n_context = settings.max_context or max(settings.n_prompt + 1, N_SHORT + settings.n_tokens)
    long = bench_engine(llm, n_streams=1, n_tokens=n_context)
    timed_run(long, random_prompts(1, settings.n_prompt, -1, vocab_size), 1)
    many = bench_engine(llm, n_streams=max(settings.streams), n_tokens=N_SHORT + settings.n_tokens)
    for n in settings.streams:
        timed_run(many, random_prompts(n, N_SHORT, -1, vocab_size), 3)
    found = _Rounds(decode={n: [] for n in settings.streams})
    for index in range(settings.n_rounds):
        before = _limits(llm.ops)
        advance(f"prefill, round {index + 1}")
        run = timed_run(long, random_prompts(1, settings.n_prompt, index, vocab_size), 1)
        found.prefill.append(settings.n_prompt / run.first_s)
        for n in settings.streams:
            advance(f"decode of {n}, round {index + 1}")
            run = timed_run(many, random_prompts(n, N_SHORT, index, vocab_size), settings.n_tokens)
            found.decode[n].append(n * (settings.n_tokens - 1) / run.rest_s)
            if n == 1 and run.python_share is not None:
                found.python_shares.append(run.python_share)
            if n == min(settings.streams):  # what follows has no share
                found.limits.extend(map(_larger, before, _limits(llm.ops)))
    return found


def _limits(ops: Ops) -> list[Limits]:
    """The machine's, once; nothing on NumPy kernels."""
    return [measure_limits(ops.isa, ops.n_threads)] if isinstance(ops, NativeOps) else []


def _larger(one: Limits, other: Limits) -> Limits:
    return Limits(
        read_bytes_per_s=max(one.read_bytes_per_s, other.read_bytes_per_s),
        int8_ops_per_s=max(one.int8_ops_per_s, other.int8_ops_per_s),
    )


def _start(path: Path, settings: Settings, home: Path) -> float:
    """Seconds from starting `samovar generate` in a process of its own until its first output (or its end, where the token
    shows nothing)."""
    command = [sys.executable, "-m", "samovar", "generate", str(path.absolute()), "-p", _TEXT, "--max-tokens", "1"]
    command += ["--temperature", "0", "--weights", settings.weights]
    if settings.n_threads is not None:
        command += ["--threads", str(settings.n_threads)]
    environment = os.environ | {"SAMOVAR_HOME": str(home)} | ({"SAMOVAR_ISA": settings.isa} if settings.isa else {})
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the first start leaves bytecode, as it does for most
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603  # this program itself
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, bufsize=0
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdout.read(1)
            seconds = time.perf_counter() - started
            process.stdout.read()
            said = process.stderr.read().decode(errors="replace").strip()
        except BaseException:  # a signal ends this program: the other must not write to the folder any more
            process.kill()
            process.wait()
            raise
    if process.returncode:
        raise SamovarError(f"starting the model in a process of its own failed: {said or f'code {process.returncode}'}")
    return seconds


def _tokenizer_s(path: Path, cache: CacheStore) -> float:
    """Seconds to make the tokenizer and all else that concerns text, in this process, from an opened file."""
    checkpoint = open_checkpoint(path, cache)
    started = time.perf_counter()
    read_model_text(checkpoint, cache)
    return time.perf_counter() - started


def _resident_bytes() -> int:
    """Memory that this process holds, pages of mapped files included."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
