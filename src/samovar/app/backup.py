"""All that a user has as one zip, and back from it.

`backup.json` says what the zip is. `chats.jsonl` has a chat on each line, `presets.jsonl` a preset; `preferences.json` is as
the page wrote it. The text of each file of a message is an entry below `files/`, named by its SHA-256, and so is each picture.
"""

import asyncio
import base64
import hashlib
import sqlite3
import tempfile
import zipfile
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar import __version__
from samovar.app.app import App, AppTable
from samovar.app.chat_copy import ChatCopy, FileCopy, check_copy, owned_id, read_copy
from samovar.app.codes import FileRefused
from samovar.app.database import now_ms
from samovar.app.foreign_chats import Skipped
from samovar.app.import_routes import MAX_UPLOAD_BYTES, Imported, write_copy
from samovar.app.preset_routes import (
    Preset,
    checked_preferences,
    insert_preset,
    preferences_of,
    presets_of,
    put_preferences,
)
from samovar.app.upload import uploaded
from samovar.app.users import User, user_of
from samovar.app.zips import opened, unpacked
from samovar.errors import BadRequest, StoreError
from samovar.serving.replies import StreamReply, json_reply

_FORM: Final = 1
_HEAD, _CHATS, _PRESETS, _PREFERENCES = "backup.json", "chats.jsonl", "presets.jsonl", "preferences.json"
_MAX_UNPACKED_BYTES: Final = 2 << 30  # of all entries, as their directory has it
_MAX_LINE_BYTES: Final = 64 << 20
_MAX_FILE_BYTES: Final = 64 << 20
_PIECE_BYTES: Final = 1 << 18


class Head(msgspec.Struct, kw_only=True, frozen=True):
    """What the zip is."""

    samovar_backup: int
    version: str
    made_ms: int
    user_name: str


