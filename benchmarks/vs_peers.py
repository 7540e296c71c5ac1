"""Prefill, decode of one and of many streams, and start-up, beside llama.cpp and OpenVINO in the same run.

    python -m benchmarks.vs_peers [--rounds 3] [--threads 2] [--prompt-tokens 512] [--streams 1 16 32] [--json] [MODEL ...]

A MODEL is a GGUF file, a name in the store, or SHAPE:QUANT[:LAYERS] for random weights, such as qwen3-0.6b:q4_0. Samovar and
llama.cpp compute the same file; OpenVINO computes a model of the same shape in its own 4-bit format, so that it joins for
random weights only. With `--peers samovar-int4 ...` the same file is also run with its layers rounded to int4.

Each measurement is a process of its own, engines alternate, and every second round runs them in reverse order. Prefill: 512
tokens (`--prompt-tokens`) in one go, after an untimed one. Decode: 64 greedy tokens after 16, tokens of all streams counted.
First token: from starting the process until the first token of a short text, files in the page cache; before the first round
each engine starts once untimed, so that what it keeps from start to start is there. Tables show medians with minimum and
maximum.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.one_engine import Measured
from benchmarks.random_model import qwen3_vocabulary
from samovar.formats.hub import default_store, resolve
from samovar.kernels.cores import usable_cores
from samovar.llm.random_model import QUANTS, SHAPES, write_random_model

ROOT = Path(__file__).parents[1]
OPENVINO_PYTHON = ROOT / ".venv-peers/bin/python"
DEFAULT_MODELS = ("qwen3-0.6b:q4_0", "qwen3-0.6b:q4_k_m", "qwen3-0.6b:q8_0")
SHORT = ("--prompt-tokens", "32", "--tokens", "2", "--streams", "1", "--repeats", "1")
BUSY_LOAD = 0.5  # per core, the last minute's
AMX_BUILD = (
    "note: this processor has AMX, and gcc 12 miscompiles llama.cpp's path for it (its tile configuration is lost); for a fair "
    "peer build with clang: CC=clang CXX=clang++ CMAKE_ARGS=-DGGML_NATIVE=ON "
    "pip install --no-cache-dir --force-reinstall llama-cpp-python"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model as every engine finds it: a GGUF file, and OpenVINO's folder where there is one."""

    name: str
    gguf: Path
    openvino: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A quantity of one model: (median, minimum, maximum) for each engine."""

    model: str
    quantity: str
    numbers: dict[str, tuple[float, float, float]]
    is_rate: bool

    def times(self, peer: str) -> float:
        """How many times better ours is."""
        ratio = self.numbers["samovar"][0] / self.numbers[peer][0]
        return ratio if self.is_rate else 1 / ratio


def prepare(name: str, folder: Path, openvino_python: Path | None) -> Subject:
    """Find the model, or write it with random weights where it is not in `folder` yet."""
    shape_name, _, rest = name.partition(":")
    if shape_name not in SHAPES:
        return Subject(name=name, gguf=resolve(name, default_store()), openvino=None)
    quant, _, layers = rest.partition(":")
    if quant not in QUANTS or not (layers.isdecimal() or not layers):
        sys.exit(f"{name}: expected SHAPE:QUANT or SHAPE:QUANT:LAYERS with a quant of {', '.join(QUANTS)}")
    if SHAPES[shape_name].n_experts:
        openvino_python = None  # its export makes dense models only
    folder.mkdir(parents=True, exist_ok=True)
    gguf = folder / f"{name.replace(':', '-')}.gguf"
    if not gguf.exists():
        shape = SHAPES[shape_name] if not layers else SHAPES[shape_name].with_layers(int(layers))
        write_random_model(gguf.with_suffix(".part"), shape, quant, vocabulary=qwen3_vocabulary(shape.vocab_size))
        gguf.with_suffix(".part").rename(gguf)
    target = folder / f"openvino-{shape_name}{'-' + layers if layers else ''}"
    if openvino_python is not None and not target.exists():
        command = [openvino_python, "-m", "benchmarks.openvino_export", shape_name, target]
        command += ["--layers", layers] if layers else []
        print(f"making {target.name} for OpenVINO", file=sys.stderr)
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    return Subject(name=name, gguf=gguf, openvino=target if openvino_python is not None else None)


def run_once(engine: str, subject: Subject, options: list[str], python: Path, home: Path) -> Measured:
    """Measure in a fresh process. Its error output is shown if it fails."""
    path = subject.openvino if engine == "openvino" else subject.gguf
    command = [python, "-m", "benchmarks.one_engine", engine, path, *options]
    environment = os.environ | {"SAMOVAR_HOME": str(home)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the untimed start leaves bytecode, as it does for most
    done = subprocess.run(
        [*map(str, command), "--started", repr(time.monotonic())],
        capture_output=True, text=True, cwd=ROOT, check=False, env=environment,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{engine} on {subject.name} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    found["decode_tokens_per_s"] = {int(n): rate for n, rate in found["decode_tokens_per_s"].items()}
    return Measured(**found)


def measure_model(subject: Subject, engines: dict[str, Path], args: argparse.Namespace) -> dict[str, list[Measured]]:
    """All rounds of all engines that can run this model."""
    names = [engine for engine in engines if engine != "openvino" or subject.openvino is not None]
    threads, home = ["--threads", str(args.threads)], args.folder / "home"
    options = [*threads, "--streams", *map(str, args.streams), "--repeats", str(args.repeats)]
    options += ["--prompt-tokens", str(args.prompt_tokens)]
    for engine in names:
        run_once(engine, subject, [*threads, *SHORT], engines[engine], home)
    found: dict[str, list[Measured]] = {engine: [] for engine in names}
    for index in range(args.rounds):
        for engine in names if index % 2 == 0 else reversed(names):
            print(f"{subject.name}: round {index + 1} of {args.rounds}, {engine}", file=sys.stderr)
            found[engine].append(run_once(engine, subject, options, engines[engine], home))
    return found


def rows_of(model: str, found: dict[str, list[Measured]], n_prompt: int, streams: list[int]) -> list[Row]:
    """One row for each quantity."""

    def row(quantity: str, values: dict[str, list[float]], *, is_rate: bool = True) -> Row:
        return Row(model=model, quantity=quantity, numbers={e: _summary(v) for e, v in values.items()}, is_rate=is_rate)

    prefill = {e: [rate for m in ms for rate in m.prefill_tokens_per_s] for e, ms in found.items()}
    rows = [row(f"prefill {n_prompt}, tokens/s", prefill)]
    for n in streams:
        decode = {e: [m.decode_tokens_per_s[n] for m in ms] for e, ms in found.items()}
        rows.append(row(f"decode, {n} stream{'s' if n > 1 else ''}, tokens/s", decode))
    rows.append(row("first token, s", {e: [m.first_token_s for m in ms] for e, ms in found.items()}, is_rate=False))
    resident = {e: [m.resident_bytes / 2**20 for m in ms] for e, ms in found.items()}
    rows.append(row("peak memory, MiB", resident, is_rate=False))
    return rows


def _summary(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def table(rows: list[Row], engines: list[str]) -> str:
    """Markdown."""
    peers = [engine for engine in engines if engine != "samovar"]
    header = ["model", "measured", *engines, *(f"times as good as {peer}" for peer in peers)]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        cells = [_cell(row.numbers.get(engine)) for engine in engines]
        ratios = [f"{row.times(peer):.2f}" if peer in row.numbers else "" for peer in peers]
        lines.append([row.model, row.quantity, *cells, *ratios])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(numbers: tuple[float, float, float] | None) -> str:
    if numbers is None:
        return ""
    digits = 2 if numbers[0] < 10 else 1 if numbers[0] < 100 else 0
    median, low, high = (f"{number:.{digits}f}" for number in numbers)
    return f"{median} ({low} to {high})"


def find_engines(peers: list[str], openvino_python: Path) -> dict[str, Path]:
    """The engines to run, each with the interpreter that has it; what is missing is said and left out."""
    engines = {name: Path(sys.executable) for name in ("samovar", "samovar-int4") if name == "samovar" or name in peers}
    if "llama.cpp" in peers:
        if find_spec("llama_cpp") is not None:
            engines["llama.cpp"] = Path(sys.executable)
        else:
            print("llama-cpp-python is not installed (make bench builds it): llama.cpp is left out", file=sys.stderr)
    if "openvino" in peers:
        if openvino_python.exists():
            engines["openvino"] = openvino_python
        else:
            print(f"{openvino_python} is not there (make bench-peers makes it): OpenVINO is left out", file=sys.stderr)
    return engines


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(DEFAULT_MODELS), metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2, help="long prompts in each process")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--prompt-tokens", type=int, default=512, help="of a long prompt")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 16, 32])
    parser.add_argument(
        "--peers", nargs="*", choices=("llama.cpp", "openvino", "samovar-int4"), default=["llama.cpp", "openvino"]
    )
    parser.add_argument("--openvino-python", type=Path, default=OPENVINO_PYTHON, help="interpreter that has openvino-genai")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench", help="where random models are kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    machine, engines = describe_machine(), find_engines(args.peers, args.openvino_python)
    if "amx" in machine and "llama.cpp" in engines:
        print(AMX_BUILD, file=sys.stderr)
    if os.getloadavg()[0] > BUSY_LOAD * usable_cores():
        print("warning: other work is running; peers' threads wait by spinning and suffer most from it", file=sys.stderr)
    found: dict[str, dict[str, list[Measured]]] = {}
    for name in args.models:
        subject = prepare(name, args.folder.absolute(), engines.get("openvino"))
        found[name] = measure_model(subject, engines, args)
    rows = [row for name, measured in found.items() for row in rows_of(name, measured, args.prompt_tokens, args.streams)]
    command = f"python -m benchmarks.vs_peers {' '.join(sys.argv[1:])}".strip()
    if args.json:
        processes = {name: {e: [asdict(m) for m in ms] for e, ms in measured.items()} for name, measured in found.items()}
        print(json.dumps({"machine": machine, "command": command, "rows": [asdict(r) for r in rows], "processes": processes}))
        return 0
    print(f"machine: {machine}\ncommand: {command}\nengines, {args.threads} threads each:")
    for name in dict.fromkeys(ms[0].engine for measured in found.values() for ms in measured.values()):
        print(f"  {name}")
    print(f"medians of {args.rounds} rounds (minimum to maximum)\n")
    print(table(rows, list(engines)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
