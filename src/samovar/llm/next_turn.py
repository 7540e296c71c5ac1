"""The form in which a conversation comes back with the next message, and where a prompt parts from an earlier one.

A template leaves old thoughts out, so the next prompt parts from what was computed where the thoughts began. What it will have
in common with the dialogue so far, whatever the next message is, can be computed before that message comes.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from samovar.engine.prefix_cache import Break, n_common
from samovar.llm.model_text import ModelText, RenderSettings
from samovar.text.chat_messages import read_messages
from samovar.text.output_parser import CLOSE
from samovar.text.tokenizer import Tokenizer

_NEXT = ("A", "1")  # two messages that begin with different tokens
_SHOWN = 40
_STARTS, _ENDS = "\ue0f0", "\ue0f1"  # of a message's text; code points for private use
_MARK: Final = re.compile(f"(?P<side>[{_STARTS}{_ENDS}])(?P<index>[0-9]{{1,9}});")
_TOOL_ANSWER: Final = "<tool_response>"
Message = dict[str, object]
Render = Callable[[Sequence[Message]], str]


def next_turn_ids(text: ModelText, messages: Sequence[Message], settings: RenderSettings, answer: str) -> tuple[int, ...]:
    """The tokens with which every next turn of a conversation begins. Raises BadRequest where the template takes no further
    turn."""
    turns: list[Message] = [*messages, {"role": "assistant", "content": answer}]
    first, second = (text.render([*turns, {"role": "user", "content": said}], settings).ids for said in _NEXT)
    return first[: n_common(first, second)]


def explain_break(
    tokenizer: Tokenizer, render: Render, messages: Sequence[Message], prompt_ids: tuple[int, ...], at: Break
) -> str | None:
    """Which message, and which token of it, a cached prompt differs in; None where the two have nothing in common.

    `render` gives the text of the prompt for messages such as these.
    """
    if not at.position or at.position >= len(prompt_ids):
        return None
    offset = len(tokenizer.decode(prompt_ids[: at.position]))
    place = "the text before the messages"
    for index, (start, end) in _places(render, messages).items():
        if start > offset:
            break
        place = f"message {index + 1} of {len(messages)} ({messages[index].get('role')})"
        if end < offset:
            place = f"what follows {place}"
    here, there = (repr(tokenizer.decode([token_id]))[:_SHOWN] for token_id in (at.asked, at.cached))
    return f"{place}: at token {at.position} of the prompt there is {here}, where the cached text has {there}"


def _places(render: Render, messages: Sequence[Message]) -> dict[int, tuple[int, int]]:
    """From where to where the text of each message stands in the prompt, by its index; without those that are not printed.

    Found by rendering them once with marks at both ends.
    """
    plain = read_messages(messages, parse_arguments=False)
    for message in plain:
        message.pop("thinking", None)  # another name of the thoughts, which is no client's to give
    marked = [message | {"content": _marked(message.get("content"), index)} for index, message in enumerate(plain)]
    places: dict[int, tuple[int, int]] = {}
    n_marks = start = 0
    for found in _MARK.finditer(render(marked)):
        if found["side"] == _STARTS:
            start = found.start() - n_marks
        elif int(found["index"]) < len(messages):  # a message may hold what looks like a mark
            places.setdefault(int(found["index"]), (start, found.start() - n_marks))
        n_marks += len(found[0])
    return places


def _marked(content: object, index: int) -> object:
    """A message's text with marks, after its thoughts. Templates look at how a tool's answer begins, so that stays as it is."""
    if not isinstance(content, str):
        return content
    before, tag, text = content.rpartition(CLOSE)
    body = text.strip()
    if not body or body.startswith(_TOOL_ANSWER):
        return content
    head, tail = text.split(body, 1)
    return f"{before}{tag}{head}{_STARTS}{index};{body}{_ENDS}{index};{tail}"
