"""llama.cpp's HTTP server as it is started for several users: its own defaults, but for slots, context and threads.

Two of the defaults matter here. A slot keeps the tokens of its last request, and the next one on it computes what follows the
common beginning. Before a slot forgets more than half of them, they are copied to a cache in memory of up to 8 GiB.
Tokens go in as ids, so that no tokenizer is measured. `make build/llama-server/bin/llama-server` builds the server for this
processor, from the source that `llama-cpp-python` carries.
"""

import asyncio
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.serving_peer import Place, peak_bytes_of

BINARY = Path(__file__).parents[1] / "build/llama-server/bin/llama-server"
AMX_BUILD = (
    "note: this processor has AMX, and gcc 12 miscompiles llama.cpp's path for it (its tile configuration is lost); for a fair "
    "peer build the server with clang: CC=clang CXX=clang++ make build/llama-server/bin/llama-server"
)
_START_S = 120.0  # the longest that loading may take
_STOP_S = 10.0


class LlamaServer:
    """One server process on a free port of the loopback interface, with `place.n_slots` slots."""

    def __init__(self, place: Place, binary: Path = BINARY) -> None:
        self._place, self._binary = place, binary
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop
        self._port = 0

    @property
    def description(self) -> str:
        """Version and compiler of the build."""
        done = subprocess.run([self._binary, "--version"], capture_output=True, text=True, check=True)
        return "llama.cpp server, " + " ".join((done.stdout + done.stderr).split())

    async def start(self) -> None:
        """Start the process, and return when it says that it is healthy. Raises RuntimeError with its last words."""
        place, self._port = self._place, _free_port()
        command: list[str | Path] = [self._binary, "--model", place.model, "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--parallel", str(place.n_slots), "--ctx-size", str(place.n_slots * place.n_context)]
        command += ["--threads", str(place.n_threads), "--threads-batch", str(place.n_threads), "--offline"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + _START_S
        while not await self._is_healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                raise RuntimeError(f"llama-server did not start:\n{self._log.read()[-2000:].decode(errors='replace')}")
            await asyncio.sleep(0.05)

    async def stream(self, prompt_ids: list[int], n_tokens: int, *, slot: int | None = None) -> AsyncIterator[float]:
        """Continue a prompt on a slot, by default one that the server chooses: `time.perf_counter()` at each token's arrival.

        Tokens that the server holds back until they are whole characters arrive together with the next. Raises RuntimeError
        where the server refuses, or ends the answer early.
        """
        n_seen, buffer = 0, b""
        async for piece in self._post(prompt_ids, n_tokens, slot, {"stream": True}):
            arrived = time.perf_counter()
            *events, buffer = (buffer + piece).split(b"\n\n")
            for event in (e for e in events if e.startswith(b"data: ")):  # others are comments that keep a connection open
                fields = json.loads(event.removeprefix(b"data: "))
                for _ in range(fields["tokens_predicted"] - n_seen):
                    yield arrived
                n_seen = fields["tokens_predicted"]
        if n_seen != n_tokens:
            raise RuntimeError(f"llama-server ended an answer after {n_seen} of {n_tokens} tokens")

    async def complete(
        self,
        prompt_ids: list[int],
        n_tokens: int,
        *,
        n_thoughts: int = 0,  # noqa: ARG002  # it has no use for that
        slot: int | None = None,
    ) -> list[int]:
        """Continue a prompt, drawing tokens at temperature 1: their ids."""
        options = {"return_tokens": True, "response_fields": ["tokens"], "temperature": 1.0, "seed": 1}
        body = b"".join([piece async for piece in self._post(prompt_ids, n_tokens, slot, options)])
        ids: list[int] = json.loads(body)["tokens"]
        if len(ids) != n_tokens:
            raise RuntimeError(f"llama-server ended an answer after {len(ids)} of {n_tokens} tokens")
        return ids

    def peak_bytes(self) -> int:
        """Most memory that the server's process ever held."""
        assert self._process is not None
        return peak_bytes_of(str(self._process.pid))

    async def stop(self) -> None:
        """End the process."""
        self._log.close()
        if self._process is not None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, _STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    async def _is_healthy(self) -> bool:
        try:
            async for _ in self._request("GET /health", b""):
                return True
        except (OSError, EOFError, RuntimeError):  # it does not listen yet, or is loading
            pass
        return False

    def _post(self, prompt_ids: list[int], n_tokens: int, slot: int | None, options: dict[str, object]) -> AsyncIterator[bytes]:
        fields = {"prompt": prompt_ids, "n_predict": n_tokens, "temperature": 0, "ignore_eos": True, **options}
        return self._request("POST /completion", json.dumps(fields | ({} if slot is None else {"id_slot": slot})).encode())

    async def _request(self, what: str, body: bytes) -> AsyncIterator[bytes]:
        """The pieces of an answer's body as they come. Raises RuntimeError for any status but 200."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = f"{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            status, *fields = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            if status.split()[1] != b"200":
                raise RuntimeError(f"llama-server answers {what}: {status.decode()} {(await reader.read()).decode()}")
            if b"transfer-encoding: chunked" not in fields:
                yield await reader.read()
                return
            while size := int(await reader.readline(), 16):
                yield (await reader.readexactly(size + 2))[:-2]
        finally:
            writer.close()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
