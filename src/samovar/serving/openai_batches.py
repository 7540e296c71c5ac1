"""OpenAI's `/v1/batches`: files of requests that are answered in the background."""

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.serving.batch_run import BatchRun
from samovar.serving.body import Fields, Unsupported, read_body
from samovar.serving.openai_files import BATCH, FILE, new_file_id
from samovar.serving.paging import page_body, read_page, read_query
from samovar.serving.replies import json_reply
from samovar.serving.responses_fields import check_metadata
from samovar.serving.server import Server, Table, caller_of

UNSUPPORTED: Final[Mapping[str, Unsupported]] = {"output_expires_after": Unsupported("files stay until they are deleted")}
_ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_WINDOW: Final = re.compile(r"([1-9][0-9]{0,3})([hd])")
_SECONDS: Final = {"h": 3_600, "d": 86_400}


class BatchFields(Fields, kw_only=True, frozen=True):
    """Fields of the route. `completion_window` is a number of hours or days: 24h, 7d."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


async def create_batch(server: Server, request: Request) -> Response:
    """Begin a batch."""
    records, caller = server.kept(), caller_of(request)
    fields = read_body(BatchFields, await request.body(), UNSUPPORTED)
    check_metadata(fields.metadata)
    known = [path for path in _ENDPOINTS if path in server.endpoints]
    if fields.endpoint not in known:
        raise BadRequest(f"endpoint is {fields.endpoint!r}; expected one of {', '.join(known)}", param="endpoint")
    window = _WINDOW.fullmatch(fields.completion_window)
    if window is None:
        raise BadRequest(
            f"completion_window is {fields.completion_window!r}; expected hours or days, such as 24h or 7d",
            param="completion_window",
        )
    file = await records.get(FILE, fields.input_file_id, caller.id)
    if file["purpose"] != "batch":
        raise BadRequest(f"the file's purpose is {file['purpose']}; expected batch", param="input_file_id")
    batch = _new_batch(fields, int(window[1]) * _SECONDS[window[2]])
    value = {"batch": batch, "caller": asdict(caller) | {"is_admin": False}, "output": new_file_id(), "errors": new_file_id()}
    await records.put(BATCH, batch["id"], caller.id, value, is_open=True)
    reply = json_reply(batch)
    begin(server, value)
    return reply


async def list_batches(server: Server, request: Request) -> Response:
    """The caller's batches, the newest first."""
    page = read_page(request, default=20, most=100, has_order=False)
    found = await server.kept().page(
        BATCH, caller_of(request).id, limit=page.limit + 1, after=page.after, is_oldest_first=False
    )
    return json_reply(page_body([value["batch"] for value in found], page.limit))


async def get_batch(server: Server, request: Request) -> Response:
    """A batch as it stands."""
    read_query(request, [])
    return json_reply((await _stored(server, request))["batch"])


async def cancel_batch(server: Server, request: Request) -> Response:
    """End a batch early; the results that are there can be had. Raises BadRequest for one that has ended."""
    value = await _stored(server, request)
    batch: dict[str, Any] = value["batch"]
    if batch["status"] not in ("validating", "in_progress"):
        raise BadRequest(f"the batch is {batch['status']}; expected one that is validating or in_progress")
    if not await server.background.cancel(batch["id"]):  # nobody works on it: it ends at once
        batch |= {"status": "cancelling", "cancelling_at": int(time.time())}
        reply = json_reply(batch)
        await server.kept().put(BATCH, batch["id"], caller_of(request).id, value, is_open=True)
        begin(server, value)
        return reply
    return json_reply((await _stored(server, request))["batch"])


ROUTES: Final[Table] = (
    ("POST", "/v1/batches", create_batch),
    ("GET", "/v1/batches", list_batches),
    ("GET", "/v1/batches/{id}", get_batch),
    ("POST", "/v1/batches/{id}/cancel", cancel_batch),
)


def begin(server: Server, value: dict[str, Any]) -> None:
    """Have a batch worked on, from where it stands."""
    server.background.begin(value["batch"]["id"], BatchRun(server, value))


async def resume_batches(server: Server) -> None:
    """Go on with the batches that an earlier server left."""
    for _, _, value in await server.kept().unfinished(BATCH):
        begin(server, value)


def _new_batch(fields: BatchFields, window_s: int) -> dict[str, Any]:
    now = int(time.time())
    moments = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    return {
        "id": f"batch_{uuid.uuid4().hex}",
        "object": "batch",
        "endpoint": fields.endpoint,
        "input_file_id": fields.input_file_id,
        "completion_window": fields.completion_window,
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "errors": None,
        "created_at": now,
        "expires_at": now + window_s,
        **{f"{moment}_at": None for moment in moments},
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": fields.metadata or {},
    }


async def _stored(server: Server, request: Request) -> dict[str, Any]:
    return await server.kept().get(BATCH, request.path_params["id"], caller_of(request).id)
