"""OpenAI's `/v1/files`: what batches read and write. Contents lie in a folder beside the records, never wholly in memory."""

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, BinaryIO, Final

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest, StoreError
from samovar.serving.paging import page_body, read_page, read_query
from samovar.serving.records import Records
from samovar.serving.replies import StreamReply, json_reply
from samovar.serving.server import Server, Table, caller_of

FILE: Final = "file"
BATCH: Final = "batch"
MAX_FILE_BYTES: Final = 200 << 20  # of a batch's input, as OpenAI has it
_CHUNK_BYTES: Final = 1 << 18
_MAX_NAME: Final = 255
_FORM_BYTES: Final = 1 << 16  # what the form may hold beside the file
_DAYS: Final = "files stay until they are deleted"


async def upload_file(server: Server, request: Request) -> Response:
    """Keep a file that is sent as a form."""
    records, owner = server.kept(), caller_of(request).id
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise BadRequest("the body is no form; expected multipart/form-data with file and purpose")
    try:
        parser = MultiPartParser(request.headers, _bounded(request), max_files=1, max_fields=4, max_part_size=_FORM_BYTES)
        form = await parser.parse()
    except MultiPartException as error:
        raise BadRequest(f"the form is unsound: {error.message}") from None
    try:
        given = _checked(form)
        file = new_file(given.filename or "", "batch")
        size_bytes = await asyncio.to_thread(_keep, records, given.file, file["id"])
        await records.put(FILE, file["id"], owner, file | {"bytes": size_bytes})
    finally:
        await form.close()
    return json_reply(file | {"bytes": size_bytes})


async def list_files(server: Server, request: Request) -> Response:
    """The caller's files, the newest first unless told otherwise."""
    page = read_page(request, default=10_000, most=10_000, more=["purpose"])
    found = await server.kept().page(
        FILE,
        caller_of(request).id,
        limit=page.limit + 1,
        after=page.after,
        is_oldest_first=page.is_oldest_first,
        purpose=page.more.get("purpose"),
    )
    return json_reply(page_body(found, page.limit))


async def get_file(server: Server, request: Request) -> Response:
    """What is known about a file."""
    read_query(request, [])
    return json_reply(await _file(server, request))


async def get_content(server: Server, request: Request) -> Response:
    """A file's bytes."""
    read_query(request, [])
    file = await _file(server, request)
    content = open_content(server.kept(), file["id"])

    async def close() -> None:
        await asyncio.to_thread(content.close)

    return StreamReply(_pieces(content), "application/octet-stream", close)


async def delete_file(server: Server, request: Request) -> Response:
    """Forget a file. Raises BadRequest for one that a batch still reads."""
    records, owner, file = server.kept(), caller_of(request).id, await _file(server, request)
    for batch_id, _, value in await records.unfinished(BATCH):
        if value["batch"]["input_file_id"] == file["id"]:
            raise BadRequest(f"the batch {batch_id} still reads this file: wait for its end, or cancel it")
    await records.delete(FILE, file["id"], owner)
    await asyncio.to_thread(content_path(records, file["id"]).unlink, missing_ok=True)
    return json_reply({"id": file["id"], "object": "file", "deleted": True})


ROUTES: Final[Table] = (
    ("POST", "/v1/files", upload_file),
    ("GET", "/v1/files", list_files),
    ("GET", "/v1/files/{id}", get_file),
    ("DELETE", "/v1/files/{id}", delete_file),
    ("GET", "/v1/files/{id}/content", get_content),
)


def new_file(name: str, purpose: str, file_id: str | None = None) -> dict[str, Any]:
    """A file's record, without its size."""
    return {
        "id": file_id or new_file_id(),
        "object": "file",
        "bytes": 0,
        "created_at": int(time.time()),
        "filename": name[:_MAX_NAME],
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": None,
    }


def new_file_id() -> str:
    """An id that nobody guesses."""
    return f"file-{uuid.uuid4().hex}"


def content_path(records: Records, file_id: str) -> Path:
    """Where the bytes of a file lie. The id must be one that was made here."""
    return records.folder / "files" / file_id


def open_content(records: Records, file_id: str) -> BinaryIO:
    """A file's bytes. Raises StoreError where they are gone."""
    try:
        return content_path(records, file_id).open("rb")
    except OSError as error:
        raise StoreError(f"the content of {file_id} cannot be read: {error.strerror}") from None


async def _file(server: Server, request: Request) -> dict[str, Any]:
    return await server.kept().get(FILE, request.path_params["id"], caller_of(request).id)


def _checked(form: FormData) -> UploadFile:
    """The file of an upload. Raises BadRequest for what is not known or not supported."""
    fields = dict(form.multi_items())
    file, purpose = fields.pop("file", None), fields.pop("purpose", None)
    if fields:
        name = min(fields)
        reason = f"is not supported: {_DAYS}" if name.startswith("expires_after") else "is no field that is known here"
        raise BadRequest(f"{name} {reason}", param=name)
    if not isinstance(file, UploadFile):
        raise BadRequest("file is missing; expected the file itself, with a name", param="file")
    if purpose != "batch":
        raise BadRequest(f"purpose is {purpose!r}; files are for batches here: expected batch", param="purpose")
    return file


async def _bounded(request: Request) -> AsyncGenerator[bytes, None]:
    """The body as it comes, up to a bound."""
    n_bytes = 0
    async for piece in request.stream():
        n_bytes += len(piece)
        if n_bytes > MAX_FILE_BYTES + _FORM_BYTES:
            raise BadRequest(f"the file is too large; expected up to {MAX_FILE_BYTES >> 20} MB", param="file")
        yield piece


def _keep(records: Records, source: BinaryIO, file_id: str) -> int:
    """Copy an upload to its place; it is there as a whole or not at all. Returns its size."""
    path = content_path(records, file_id)
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(partial, "xb", opener=private) as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)
            target.flush()
            os.fsync(target.fileno())
            size_bytes = target.tell()
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"the file cannot be kept: {error.strerror}") from None
    return size_bytes


def private(path: str, flags: int) -> int:
    """Open a file so that only this user can read it."""
    return os.open(path, flags, 0o600)


async def _pieces(content: BinaryIO) -> AsyncGenerator[bytes, None]:
    while piece := await asyncio.to_thread(content.read, _CHUNK_BYTES):
        yield piece
