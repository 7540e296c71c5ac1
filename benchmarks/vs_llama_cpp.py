"""Prefill, decode and start-up of samovar beside llama.cpp, on the same files in the same run.

    python -m benchmarks.vs_llama_cpp [--rounds 5] [--threads 2] [--json] [MODEL ...]

Each measurement is a process of its own, engines alternate, and every second round runs them in reverse order. Prefill:
512 tokens in one go. Decode: 128 greedy tokens after a prompt of about 16. Start-up: from starting the process to the first
token, with the file in the page cache. The table shows medians with minimum and maximum, and the ratio to whichever of
`llama-cpp-python` and `xllamacpp` is faster at that measurement.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.one_engine import Measured, Prompts
from samovar.formats.gguf import read_gguf
from samovar.formats.hub import default_store, resolve
from samovar.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
TEXT_FILES = (ROOT / "tests/parity/udhr_eng.txt", ROOT / "LICENSE")
PEERS = {"llama-cpp-python": "llama_cpp", "xllamacpp": "xllamacpp"}
N_LONG, N_SHORT = 512, 16
LONG_STARTS = (0, 150, 300)  # words
BUSY_LOAD = 0.5  # per core, the last minute's
INTERESTING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "i8mm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One row of the table: how to read it from a process's measurements, its unit, and whether more is better."""

    name: str
    unit: str
    read: Callable[[Measured], float]
    is_rate: bool = True


QUANTITIES = (
    Quantity(name="prefill", unit="tokens/s", read=lambda m: statistics.median(m.prefill_tokens_per_s)),
    Quantity(name="decode", unit="tokens/s", read=lambda m: m.decode_tokens_per_s),
    Quantity(name="start-up", unit="s", read=lambda m: m.start_up_s, is_rate=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A quantity of one model: (median, minimum, maximum) of ours and of the faster peer, and how many times better ours is."""

    model: str
    quantity: str
    unit: str
    ours: tuple[float, float, float]
    peer: str
    theirs: tuple[float, float, float]
    times: float


def prompts_for(encode: Callable[[str], list[int]]) -> Prompts:
    """Texts of exactly 512 tokens, and a short one."""
    words = "\n".join(path.read_text(encoding="utf-8") for path in TEXT_FILES).split(" ")
    long = [_text_of(words[start:], N_LONG, encode) for start in LONG_STARTS]
    return Prompts(short=_text_of(words[40:], N_SHORT, encode), long=long, n_long=N_LONG)


def _text_of(words: list[str], n_tokens: int, encode: Callable[[str], list[int]]) -> str:
    """The longest run of words with at most `n_tokens` tokens, filled up with full stops."""
    n_words = 1
    while len(encode(" ".join(words[: n_words + 1]))) <= n_tokens:
        n_words += 1
    text = " ".join(words[:n_words])
    while len(encode(text)) < n_tokens:
        text += " ."
    assert len(encode(text)) == n_tokens
    return text


def run_once(engine: str, path: Path, prompts: Path, n_threads: int) -> Measured:
    """Measure in a fresh process. Its error output is shown if it fails."""
    command = [sys.executable, "-m", "benchmarks.one_engine", engine, str(path), str(prompts), "--threads", str(n_threads)]
    done = subprocess.run(
        [*command, "--started", repr(time.monotonic())], capture_output=True, text=True, cwd=ROOT, check=False
    )
    if done.returncode:
        sys.exit(f"{engine} on {path.name} failed:\n{done.stderr[-2000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def measure_model(path: Path, engines: list[str], n_rounds: int, n_threads: int) -> dict[str, list[Measured]]:
    """All rounds of all engines on one file."""
    tokenizer = Tokenizer.from_gguf(read_gguf(path).metadata)
    found: dict[str, list[Measured]] = {engine: [] for engine in engines}
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.json"
        prompts.write_text(json.dumps(asdict(prompts_for(lambda text: list(tokenizer.encode(text))))))
        for index in range(n_rounds):
            for engine in engines if index % 2 == 0 else reversed(engines):
                print(f"{path.name}: round {index + 1} of {n_rounds}, {engine}", file=sys.stderr)
                found[engine].append(run_once(engine, path, prompts, n_threads))
    return found


def compare(model: str, found: dict[str, list[Measured]]) -> list[Row]:
    """Rows against the faster peer of each quantity."""
    rows = []
    for quantity in QUANTITIES:
        numbers = {engine: _summary([quantity.read(m) for m in measured]) for engine, measured in found.items()}
        ours = numbers.pop("samovar")
        choose = max if quantity.is_rate else min
        peer = choose(numbers, key=lambda engine: numbers[engine][0])
        ratio = ours[0] / numbers[peer][0]
        rows.append(
            Row(
                model=model,
                quantity=quantity.name,
                unit=quantity.unit,
                ours=ours,
                peer=peer,
                theirs=numbers[peer],
                times=ratio if quantity.is_rate else 1 / ratio,
            )
        )
    return rows


def _summary(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def describe_machine() -> str:
    """CPU, cores, instruction sets, memory and systems."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in fields.items()}
    flags = values.get("flags", values.get("Features", "")).split()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = f"{values.get('model name', platform.processor())} (family {values.get('cpu family')}, model {values.get('model')})"
    used = " ".join(flag for flag in INTERESTING_FLAGS if flag in flags)
    return (
        f"{name}, {len(os.sched_getaffinity(0))} usable cores, {used}, {memory_gib:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at start"
    )


def format_row(row: Row) -> str:
    """A line of the Markdown table."""
    digits = 2 if row.unit == "s" else 1
    ours, theirs = (
        f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})" for median, low, high in (row.ours, row.theirs)
    )
    return f"| {row.model} | {row.quantity}, {row.unit} | {ours} | {theirs} | {row.peer} | {row.times:.2f} |"


