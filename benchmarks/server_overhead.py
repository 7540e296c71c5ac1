"""What the HTTP server costs beside the engine: its processor time while streams decode, and how soon /health answers.

    python -m benchmarks.server_overhead [--streams 16] [--tokens 128] [--rounds 3] [--json] [MODEL]

MODEL is as for `vs_peers`. `samovar serve` runs the engine in a process of its own, so the processor time of the server's own
process is that of HTTP, JSON, templates, encoding, parsing and detokenising, and of passing tokens on. It is read from
/proc/PID/task/*/schedstat before and after each round, in which all streams send a chat of about 40 tokens at once and read
`--tokens` tokens. The bar is its share of the time that the round takes: seconds of one processor over seconds. The clients
are another process, and not counted. /health is asked twice a second all the while.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.vs_peers import ROOT, prepare
from samovar.kernels.cores import usable_cores

START_S = 120.0
HEALTH_S = 0.5
TEMPLATE = (  # ChatML: random models carry no template
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of all streams. `share` is processor seconds of the server's process by seconds of the round."""

    tokens_per_s: float
    server_us_per_token: float
    share: float
    health_p99_ms: float


def cpu_s(pid: int) -> float:
    """Processor seconds of all threads of a process so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def exchange(port: int, head: str, body: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request, and return what reads the reply."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = f"{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return reader, writer


async def read_stream(port: int, n_tokens: int, seed: int) -> None:
    """One chat that is read to its end."""
    question = f"Tell me a story about the number {seed}, a town by the sea and an old clock that nobody winds."
    fields = {"messages": [{"role": "user", "content": question}], "max_tokens": n_tokens, "ignore_eos": True, "seed": seed}
    body = json.dumps(fields | {"stream": True, "enable_thinking": False}).encode()
    reader, writer = await exchange(port, "POST /v1/chat/completions", body)
    text = await reader.read()
    writer.close()
    assert text.rstrip().endswith(b"[DONE]\n\n\r\n0") or b"[DONE]" in text, text[-500:]


async def watch_health(port: int, took_s: list[float]) -> None:
    """Ask again and again."""
    while True:
        start = time.perf_counter()
        reader, writer = await exchange(port, "GET /health")
        assert b" 200 " in await reader.readline()
        await reader.read()
        writer.close()
        took_s.append(time.perf_counter() - start)
        await asyncio.sleep(HEALTH_S)


async def run_round(pid: int, port: int, n_streams: int, n_tokens: int) -> Round:
    """All streams at once."""
    took_s: list[float] = []
    watching = asyncio.create_task(watch_health(port, took_s))
    before_s, start = cpu_s(pid), time.perf_counter()
    await asyncio.gather(*(read_stream(port, n_tokens, seed) for seed in range(n_streams)))
    wall_s, used_s = time.perf_counter() - start, cpu_s(pid) - before_s
    watching.cancel()
    n = n_streams * n_tokens
    health_ms = 1000 * sorted(took_s)[int(0.99 * (len(took_s) - 1))]
    return Round(tokens_per_s=n / wall_s, server_us_per_token=1e6 * used_s / n, share=used_s / wall_s, health_p99_ms=health_ms)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])


def wait_until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    """Raises RuntimeError where the server ends, or takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("samovar serve did not start")


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="qwen3-0.6b:q4_0")
    for name, default in (("--streams", 16), ("--tokens", 128), ("--rounds", 3), ("--threads", usable_cores())):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model, port = prepare(args.model, args.folder, None).gguf, free_port()
    with tempfile.TemporaryDirectory() as folder:
        (template := Path(folder) / "chat.jinja").write_text(TEMPLATE)
        command = [Path(sys.executable).with_name("samovar"), "serve", str(model), "--chat-template-file", str(template)]
        command += ["--port", str(port), "--threads", str(args.threads), "--records", folder]
        rounds = run(args, command, port)
    if args.json:
        print(json.dumps([asdict(r) for r in rounds]))
        return 0
    print(f"machine: {describe_machine()}\ncommand: python -m benchmarks.server_overhead {' '.join(sys.argv[1:])}")
    print(f"{args.streams} streams of {args.tokens} tokens, {args.rounds} rounds; median (least to most)")
    for name in Round.__slots__:
        values = [getattr(r, name) for r in rounds]
        print(f"  {name:20} {statistics.median(values):9.4g}  ({min(values):.4g} to {max(values):.4g})")
    return 0


def run(args: argparse.Namespace, command: list[str | Path], port: int) -> list[Round]:
    """All rounds, with one server."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_up(port, process)
            asyncio.run(run_round(process.pid, port, 2, 8))  # untimed: what is imported and compiled at its first use
            return [asyncio.run(run_round(process.pid, port, args.streams, args.tokens)) for _ in range(args.rounds)]
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
