"""The lines of a batch: requests in, results out."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, Final

import msgspec
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.serving.body import Fields, read_fields
from samovar.serving.failures import Failure

MAX_LINES: Final = 50_000  # as OpenAI has it
_MAX_LINE_BYTES: Final = 16 << 20
_N_AT_ONCE: Final = 64  # lines read in one go


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A request of a batch; `body` is its JSON as it was sent. With an `error` it is none, and says why."""

    number: int
    custom_id: str | None
    body: bytes = b""
    error: Failure | None = None


class LineFields(Fields, kw_only=True, frozen=True):
    """What a line holds."""

    custom_id: str
    method: str
    url: str
    body: dict[str, Any]


class _Body(msgspec.Struct):
    body: msgspec.Raw


class _Result(msgspec.Struct):
    """As much of a result as says which line it belongs to."""

    id: str


async def read_lines(file: BinaryIO, endpoint: str) -> AsyncGenerator[Line, None]:
    """The lines of an input file, without empty ones. Numbers count from 1 on, empty lines included."""
    lines = _lines(file, endpoint)
    while group := await asyncio.to_thread(_some, lines):
        for line in group:
            yield line


def count_lines(file: BinaryIO) -> int:
    """The lines of an input file that are not empty, up to one more than there may be."""
    n_lines = 0
    for raw in _raw_lines(file):
        n_lines += bool(raw.strip())
        if n_lines > MAX_LINES:
            break
    return n_lines


def answered(batch_id: str, line: Line, reply: Response, request_id: str) -> bytes:
    """The result of a line that a route replied to."""
    body = msgspec.Raw(bytes(reply.body))
    return _result(batch_id, line, {"status_code": reply.status_code, "request_id": request_id, "body": body}, None)


def refused(batch_id: str, line: Line, code: str, message: str) -> bytes:
    """The result of a line that no route has seen."""
    return _result(batch_id, line, None, {"code": code, "message": message})


def number_of(result: bytes) -> int:
    """The number of the line that a result belongs to."""
    return int(msgspec.json.decode(result, type=_Result).id.rpartition("_")[2])


def _result(batch_id: str, line: Line, response: object, error: object) -> bytes:
    result_id = f"{batch_id.replace('batch_', 'batch_req_')}_{line.number}"
    return msgspec.json.encode({"id": result_id, "custom_id": line.custom_id, "response": response, "error": error}) + b"\n"


def _some(lines: Iterator[Line]) -> list[Line]:
    return list(islice(lines, _N_AT_ONCE))


def _lines(file: BinaryIO, endpoint: str) -> Iterator[Line]:
    seen: set[str] = set()
    for number, raw in enumerate(_raw_lines(file), 1):
        if raw.strip():
            yield _line(number, raw, endpoint, seen)


def _raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines up to a bound; of a longer one its beginning, which is one byte too long."""
    while raw := file.readline(_MAX_LINE_BYTES + 1):
        rest = raw
        while len(rest) > _MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(_MAX_LINE_BYTES + 1)
        yield raw


def _line(number: int, raw: bytes, endpoint: str, seen: set[str]) -> Line:
    custom_id = None
    try:
        given = _object(raw)
        custom_id = given["custom_id"] if isinstance(given.get("custom_id"), str) else None
        fields = read_fields(LineFields, given, {})
        if fields.custom_id in seen:
            raise BadRequest(f"custom_id {custom_id!r} is that of an earlier line; expected one of its own", param="custom_id")
        seen.add(fields.custom_id)
        if fields.method != "POST" or fields.url != endpoint:
            raise BadRequest(f"the line asks for {fields.method} {fields.url}; the batch is of POST {endpoint}", param="url")
        for name in ("stream", "background"):
            if fields.body.get(name) is True:
                raise BadRequest(f"body.{name} is on, and a batch takes whole replies", param=f"body.{name}")
        return Line(number=number, custom_id=custom_id, body=bytes(msgspec.json.decode(raw, type=_Body).body))
    except BadRequest as error:
        failure = Failure(status=400, kind="invalid_request_error", message=f"line {number}: {error}", code="invalid_line")
        return Line(number=number, custom_id=custom_id, error=failure)


def _object(raw: bytes) -> dict[str, Any]:
    if len(raw) > _MAX_LINE_BYTES:
        raise BadRequest(f"it is too long; expected up to {_MAX_LINE_BYTES >> 20} MB")
    try:
        read = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"it is no sound JSON: {error}") from None
    if not isinstance(read, dict):
        raise BadRequest(f"it holds a JSON {type(read).__name__}; expected an object")
    return read