def format_memory(model: str, path: Path, measured: list[Measured]) -> str:
    """Our peak against 1.3 times the file, keys and values, and 200 MiB."""
    peak, kv = max(m.peak_bytes for m in measured), measured[0].kv_bytes
    allowed = 1.3 * path.stat().st_size + kv + 200 * 2**20
    verdict = "within" if peak <= allowed else "OVER"
    return (
        f"{model}: peak memory {peak / 2**20:.0f} MiB, {verdict} 1.3 x file ({path.stat().st_size / 2**20:.0f} MiB) "
        f"+ keys and values ({kv / 2**20:.0f} MiB) + 200 MiB = {allowed / 2**20:.0f} MiB"
    )


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", default=["smollm2:135m", "qwen2.5-coder:0.5b"], help="names in the store, or files"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    peers = [peer for peer, module in PEERS.items() if find_spec(module) is not None]
    if not peers:
        sys.exit("neither xllamacpp nor llama-cpp-python is installed; get one with: pip install 'samovar[bench]'")
    machine = describe_machine()
    if os.getloadavg()[0] > BUSY_LOAD * len(os.sched_getaffinity(0)):
        print("warning: other work is running; llama.cpp's threads wait by spinning and suffer most from it", file=sys.stderr)
    paths = {model: resolve(model, default_store()) for model in args.models}
    for path in paths.values():
        path.read_bytes()  # into the page cache, for all engines alike
    found = {model: measure_model(path, ["samovar", *peers], args.rounds, args.threads) for model, path in paths.items()}
    rows = [row for model, measured in found.items() for row in compare(model, measured)]
    command = f"python -m benchmarks.vs_llama_cpp {' '.join(sys.argv[1:])}".strip()
    if args.json:
        processes = {model: {e: [asdict(m) for m in ms] for e, ms in engines.items()} for model, engines in found.items()}
        print(json.dumps({"machine": machine, "command": command, "rows": [asdict(r) for r in rows], "processes": processes}))
        return 0
    print(f"machine: {machine}\ncommand: {command}\nengines, {args.threads} threads each:")
    for name in dict.fromkeys(ms[0].engine for engines in found.values() for ms in engines.values()):
        print(f"  {name}")
    print(f"medians of {args.rounds} rounds (minimum to maximum)\n")
    print("| model | measured | samovar | llama.cpp | by | times as fast |\n|---|---|---|---|---|---|")
    print("\n".join(format_row(row) for row in rows) + "\n")
    print("\n".join(format_memory(model, path, found[model]["samovar"]) for model, path in paths.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
