"""Import of chats from other apps over HTTP."""

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar.app import chat_rows, import_chatgpt, import_open_webui
from samovar.app.app import App, AppTable
from samovar.app.chat_copy import ChatCopy, check_copy, insert_copy, is_there
from samovar.app.codes import FileRefused
from samovar.app.foreign_chats import UNTITLED, Found, Skipped, title_of
from samovar.app.shapes import Chat
from samovar.app.upload import uploaded
from samovar.app.users import user_of
from samovar.app.zips import opened, unpacked
from samovar.errors import BadRequest
from samovar.serving.replies import json_reply

MAX_UPLOAD_BYTES: Final = 256 << 20
_MAX_UNPACKED_BYTES: Final = 512 << 20
_MAX_SKIPPED: Final = 1_000  # that are told
_CONVERSATIONS: Final = re.compile(r"(?:^|/)conversations(?:-\d+)?\.json$")
# An escaped backslash, a pair of escapes for one character, or half of such a pair, which apps leave where they cut a text.
_SURROGATE: Final = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


class Imported(msgspec.Struct, kw_only=True, frozen=True):
    """What was written, and what was not."""

    n_chats: int
    n_messages: int
    skipped: list[Skipped]


class _Form(msgspec.Struct):
    """What tells the forms of chats apart."""

    title: object = None
    mapping: msgspec.Raw = msgspec.Raw()
    chat: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()


async def import_chats(app: App, request: Request) -> Response:
    """Write the chats of another app's export, except those that are there from an earlier import."""
    user = user_of(request)
    async with uploaded(request, MAX_UPLOAD_BYTES) as file:
        raw = await asyncio.to_thread(_read, file.name, file.content)
    n_chats, n_messages, skipped = 0, 0, list[Skipped]()
    for one in raw:
        found = await asyncio.to_thread(_found, one)
        skipped += found.skipped()
        if found.copy is None:
            continue
        if (chat := await write_copy(app, user.id, found.copy)) is None:
            skipped.append(Skipped(title=found.title, why="it is there already"))
        else:
            n_chats, n_messages = n_chats + 1, n_messages + chat.n_messages
    return json_reply(Imported(n_chats=n_chats, n_messages=n_messages, skipped=skipped[:_MAX_SKIPPED]))


async def write_copy(app: App, user_id: str, copy: ChatCopy) -> Chat | None:
    """Write a chat in a transaction of its own, so that answers that are being written need not wait, and tell the user's
    pages. None where it is there already."""

    def write(file: sqlite3.Connection) -> Chat | None:
        if is_there(file, user_id, copy):
            return None
        return chat_rows.find(file, user_id, insert_copy(file, user_id, copy))

    if (chat := await app.database.write(write)) is not None:
        app.feed.publish(user_id, "chat", chat)
    return chat


def _read(name: str, content: BinaryIO) -> list[msgspec.Raw]:
    """The chats of an export, each as JSON text. Raises FileRefused for what is none."""
    start = content.read(4)
    content.seek(0)
    texts = _zipped(name, content) if start == b"PK\x03\x04" else iter([content.read()])
    found = [chat for text in texts for chat in _split(name, text)]
    if not found:
        raise FileRefused(f"{name} has no chats in it", "file_kind")
    return found


def _zipped(name: str, content: BinaryIO) -> Iterator[bytes]:
    with opened(name, content) as archive:
        inside = [entry for entry in archive.namelist() if _CONVERSATIONS.search(entry)]
        if not inside:
            raise FileRefused(f"{name} has no conversations.json in it; expected ChatGPT's export", "file_kind")
        n_left = _MAX_UNPACKED_BYTES
        for entry in sorted(inside):
            data = unpacked(name, archive, entry, n_left)
            n_left -= len(data)
            yield data


def _split(name: str, text: bytes) -> list[msgspec.Raw]:
    expected = "expected ChatGPT's conversations.json, its export as a zip, or Open WebUI's export of chats"
    text = text.removeprefix(b"\xef\xbb\xbf")
    try:
        try:
            return _decoded(text)
        except msgspec.DecodeError:
            return _decoded(_SURROGATE.sub(_replaced, text))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileRefused(f"{name} is no list of chats in JSON ({error}); {expected}", "file_kind") from None


def _decoded(text: bytes) -> list[msgspec.Raw]:
    if text.lstrip()[:1] == b"{":
        msgspec.json.decode(text, type=_Form)
        return [msgspec.Raw(text)]
    return msgspec.json.decode(text, type=list[msgspec.Raw])


def _replaced(found: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if found["half"] else found[0]


def _found(raw: msgspec.Raw) -> Found:
    """A chat in whichever form it has."""
    title = UNTITLED
    try:
        form = msgspec.json.decode(raw, type=_Form)
        title = title_of(form.title)
        found = _reader(form)(raw)
        if found.copy is not None:
            check_copy(found.copy)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadRequest) as error:
        return Found(title=title, copy=None, why=(f"it cannot be read: {error}",))
    return found


def _reader(form: _Form) -> Callable[[msgspec.Raw], Found]:
    if bytes(form.mapping):
        return import_chatgpt.read_conversation
    if bytes(form.chat):
        return import_open_webui.read_entry
    if bytes(form.messages):
        return _own
    raise BadRequest("it has no form that is known here, which are ChatGPT's, Open WebUI's and this app's own")


def _own(raw: msgspec.Raw) -> Found:
    """A chat that this app has exported as JSON."""
    copy = msgspec.json.decode(raw, type=ChatCopy)
    return Found(title=copy.title, copy=copy)


IMPORT_ROUTES: Final[AppTable] = (("POST", "/import", import_chats),)
