"""A batch at work: each line goes through the route it names, in the background, and its result into a file.

The files of results are what counts: after a kill a batch goes on with the lines that are in neither of them.
"""

import asyncio
import time
import uuid
from typing import Any, BinaryIO, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from samovar.serving.background import SLOTS
from samovar.serving.batch_lines import MAX_LINES, Line, answered, count_lines, read_lines, refused
from samovar.serving.batch_results import ResultFile
from samovar.serving.caller import Caller
from samovar.serving.failures import Failure, openai_error
from samovar.serving.openai_files import BATCH, FILE, content_path, new_file, open_content
from samovar.serving.record import Record
from samovar.serving.server import MAX_PRIORITY_KEY, Server

PRIORITY: Final = -50  # whatever else is asked for goes first
_N_TRIES: Final = 3  # of a line that fails through no fault of its own
_WORTH_A_RETRY: Final = ("engine_failed", "out_of_memory")
_KEEP_COUNTS_S: Final = 1.0
_LONGEST_WAIT_S: Final = 30.0
Value = dict[str, Any]


class BatchRun:
    """A job. `value` is the batch's record: `batch` as its owner sees it, `caller`, and the ids of both files of results."""

    def __init__(self, server: Server, value: Value) -> None:
        self._server, self._records, self._value, self._slots = server, server.kept(), value, server.background.slots
        self._batch: Value = value["batch"]
        self._caller = Caller(**value["caller"])
        self._is_given_up = self._is_expired = self._is_finishing = False
        self._pending: list[tuple[ResultFile, int, bytes]] = []
        self._writing = asyncio.Lock()
        self._kept_s = 0.0
        self._good: ResultFile
        self._bad: ResultFile

    async def run(self) -> None:
        """Work until all lines have results, the owner gives up, or the time is over. Ends with the record saying so."""
        paths = [content_path(self._records, self._value[name]) for name in ("output", "errors")]
        self._good, self._bad = await asyncio.to_thread(lambda: [ResultFile(path) for path in paths])
        self._is_given_up |= self._batch["status"] == "cancelling"
        try:
            if not self._is_given_up:
                await self._within_time()
        except asyncio.CancelledError:
            if not self._is_given_up:  # the server stops, and the next one goes on
                await asyncio.to_thread(lambda: [file.close() for file in (self._good, self._bad)])
                raise
        except Exception as error:
            failure = self._server.failed(error)
            self._fail(failure.code or failure.kind, failure.message)
        await self._finish()

    def give_up(self) -> bool:
        """Its owner wants no more of it. Too late where all is done but the record."""
        if not self._is_finishing:
            self._is_given_up = True
            self._batch |= {"status": "cancelling", "cancelling_at": int(time.time())}
        return not self._is_finishing

    async def _within_time(self) -> None:
        left_s = self._batch["expires_at"] - time.time()
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                await self._work()
        except TimeoutError:
            self._is_expired = True
            await self._expire()

    async def _work(self) -> None:
        file = open_content(self._records, self._batch["input_file_id"])  # at once: nothing may come between it and its closing
        try:
            if self._batch["status"] == "validating" and not await self._validate(file):
                return
            tasks = set[asyncio.Task[None]]()
            n_most = self._slots_of_caller()
            try:
                async for line in read_lines(file, self._batch["endpoint"]):
                    if line.number in self._good.numbers or line.number in self._bad.numbers:
                        continue
                    tasks.add(asyncio.create_task(self._answer(line)))
                    if len(tasks) >= n_most:
                        tasks = await _some_done(tasks)
                while tasks:
                    tasks = await _some_done(tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            file.close()

    async def _validate(self, file: BinaryIO) -> bool:
        """Count the lines, and say that the work begins. False where there is nothing to do, or too much."""
        n_lines = await asyncio.to_thread(count_lines, file)
        file.seek(0)
        if not 0 < n_lines <= MAX_LINES:
            found = f"more than {MAX_LINES}" if n_lines else "no"
            self._fail("invalid_input_file", f"the file has {found} lines; expected 1 to {MAX_LINES} requests")
            return False
        self._batch |= {"status": "in_progress", "in_progress_at": int(time.time())}
        self._batch["request_counts"]["total"] = n_lines
        await self._keep()
        return True

    def _slots_of_caller(self) -> int:
        """How many requests may be open at once: less than the caller may have, so that a batch never locks it out."""
        most = self._caller.max_streams
        return SLOTS if most is None else max(1, min(SLOTS, most - 1))

    async def _answer(self, line: Line) -> None:
        """Have a line answered, and its result written."""
        if line.error is not None:
            result = refused(self._batch["id"], line, line.error.code or "", line.error.message)
            await self._write(self._bad, line.number, result)
            return
        async with self._slots:
            reply, request_id = await self._replied(line)
            target = self._good if reply.status_code == 200 else self._bad
            await self._write(target, line.number, answered(self._batch["id"], line, reply, request_id))

    async def _replied(self, line: Line) -> tuple[Response, str]:
        """What the route says to a line. Waits where there is no room, or where the caller is at its limits."""
        handler, n_tries = self._server.endpoints[self._batch["endpoint"]], 0
        while True:
            request = self._request(line)
            request_id: str = request.state.request_id
            try:
                return await handler(self._server, request), request_id
            except Exception as error:
                failure = self._server.failed(error)
            n_tries += failure.retry_s is None
            if failure.retry_s is None and (failure.code not in _WORTH_A_RETRY or n_tries == _N_TRIES):
                return openai_error(failure, request_id), request_id
            await asyncio.sleep(min(_LONGEST_WAIT_S, failure.retry_s or 1.0))

    def _request(self, line: Line) -> Request:
        """A line as its route gets it, from the batch's owner."""
        body: list[Message] = [{"type": "http.request", "body": line.body, "more_body": False}]

        async def receive() -> Message:
            if not body:
                await asyncio.Event().wait()  # a batch does not leave; it is cancelled
            return body.pop()

        endpoint: str = self._batch["endpoint"]
        scope = {
            "type": "http",
            "method": "POST",
            "path": endpoint,
            "raw_path": endpoint.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            MAX_PRIORITY_KEY: PRIORITY,
        }
        request = Request(scope, receive)
        request_id = f"req_{uuid.uuid4().hex}"
        request.state.caller, request.state.request_id = self._caller, request_id
        request.state.record = Record(request_id=request_id, method="POST", path=endpoint, client="", caller=self._caller)
        return request

    async def _write(self, target: ResultFile, number: int, result: bytes) -> None:
        """Append a result, together with those that came while the ones before were written."""
        self._pending.append((target, number, result))
        async with self._writing:
            group, self._pending = self._pending, []
            for file in (self._good, self._bad):
                mine = [(number, line) for chosen, number, line in group if chosen is file]
                if mine:
                    await asyncio.to_thread(file.append, [line for _, line in mine], [n for n, _ in mine])
            if group and time.monotonic() - self._kept_s > _KEEP_COUNTS_S:
                await self._keep()

    async def _expire(self) -> None:
        """Say of each line without a result that its time is over."""
        failure = Failure(status=400, kind="invalid_request_error", message="the batch's time was over first")
        file = open_content(self._records, self._batch["input_file_id"])  # at once: nothing may come between it and its closing
        try:
            async for line in read_lines(file, self._batch["endpoint"]):
                if line.number not in self._good.numbers and line.number not in self._bad.numbers:
                    result = refused(self._batch["id"], line, "batch_expired", failure.message)
                    await self._write(self._bad, line.number, result)
        finally:
            file.close()

    async def _finish(self) -> None:
        """Hand the files of results over, and tell how it ended."""
        self._is_finishing = True
        batch, owner = self._batch, self._caller.id
        if batch["status"] not in ("failed", "cancelling"):
            batch |= {"status": "finalizing", "finalizing_at": int(time.time())}
        for name, file in (("output", self._good), ("errors", self._bad)):
            if size_bytes := await asyncio.to_thread(file.close):
                made = new_file(f"{batch['id']}_{name}.jsonl", "batch_output", self._value[name]) | {"bytes": size_bytes}
                await self._records.put(FILE, made["id"], owner, made)
                batch["output_file_id" if name == "output" else "error_file_id"] = made["id"]
        if batch["status"] != "failed":
            ending = "cancelled" if self._is_given_up else "expired" if self._is_expired else "completed"
            batch |= {"status": ending, f"{ending}_at": int(time.time())}
        await self._keep(is_open=False)

    def _fail(self, code: str, message: str) -> None:
        error = {"code": code, "message": message, "line": None, "param": None}
        now = int(time.time())
        self._batch |= {"status": "failed", "failed_at": now, "errors": {"object": "list", "data": [error]}}

    async def _keep(self, *, is_open: bool = True) -> None:
        """Write the record, with the counts as they are."""
        self._kept_s = time.monotonic()
        self._batch["request_counts"] |= {"completed": len(self._good.numbers), "failed": len(self._bad.numbers)}
        await self._records.put(BATCH, self._batch["id"], self._caller.id, self._value, is_open=is_open)


async def _some_done(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait for one task at least; returns those that are left. Raises what one raised."""
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return left
