"""Chats out of ChatGPT's export: `conversations.json`, a list of conversations with a `mapping` of nodes each.

The form is not documented; this follows exports of 2023 to 2025. All branches are kept. Code that the model ran and what came
of it stay as fenced text. Pictures, sounds and files are not in the JSON, and left out.
"""

from typing import Any, Final

import msgspec

from samovar.app.chat_copy import ChatCopy, MessageCopy
from samovar.app.database import now_ms
from samovar.app.foreign_chats import Found, LeftOut, Node, bounded, chat_of_nodes, milliseconds, title_of
from samovar.app.prompting import fenced


class _Author(msgspec.Struct):
    role: str
    name: str | None = None


class _Message(msgspec.Struct):
    author: _Author
    content: dict[str, Any]
    create_time: float | None = None
    metadata: dict[str, Any] | None = None


class _Node(msgspec.Struct):
    message: _Message | None = None
    parent: str | None = None


class Conversation(msgspec.Struct):
    """One of the list; what is not named here is not read."""

    mapping: dict[str, _Node]
    title: str | None = None
    create_time: float | None = None
    update_time: float | None = None
    current_node: str | None = None
    conversation_id: str | None = None
    id: str | None = None
    is_archived: bool | None = None
    is_starred: bool | None = None


_DECODER: Final = msgspec.json.Decoder(Conversation)


def read_conversation(raw: bytes | msgspec.Raw) -> Found:
    """One conversation. Raises msgspec.DecodeError for what is none."""
    given, left_out = _DECODER.decode(raw), LeftOut()
    created_ms = milliseconds(given.create_time, now_ms())
    nodes = {}
    for node_id, node in given.mapping.items():
        parent_id = node.parent if node.parent != node_id else None
        message = None if node.message is None else _read_message(node_id, node.message, created_ms, left_out)
        nodes[node_id] = Node(id=node_id, parent_id=parent_id, message=message)
    chat = ChatCopy(
        id=given.conversation_id or given.id or "",
        title=title_of(given.title),
        created_ms=created_ms,
        updated_ms=milliseconds(given.update_time, created_ms),
        messages=[],
        is_pinned=bool(given.is_starred),
        is_archived=bool(given.is_archived),
    )
    return chat_of_nodes(nodes, given.current_node, left_out, chat, "chatgpt")


def _read_message(node_id: str, given: _Message, created_ms: int, left_out: LeftOut) -> MessageCopy | None:
    """A node's message; None for one that the app did not show."""
    metadata, role = given.metadata or {}, given.author.role
    if role not in ("user", "assistant", "tool") or metadata.get("is_visually_hidden_from_conversation"):
        return None
    for _ in metadata.get("attachments") or ():
        left_out.add("files are not in the export, and left out")
    content, thoughts = _read_content(given.content, left_out)
    if not content.strip() and not thoughts:
        return None
    model = metadata.get("model_slug")
    return MessageCopy(
        id=node_id,
        parent_id=None,
        role="user" if role == "user" else "assistant",
        content=bounded(content, left_out),
        thoughts=thoughts or None,
        model=model if isinstance(model, str) and role == "assistant" else None,
        created_ms=milliseconds(given.create_time, created_ms),
    )


def _read_content(content: dict[str, Any], left_out: LeftOut) -> tuple[str, str]:
    """The text of a message, and its thoughts."""
    text = content.get("text")
    match content.get("content_type"):
        case "text" | "multimodal_text":
            parts = content.get("parts")
            read = (_read_part(part, left_out) for part in (parts if isinstance(parts, list) else ()))
            return "\n\n".join(filter(None, read)), ""
        case "code" if isinstance(text, str):
            return _code(text, content.get("language")), ""
        case "execution_output" if isinstance(text, str):
            return _code(text, None), ""
        case "thoughts":
            pieces = content.get("thoughts")
            found = [piece for piece in (pieces if isinstance(pieces, list) else ()) if isinstance(piece, dict)]
            return "", "\n\n".join(str(piece.get("content") or piece.get("summary") or "") for piece in found)
        case "reasoning_recap" | "user_editable_context" | "model_editable_context":
            return "", ""
        case kind:
            left_out.add(f"parts of the kind {str(kind)[:40]!r} are left out")
            return "", ""


def _read_part(part: object, left_out: LeftOut) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("content_type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind == "audio_transcription" and isinstance(part.get("text"), str):
        return str(part["text"])
    left_out.add(
        "pictures are left out" if kind == "image_asset_pointer" else f"parts of the kind {str(kind)[:40]!r} are left out"
    )
    return ""


def _code(text: str, language: object) -> str:
    """Text in a fence that names its language, where that is known."""
    opening, _, rest = fenced("", text).strip().partition("\n")
    is_known = isinstance(language, str) and language.isalnum() and language != "unknown"
    return f"{opening}{language if is_known else ''}\n{rest}"
