"""Files over HTTP: sent before the message that they go with, and kept as text."""

import asyncio
import sqlite3
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from samovar.app.app import App, AppTable
from samovar.app.database import new_id, now_ms
from samovar.app.document_reader import DocumentReader
from samovar.app.extract import MAX_FILE_BYTES, extract
from samovar.app.message_rows import NotFound
from samovar.app.shapes import FileInfo
from samovar.app.upload import uploaded
from samovar.app.users import user_of
from samovar.errors import BadRequest
from samovar.serving.replies import json_reply

_UNUSED_MS: Final = 86_400_000  # after so long a file that no message took is forgotten
_MAX_UNUSED: Final = 100
_IMAGE_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")


@dataclass(frozen=True, slots=True)
class FileRoutes:
    """The routes and what reads documents."""

    reader: DocumentReader = field(default_factory=DocumentReader)

    def table(self) -> AppTable:
        """All routes."""
        return (
            ("POST", "/files", self.send),
            ("DELETE", "/files/{id}", delete_file),
            ("GET", "/files/{id}/text", file_text),
            ("GET", "/files/{id}/image", file_image),
        )

    async def send(self, app: App, request: Request) -> Response:
        """Take a file's text out of it, and keep that."""
        user = user_of(request)
        async with uploaded(request, MAX_FILE_BYTES) as file:
            data = await asyncio.to_thread(file.content.read)
        found = await extract(self.reader, file.name, data)
        info = FileInfo(
            id=new_id(),
            name=file.name,
            media_type=found.media_type,
            n_bytes=len(data),
            n_chars=len(found.text),
            note=found.note,
        )
        await app.database.write(lambda connection: _keep(connection, user.id, info, found.text))
        return json_reply(info, 201)


async def delete_file(app: App, request: Request) -> Response:
    """Forget a file that no message has taken."""
    user, file_id = user_of(request), request.path_params["id"]

    def work(file: sqlite3.Connection) -> None:
        query = "SELECT message_id FROM files WHERE id = ? AND user_id = ?"
        if (row := file.execute(query, (file_id, user.id)).fetchone()) is None:
            raise NotFound("file", file_id)
        if row["message_id"] is not None:
            raise BadRequest("the file belongs to a message, and goes with that one", param="id")
        file.execute("DELETE FROM files WHERE id = ?", (file_id,))

    await app.database.write(work)
    return json_reply({})


async def file_text(app: App, request: Request) -> Response:
    """What the model reads of a file."""
    return PlainTextResponse((await _column(app, request, "text"))[0], headers={"X-Content-Type-Options": "nosniff"})


async def file_image(app: App, request: Request) -> Response:
    """A file's picture, where it has one."""
    data, media_type = await _column(app, request, "image")
    if data is None or media_type not in _IMAGE_TYPES:
        raise NotFound("image", request.path_params["id"])
    return Response(data, media_type=media_type, headers={"X-Content-Type-Options": "nosniff"})


async def _column(app: App, request: Request, column: str) -> tuple[str | bytes | None, str]:
    user, file_id = user_of(request), request.path_params["id"]
    query = f"SELECT {column}, media_type FROM files WHERE id = ? AND user_id = ?"
    row = await app.database.read(lambda file: file.execute(query, (file_id, user.id)).fetchone())
    if row is None:
        raise NotFound("file", file_id)
    return row[0], row[1]


def _keep(file: sqlite3.Connection, user_id: str, info: FileInfo, text: str) -> None:
    """Write a file; those that have waited for a message for too long go."""
    now = now_ms()
    file.execute("DELETE FROM files WHERE message_id IS NULL AND created_ms < ?", (now - _UNUSED_MS,))
    query = "SELECT count(*) FROM files WHERE user_id = ? AND message_id IS NULL"
    if file.execute(query, (user_id,)).fetchone()[0] >= _MAX_UNUSED:
        raise BadRequest(f"{_MAX_UNUSED} files wait for a message already; send or remove some first", param="file")
    file.execute(
        "INSERT INTO files (id, user_id, name, media_type, n_bytes, text, n_chars, note, created_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (info.id, user_id, info.name, info.media_type, info.n_bytes, text, info.n_chars, info.note, now),
    )
