"""What imports from other chat apps have in common: what is found, what is left out, and how trees of nodes become messages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from samovar.app.chat_copy import MAX_MS, ChatCopy, MessageCopy
from samovar.app.shapes import MAX_MESSAGE_CHARS
from samovar.app.titles import MAX_TITLE_CHARS
from samovar.errors import BadRequest

UNTITLED: Final = "Imported chat"
MAX_NODES: Final = 50_000  # of a chat


class Skipped(msgspec.Struct, kw_only=True, frozen=True):
    """What of a chat is left out, and why."""

    title: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A chat, None where none of it can be kept, and what is left out of it."""

    title: str
    copy: ChatCopy | None
    why: tuple[str, ...] = ()

    def skipped(self) -> list[Skipped]:
        """What people are told."""
        return [Skipped(title=self.title, why=why) for why in self.why]


@dataclass(slots=True, kw_only=True)
class Node:
    """A node of another app's tree. `message` is None for one that is not shown, whose children follow its parent."""

    id: str
    parent_id: str | None
    message: MessageCopy | None


@dataclass(slots=True)
class LeftOut:
    """Counts what is left out of a chat."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, what: str) -> None:
        """One more."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def why(self) -> tuple[str, ...]:
        """What people are told."""
        return tuple(f"{what} ({n})" for what, n in self.counts.items())


def chat_of_nodes(nodes: Mapping[str, Node], leaf_id: str | None, left_out: LeftOut, chat: ChatCopy, app: str) -> Found:
    """`chat`, which has no messages, with those of a tree, of which `leaf_id` was looked at last.

    Its id is the one that `app` gave it, or else that of its first message.
    """
    try:
        messages, leaf_id = _messages_of_nodes(nodes, leaf_id)
    except BadRequest as error:
        return Found(title=chat.title, copy=None, why=(str(error),))
    if not messages:
        return Found(title=chat.title, copy=None, why=("it has no messages", *left_out.why()))
    copy = msgspec.structs.replace(chat, id=f"{app} {chat.id or messages[0].id}", messages=messages, leaf_id=leaf_id)
    return Found(title=chat.title, copy=copy, why=left_out.why())


def _messages_of_nodes(nodes: Mapping[str, Node], leaf_id: str | None) -> tuple[list[MessageCopy], str | None]:
    """The messages of a tree in the order of their making, and the one to which `leaf_id` leads.

    Pieces of an answer that follow one another without a branch become one message. Raises BadRequest for nodes that go in
    a circle, or follow one that is not there.
    """
    if len(nodes) > MAX_NODES:
        raise BadRequest(f"it has {len(nodes)} messages; expected up to {MAX_NODES}")
    n_children: dict[str | None, int] = {}
    for node in nodes.values():
        n_children[node.parent_id] = n_children.get(node.parent_id, 0) + 1
    kept, became = dict[str, MessageCopy](), dict[str | None, str | None]({None: None})
    for node in _in_order(nodes):
        parent_id = became[node.parent_id]
        became[node.id] = parent_id
        if node.message is None:
            continue
        parent = None if parent_id is None else kept[parent_id]
        follows_alone = n_children[node.parent_id] == 1
        if parent is not None and follows_alone and _are_pieces(parent, node.message):
            kept[parent.id] = _joined(parent, node.message)
            continue
        became[node.id] = node.id
        kept[node.id] = msgspec.structs.replace(node.message, parent_id=parent_id)
    messages = sorted(kept.values(), key=lambda message: message.created_ms)
    leaf = became.get(leaf_id)
    return messages, leaf or (messages[-1].id if messages else None)


def title_of(text: object) -> str:
    """A title as it is kept."""
    return " ".join(str(text or "").split())[:MAX_TITLE_CHARS] or UNTITLED


def milliseconds(time: float | None, default: int) -> int:
    """Unix time in milliseconds, out of seconds, or of milliseconds or nanoseconds, which some versions of apps write."""
    if time is None or not 0 < time < 1e20:
        return default
    found = time / 1e6 if time > 1e17 else time if time > 1e11 else time * 1000
    return int(found) if found <= MAX_MS else default


def bounded(text: str, left_out: LeftOut) -> str:
    """A message's text, cut where it is longer than a message may be."""
    if len(text) > MAX_MESSAGE_CHARS:
        left_out.add(f"messages are cut after {MAX_MESSAGE_CHARS:,} characters")
    return text[:MAX_MESSAGE_CHARS]


def _in_order(nodes: Mapping[str, Node]) -> Iterable[Node]:
    """The nodes, each after its parent."""
    below: dict[str | None, list[Node]] = {}
    for node in nodes.values():
        if node.parent_id is not None and node.parent_id not in nodes:
            raise BadRequest("its messages are no tree: one follows a message that is not there")
        below.setdefault(node.parent_id, []).append(node)
    found, waiting = list[Node](), list(reversed(below.get(None, [])))
    while waiting:
        found.append(node := waiting.pop())
        waiting.extend(reversed(below.get(node.id, [])))
    if len(found) < len(nodes):
        raise BadRequest("its messages are no tree: some follow one another in a circle")
    return found


def _are_pieces(first: MessageCopy, second: MessageCopy) -> bool:
    """Whether these are of one answer, and fit into a message together."""
    fit = len(first.content) + len(second.content) < MAX_MESSAGE_CHARS
    return fit and first.role == second.role == "assistant"


def _joined(first: MessageCopy, second: MessageCopy) -> MessageCopy:
    def both(one: str | None, other: str | None) -> str:
        return "\n\n".join(filter(None, (one, other)))

    return msgspec.structs.replace(
        first,
        content=both(first.content, second.content),
        thoughts=both(first.thoughts, second.thoughts) or None,
        model=second.model or first.model,
    )