class StoredFile(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A file in a line of chats: `text_entry` and `image_entry` name entries of the zip."""

    name: str
    media_type: str
    n_bytes: int
    text_entry: str = ""
    note: str | None = None
    image_entry: str | None = None


@dataclass(frozen=True, slots=True)
class _Sound:
    """A backup of which all was read once, and found sound."""

    presets: list[Preset]
    preferences: str | None


async def make_backup(app: App, request: Request) -> Response:
    """The zip, which is made in a temporary file, chat by chat."""
    user = user_of(request)
    file: BinaryIO = await asyncio.to_thread(tempfile.TemporaryFile)
    try:
        await _write(app, user, file)
        size_bytes = await asyncio.to_thread(lambda: file.seek(0, 2))
        await asyncio.to_thread(file.seek, 0)
    except OSError as error:
        file.close()
        raise StoreError(f"the backup cannot be made: {error.strerror}; make room for temporary files") from None
    except BaseException:
        file.close()
        raise

    async def close() -> None:
        file.close()

    reply = StreamReply(_pieces(file), "application/zip", close)
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    reply.headers["Content-Disposition"] = f'attachment; filename="samovar-backup-{day}.zip"'
    reply.headers["Content-Length"] = str(size_bytes)
    return reply


async def restore(app: App, request: Request) -> Response:
    """Write what a backup has and the user has not. All of it is read and checked before the first is written."""
    user = user_of(request)
    async with uploaded(request, MAX_UPLOAD_BYTES) as file:
        sound = await asyncio.to_thread(_check, file.name, file.content)
        n_chats, n_messages, skipped, chats = 0, 0, list[Skipped](), _chats(file.name, file.content)
        while (copy := await asyncio.to_thread(next, chats, None)) is not None:
            if (chat := await write_copy(app, user.id, copy)) is None:
                skipped.append(Skipped(title=copy.title, why="it is there already"))
            else:
                n_chats, n_messages = n_chats + 1, n_messages + chat.n_messages
    await app.database.write(lambda connection: _restore_rest(connection, user.id, sound))
    return json_reply(Imported(n_chats=n_chats, n_messages=n_messages, skipped=skipped))


async def _write(app: App, user: User, file: BinaryIO) -> None:
    query = "SELECT id FROM chats WHERE user_id = ? ORDER BY created_ms, id"
    ids = [row["id"] for row in await app.database.read(lambda db: db.execute(query, (user.id,)).fetchall())]
    presets, preferences = await app.database.read(lambda db: (presets_of(db, user.id), preferences_of(db, user.id)))
    head = Head(samovar_backup=_FORM, version=__version__, made_ms=now_ms(), user_name=user.name)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, tempfile.TemporaryFile() as lines:
        archive.writestr(_HEAD, msgspec.json.encode(head))
        archive.writestr(_PRESETS, b"".join(msgspec.json.encode(preset) + b"\n" for preset in presets))
        archive.writestr(_PREFERENCES, preferences)
        names = set[str]()  # of entries that are written
        for chat_id in ids:
            copy = await app.database.read(lambda db, chat_id=chat_id: _copy_if_there(db, user.id, chat_id))  # type: ignore[misc]
            if copy is not None:
                await asyncio.to_thread(_put, archive, names, lines, copy)
        lines.seek(0)
        with archive.open(_CHATS, "w", force_zip64=True) as entry:
            while piece := await asyncio.to_thread(lines.read, _PIECE_BYTES):
                await asyncio.to_thread(entry.write, piece)


def _copy_if_there(file: sqlite3.Connection, user_id: str, chat_id: str) -> ChatCopy | None:
    """A chat; None where it has been deleted meanwhile."""
    if file.execute("SELECT 1 FROM chats WHERE id = ? AND user_id = ?", (chat_id, user_id)).fetchone() is None:
        return None
    return read_copy(file, user_id, chat_id)


def _put(archive: zipfile.ZipFile, names: set[str], lines: BinaryIO, copy: ChatCopy) -> None:
    """Write a chat as a line; its files go to the zip, but for those of `names`, which are there."""

    def put(data: bytes) -> str:
        name = f"files/{hashlib.sha256(data).hexdigest()}"
        if name not in names:
            archive.writestr(name, data)
            names.add(name)
        return name

    raw = msgspec.to_builtins(copy)
    for message, given in zip(copy.messages, raw["messages"], strict=True):
        if message.files:
            given["files"] = [
                StoredFile(
                    name=file.name,
                    media_type=file.media_type,
                    n_bytes=file.n_bytes,
                    text_entry=put(file.text.encode()) if file.text else "",
                    note=file.note,
                    image_entry=None if file.image is None else put(base64.b64decode(file.image)),
                )
                for file in message.files
            ]
    lines.write(msgspec.json.encode(raw) + b"\n")


def _check(name: str, content: BinaryIO) -> _Sound:
    """Read all of a backup. Raises FileRefused for one that is damaged, too large, or none."""
    with opened(name, content) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if _HEAD not in entries or _CHATS not in entries:
            raise FileRefused(f"{name} is no backup of this app: it lacks {_HEAD} or {_CHATS}", "file_kind")
        if (n_bytes := sum(entry.file_size for entry in entries.values())) > _MAX_UNPACKED_BYTES:
            raise FileRefused(f"{name} would unpack to {n_bytes} bytes; expected up to {_MAX_UNPACKED_BYTES}", "file_too_large")
        try:
            head = msgspec.json.decode(unpacked(name, archive, _HEAD, 1 << 16), type=Head)
            lines = unpacked(name, archive, _PRESETS, _MAX_LINE_BYTES).splitlines() if _PRESETS in entries else []
            presets = [msgspec.json.decode(line, type=Preset) for line in lines if line.strip()]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FileRefused(f"{name} is a damaged backup: {error}", "file_unreadable") from None
        if head.samovar_backup != _FORM:
            raise FileRefused(f"{name} is a backup of form {head.samovar_backup}; expected {_FORM}", "file_kind")
        text = unpacked(name, archive, _PREFERENCES, 1 << 20) if _PREFERENCES in entries else None
    preferences = None if text is None else checked_preferences(text)
    for _ in _chats(name, content):
        pass
    return _Sound(presets, preferences)


def _chats(name: str, content: BinaryIO) -> Iterator[ChatCopy]:
    """The chats one after the other, checked, with their files. Raises FileRefused for one that is damaged."""
    with opened(name, content) as archive, archive.open(_CHATS) as lines:
        number = 0
        while line := lines.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > _MAX_LINE_BYTES:
                raise FileRefused(f"{name}: chat {number} has more than {_MAX_LINE_BYTES >> 20} MB", "file_too_large")
            try:
                copy = _read_line(name, archive, line)
                check_copy(copy)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, BadRequest) as error:
                raise FileRefused(f"{name} is a damaged backup: chat {number}: {error}", "file_unreadable") from None
            yield copy


def _read_line(name: str, archive: zipfile.ZipFile, line: bytes) -> ChatCopy:
    raw = msgspec.json.decode(line)
    for message in raw["messages"] if isinstance(raw, dict) and isinstance(raw.get("messages"), list) else ():
        if isinstance(message, dict) and message.get("files"):
            stored = msgspec.convert(message["files"], list[StoredFile])
            message["files"] = [_file_copy(name, archive, file) for file in stored]
    return msgspec.convert(raw, ChatCopy)


def _file_copy(name: str, archive: zipfile.ZipFile, file: StoredFile) -> FileCopy:
    def get(entry: str) -> bytes:
        return unpacked(name, archive, entry, _MAX_FILE_BYTES)

    return FileCopy(
        name=file.name,
        media_type=file.media_type,
        n_bytes=file.n_bytes,
        text=get(file.text_entry).decode() if file.text_entry else "",
        note=file.note,
        image=None if file.image_entry is None else base64.b64encode(get(file.image_entry)).decode(),
    )


def _restore_rest(file: sqlite3.Connection, user_id: str, sound: _Sound) -> None:
    """Presets that are not there, and preferences where there are none."""
    there = {preset.id for preset in presets_of(file, user_id)}
    for preset in sound.presets:
        if not there & {preset.id, owned_id(user_id, preset.id)}:
            insert_preset(file, user_id, msgspec.structs.replace(preset, id=owned_id(user_id, preset.id)))
    if sound.preferences is not None and preferences_of(file, user_id) == b"{}":
        put_preferences(file, user_id, sound.preferences)


async def _pieces(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
        yield piece


BACKUP_ROUTES: Final[AppTable] = (("GET", "/backup", make_backup), ("POST", "/restore", restore))
