"""Answers in Ollama's form: JSON objects, whole or a line each, with their times in nanoseconds."""

import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar.llm.result import Result
from samovar.serving.chat import Answers
from samovar.serving.failures import Failure, retry_headers
from samovar.serving.ollama_options import keep_alive
from samovar.serving.openai_options import chat_logprobs, finish_details, with_seed
from samovar.serving.replies import PING_S, StreamReply, json_reply, unless_gone
from samovar.serving.server import Server, caller_of
from samovar.text.output_parser import Delta

Call = dict[str, object]
Piece = Callable[[str, str, Sequence[Call]], dict[str, object]]  # what a reply says: content, thoughts, tool calls
NDJSON: Final = "application/x-ndjson"
_encode = msgspec.json.Encoder().encode


def ollama_error(failure: Failure, _: str) -> Response:
    """A reply with Ollama's error object."""
    return json_reply({"error": failure.message}, failure.status, retry_headers(failure))


def timestamp(at_ns: int) -> str:
    """A time (time.time_ns) as RFC 3339 has it, in UTC, to the nanosecond."""
    seconds, rest = divmod(at_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def tool_call(name: str, arguments: str) -> Call | None:
    """A call with its arguments as an object, number for number as the model wrote it; None where they are no whole object."""
    text = arguments.strip() or "{}"
    with suppress(ValueError, RecursionError):
        if isinstance(json.loads(text, parse_constant=_no_constant), dict):
            # Line breaks stand between the tokens of sound JSON alone; the stream has a line for each value.
            raw = msgspec.Raw(text.replace("\n", " ").replace("\r", " ").encode())
            return {"function": {"name": name, "arguments": raw}}
    return None


class CallCollector:
    """Puts the pieces of tool calls together. `unfinished` are names and texts of calls whose arguments were cut short."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._arguments: list[str] = []
        self.unfinished: list[Call] = []

    def push(self, delta: Delta) -> list[Call]:
        """The call that a piece shows to be complete, if one does."""
        if delta.field == "tool_arguments":
            self._arguments.append(delta.text)
            return []
        complete = self.finish()
        if delta.field == "tool_name":
            self._name = delta.text
        return complete

    def finish(self) -> list[Call]:
        """The call that is open, if one is."""
        if self._name is None:
            return []
        name, arguments = self._name, "".join(self._arguments)
        self._name, self._arguments = None, []
        if call := tool_call(name, arguments):
            return [call]
        self.unfinished.append({"name": name, "arguments": arguments})
        return []


class Shape:
    """Gives an answer Ollama's form, whole or in lines. `started_s` (time.perf_counter) is when the request came."""

    def __init__(self, server: Server, answers: Answers, piece: Piece, *, model: str, logprobs: bool, started_s: float) -> None:
        self._server, self._answers, self._piece, self._model = server, answers, piece, model
        self._logprobs, self._started_s, self._begun_s = logprobs, started_s, time.perf_counter()

    def whole(self, result: Result) -> dict[str, object]:
        """The reply to a request that does not stream."""
        made = [(call, tool_call(call.name, call.arguments)) for call in result.tool_calls]
        unfinished: list[Call] = [{"name": call.name, "arguments": call.arguments} for call, whole in made if whole is None]
        calls = [whole for _, whole in made if whole is not None]
        said = self._piece(result.text, result.reasoning or "", calls) | self._chosen(result, 0)
        return self._object(said) | self._end(result, unfinished)

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """The reply in lines. An error ends it with a line of its own."""
        calls, n_told = CallCollector(), 0
        try:
            async for _, delta in self._answers:
                complete = calls.push(delta)
                content, thoughts = (delta.text if delta.field == name else "" for name in ("content", "reasoning"))
                if complete or content or thoughts:
                    said = self._piece(content, thoughts, complete)
                    if self._logprobs:
                        result = self._answers.results[0]
                        said |= self._chosen(result, n_told)
                        n_told = len(result.token_ids)
                    yield self._line(said)
        except Exception as error:  # the head is sent: this is the one place left to tell of it
            yield _encode({"error": self._server.failed(error).message}) + b"\n"
            return
        if complete := calls.finish():
            yield self._line(self._piece("", "", complete))
        result = self._answers.results[0]
        yield self._line(self._piece("", "", []) | self._chosen(result, n_told), self._end(result, calls.unfinished))

    def ping(self) -> bytes:
        """A line that says nothing."""
        return self._line(self._piece("", "", []))

    def _object(self, said: Mapping[str, object]) -> dict[str, object]:
        return {"model": self._model, "created_at": timestamp(time.time_ns()), **said, "done": False}

    def _line(self, said: Mapping[str, object], end: Mapping[str, object] | None = None) -> bytes:
        return _encode(self._object(said) | dict(end or {})) + b"\n"

    def _chosen(self, result: Result, start: int) -> dict[str, object]:
        """The log-probabilities of the tokens from `start` on, where they are wanted."""
        if not self._logprobs:
            return {}
        told = chat_logprobs(self._answers.llm.tokenizer, result.token_ids[start:], (result.logprobs or ())[start:])
        return {"logprobs": told["content"]}

    def _end(self, result: Result, unfinished: Sequence[Call]) -> dict[str, object]:
        """What the last object tells."""
        return {
            "done": True,
            "done_reason": "stop" if result.finish_reason == "stop" else "length",
            "total_duration": _nanoseconds(time.perf_counter() - self._started_s),
            "load_duration": _nanoseconds(self._begun_s - self._started_s),
            "prompt_eval_count": result.usage.n_prompt,
            "prompt_eval_duration": _nanoseconds(result.timing.prefill_s),
            "eval_count": result.usage.n_completion,
            "eval_duration": _nanoseconds(result.timing.decode_s),
            **with_seed([result]),
            **finish_details(result),
            **({"unfinished_tool_calls": unfinished} if unfinished else {}),
        }


async def reply(request: Request, answers: Answers, shape: Shape, *, streams: bool) -> Response:
    """The reply to a request whose answer has begun; the answer is closed at its end."""
    if streams:
        return StreamReply(shape.lines(), NDJSON, answers.aclose, shape.ping(), PING_S)
    try:
        results = await unless_gone(request, answers.fold)
    finally:
        await answers.aclose()
    return json_reply(shape.whole(results[0]))


async def load_or_unload(server: Server, request: Request, model: str, piece: Piece, seconds: float | None) -> Response:
    """Open a model, or, to be kept alive for no time, close it as soon as nobody uses it."""
    started_s = time.perf_counter()
    if seconds == 0:
        keep_alive(server.registry, model, seconds)
        await server.registry.close_idle()
    else:
        with server.limits.admit(caller_of(request)):
            async with server.registry.use(model):
                pass
        keep_alive(server.registry, model, seconds)
    return json_reply(
        {
            "model": model,
            "created_at": timestamp(time.time_ns()),
            **piece("", "", []),
            "done": True,
            "done_reason": "unload" if seconds == 0 else "load",
            "total_duration": (took := _nanoseconds(time.perf_counter() - started_s)),
            "load_duration": took,
        }
    )


def _nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def _no_constant(name: str) -> None:
    raise ValueError(name)
