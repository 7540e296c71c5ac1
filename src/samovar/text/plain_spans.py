"""Where in a rendered conversation the text of a control token came from a message and not from the template.

A template may strip, split, drop or repeat what it is given, so places are not computed but watched: the conversation is
rendered again with marks, characters used nowhere else, in the messages. Where the marks come out is where the text went.
A second rendering is only needed where a message does hold the text of a control token, or could complete one.
"""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final

from samovar.errors import TemplateError
from samovar.text.chat_messages import Json, Message
from samovar.text.control_tokens import find_tokens
from samovar.text.rendered_prompt import Span

# What an assistant writes as markup itself: in its own earlier content these stay control tokens.
ASSISTANT_TAGS: Final = ("<think>", "</think>", "<tool_call>", "</tool_call>")
_ASSISTANT_TEXTS: Final = ("content", "reasoning_content", "thinking")
_PRIVATE_USE: Final = ((0xE000, 0xF900), (0xF0000, 0xFFFFE), (0x100000, 0x10FFFE))

_LOST: Final = "and the template prints it in a way that cannot be followed; leave it out"

# On which side of a token its mark goes. Inside the message first, so that a template sees how the message starts and ends.
_SIDES: Final = ("inner", "after", "before")

# Keys that templates look up by name: they are not marked, and complete no token.
_STRUCTURE: Final = frozenset(
    ("id", "type", "index", "function", "name", "arguments", "description", "parameters", "properties", "required", "items")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """All that a template is given and that no template wrote."""

    messages: Sequence[Message]
    tools: Sequence[Json] | None
    options: Mapping[str, Json]

    def edited(self, edit: "Edit") -> "Conversation":
        """A copy with every text (and key of a nested object) passed through `edit`."""
        return Conversation(
            messages=[_edited_message(message, edit) for message in self.messages],
            tools=None if self.tools is None else [_edited(tool, edit) for tool in self.tools],
            options={key: _edited(value, edit) for key, value in self.options.items()},
        )


Render = Callable[[Conversation], str]
Edit = Callable[[str, bool], str]  # of a text, and whether it is what an assistant wrote
_Occurrence = tuple[str, int, int]  # a token's text and its range


def find_plain_spans(text: str, conversation: Conversation, render: Render, tokens: re.Pattern[str]) -> tuple[Span, ...]:
    """The plain spans of `text`, which is what `render` makes of `conversation`. `tokens` matches any control token.

    Raises TemplateError where the template does not print marked messages as it prints plain ones.
    """
    spans = _whole_tokens(text, conversation, render, tokens)
    spans |= _completed_tokens(text, sorted(spans), conversation, render, tokens)
    return tuple(sorted(spans))


def _whole_tokens(text: str, conversation: Conversation, render: Render, tokens: re.Pattern[str]) -> set[Span]:
    """The places of control tokens that stand whole in a message."""
    found: set[str] = set()
    texts: list[str] = []

    def look(leaf: str, is_assistant: bool) -> str:
        texts.append(leaf)
        found.update(token for token, _, _ in _foreign_tokens(leaf, is_assistant, tokens))
        return leaf

    conversation.edited(look)
    if not found:
        return set()
    marks = _unused_characters(chain([text], texts))
    after = {token: next(marks) for token in sorted(found)}
    before = {token: next(marks) for token in sorted(found)}
    for side in _SIDES:
        marked = conversation.edited(partial(_marked, tokens=tokens, side=side, after=after, before=before))
        places = _places(render(marked), text, {*after.values(), *before.values()})
        if places is not None:
            ends = {(p - len(t), p) for t, mark in after.items() for p in places[mark] if text.endswith(t, 0, p)}
            starts = {(p, p + len(t)) for t, mark in before.items() for p in places[mark] if text.startswith(t, p)}
            return ends | starts
    raise TemplateError(f"a message holds the text of a control token, {min(found)!r}, {_LOST}", param="messages")


def _completed_tokens(
    text: str, spans: list[Span], conversation: Conversation, render: Render, tokens: re.Pattern[str]
) -> set[Span]:
    """The places of control tokens that the template and a message make together, as of `<` + name + `>`."""
    printed = list(find_tokens(tokens, text, spans))
    wholes = {token for token, _, _ in printed}
    beginnings = {token[:n] for token in wholes for n in range(1, len(token))}
    endings = {token[n:] for token in wholes for n in range(1, len(token))}
    longest = max(map(len, wholes), default=0)
    suspects: set[str] = set()
    texts: list[str] = []

    def look(leaf: str, _: bool) -> str:
        texts.append(leaf)
        edges = leaf.strip()  # what a template may leave of it
        sizes = range(1, min(len(edges) + 1, longest))
        if any(edges[-n:] in beginnings or edges[:n] in endings for n in sizes) or (
            edges and any(edges in t for t in wholes - {edges})
        ):
            suspects.add(leaf)
        return leaf

    conversation.edited(look)
    if not suspects:
        return set()
    unused = _unused_characters(chain([text], texts))
    first, last = next(unused), next(unused)
    marked = conversation.edited(lambda leaf, _: _marked_edges(leaf, first, last) if leaf in suspects else leaf)
    places = _places(render(marked), text, {first, last})
    if places is None:
        raise TemplateError(f"a message holds {min(suspects)!r}, a part of a control token, {_LOST}", param="messages")
    firsts, lasts = sorted(places[first]), sorted(places[last])  # as many as there are messages, and so are the tokens
    reaching_in = {(start, end) for _, start, end in printed if bisect_right(firsts, start) < bisect_right(firsts, end)}
    return reaching_in | {(start, end) for _, start, end in printed if bisect_left(lasts, start) < bisect_left(lasts, end)}


def _marked_edges(leaf: str, first: str, last: str) -> str:
    """A text with a mark behind its first and one before its last character that is no space: a template may strip the rest.

    A token that ends behind the first mark, or starts before the last, reaches into the text.
    """
    start, end = len(leaf) - len(leaf.lstrip()), len(leaf.rstrip())
    if end - start == 1:
        return leaf[:start] + last + leaf[start] + first + leaf[end:]
    return leaf[: start + 1] + first + leaf[start + 1 : end - 1] + last + leaf[end - 1 :]


def _foreign_tokens(leaf: str, is_assistant: bool, tokens: re.Pattern[str]) -> Iterator[_Occurrence]:
    """The control tokens in a text of a message that are to be ordinary text."""
    for token, start, end in find_tokens(tokens, leaf):
        if not (is_assistant and token in ASSISTANT_TAGS):
            yield token, start, end


def _marked(
    leaf: str, is_assistant: bool, *, tokens: re.Pattern[str], side: str, after: dict[str, str], before: dict[str, str]
) -> str:
    """A text with a mark beside each control token in it."""
    pieces: list[str] = []
    done = 0
    for token, start, end in _foreign_tokens(leaf, is_assistant, tokens):
        is_before = side == "before" or (side == "inner" and end == len(leaf) and start > 0)
        pieces += [leaf[done:start], before[token] + token if is_before else token + after[token]]
        done = end
    return "".join([*pieces, leaf[done:]])


def _places(marked: str, text: str, marks: set[str]) -> dict[str, list[int]] | None:
    """Where in `text` each mark comes out; None when the marked rendering differs in more than the marks."""
    for mark in marks:
        escaped = json.dumps(mark)[1:-1]  # as a filter prints it that escapes all but ASCII
        marked = marked.replace(escaped, mark) if escaped not in text else marked
    places: dict[str, list[int]] = {mark: [] for mark in marks}
    pieces = re.split(f"([{''.join(marks)}])", marked)
    if "".join(pieces[::2]) != text:
        return None
    position = 0
    for piece in pieces:
        if piece in marks:
            places[piece].append(position)
        else:
            position += len(piece)
    return places


def _unused_characters(texts: Iterable[str]) -> Iterator[str]:
    """Characters of private use that no text holds."""
    used = set(chain.from_iterable(texts))
    return (c for first, end in _PRIVATE_USE for c in map(chr, range(first, end)) if c not in used)


def _edited_message(message: Message, edit: Edit) -> Message:
    is_assistant = message["role"] == "assistant"
    return {
        key: value
        if key == "role"
        else edit(value, is_assistant and key in _ASSISTANT_TEXTS)
        if isinstance(value, str)
        else _edited(value, edit)
        for key, value in message.items()
    }


def _edited(value: Json, edit: Edit) -> Json:
    if isinstance(value, str):
        return edit(value, False)
    if isinstance(value, list):
        return [_edited(item, edit) for item in value]
    if isinstance(value, dict):
        return {key if key in _STRUCTURE else edit(key, False): _edited(item, edit) for key, item in value.items()}
    return value
