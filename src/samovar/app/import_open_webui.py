"""Chats out of Open WebUI's export (Settings, Chats, Export): a JSON list of chats, each with a `history` of messages by id.

The form is not documented; this follows exports of versions 0.3 to 0.6. All branches are kept, thoughts are taken out of the
`<details type="reasoning">` that it keeps them in. Files are not in the export, and left out.
"""

import html
import re
from typing import Any, Final

import msgspec

from samovar.app.chat_copy import ChatCopy, MessageCopy
from samovar.app.database import now_ms
from samovar.app.foreign_chats import Found, LeftOut, Node, bounded, chat_of_nodes, milliseconds, title_of

_REASONING: Final = re.compile(r'<details type="reasoning"[^>]*>\s*(?:<summary>[^<]*</summary>)?(.*?)</details>\s*', re.DOTALL)
_QUOTE: Final = re.compile(r"^> ?", re.MULTILINE)


class _Message(msgspec.Struct, rename={"parent_id": "parentId"}):
    role: str
    content: Any = ""
    parent_id: str | None = None
    timestamp: float | None = None
    model: str | None = None
    files: list[Any] | None = None


class _History(msgspec.Struct, rename={"current_id": "currentId"}):
    messages: dict[str, _Message]
    current_id: str | None = None


class _Chat(msgspec.Struct):
    history: _History
    title: str | None = None
    models: list[Any] | None = None
    params: dict[str, Any] | None = None
    system: str | None = None


class Entry(msgspec.Struct):
    """One of the list; what is not named here is not read."""

    chat: _Chat
    id: str | None = None
    title: str | None = None
    created_at: float | None = None
    updated_at: float | None = None
    archived: bool | None = None
    pinned: bool | None = None


_DECODER: Final = msgspec.json.Decoder(Entry)


def read_entry(raw: bytes | msgspec.Raw) -> Found:
    """One chat. Raises msgspec.DecodeError for what is none."""
    given, left_out = _DECODER.decode(raw), LeftOut()
    created_ms = milliseconds(given.created_at, now_ms())
    history = given.chat.history.messages
    nodes = {
        node_id: Node(id=node_id, parent_id=one.parent_id, message=_read_message(node_id, one, created_ms, left_out))
        for node_id, one in history.items()
    }
    chat = ChatCopy(
        id=given.id or "",
        title=title_of(given.title or given.chat.title),
        created_ms=created_ms,
        updated_ms=milliseconds(given.updated_at, created_ms),
        messages=[],
        is_pinned=bool(given.pinned),
        is_archived=bool(given.archived),
        system=_system(given.chat, history),
    )
    return chat_of_nodes(nodes, given.chat.history.current_id, left_out, chat, "open-webui")


def _read_message(node_id: str, given: _Message, created_ms: int, left_out: LeftOut) -> MessageCopy | None:
    """A message; None for one without text, and for system prompts, which belong to the chat."""
    for _ in given.files or ():
        left_out.add("files are not in the export, and left out")
    if given.role not in ("user", "assistant"):
        if given.role != "system":
            left_out.add(f"messages of the role {given.role[:40]!r} are left out")
        return None
    text = _text(given.content, left_out)
    thoughts = [_QUOTE.sub("", html.unescape(found[1])).strip() for found in _REASONING.finditer(text)]
    content = _REASONING.sub("", text).strip() if thoughts else text
    if not content.strip() and not thoughts:
        return None
    return MessageCopy(
        id=node_id,
        parent_id=None,
        role="user" if given.role == "user" else "assistant",
        content=bounded(content, left_out),
        thoughts="\n\n".join(filter(None, thoughts)) or None,
        model=given.model if given.role == "assistant" else None,
        created_ms=milliseconds(given.timestamp, created_ms),
    )


def _text(content: object, left_out: LeftOut) -> str:
    if isinstance(content, str):
        return content
    found = []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") == "text":
            found.append(str(part.get("text") or ""))
        else:
            left_out.add("pictures are left out")
    return "\n\n".join(found)


def _system(chat: _Chat, history: dict[str, _Message]) -> str:
    given = chat.system or (chat.params or {}).get("system")
    texts = [one.content for one in history.values() if one.role == "system"]
    return next((text for text in (given, *texts) if isinstance(text, str) and text.strip()), "")
