"""The words `/think` and `/no_think` in messages, with which Qwen3's first models are told whether to think.

Source: the model cards of Qwen3 (2504). Later Qwen3 models do not know the words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

# A word: nothing visible of ASCII beside it but the marks that end a sentence. Chinese is written without spaces.
_WORD: Final = r"(?<![!-~])/(?P<no>no_)?think(?=[.,;:!?]*(?![!-~]))"
_SWITCH: Final = re.compile(_WORD)
_WITH_SPACE: Final = re.compile(rf"\A\s*{_WORD}\s*|\s*{_WORD.replace('?P<no>', '?:')}")
_SWITCHING_ROLES: Final = ("system", "developer", "user")
Message = dict[str, object]


def asked_switch(messages: Sequence[Message]) -> bool | None:
    """What the last such word in a user's or system message asks for; None where there is none."""
    found = [match for message in messages for text in _texts(message) for match in _SWITCH.finditer(text)]
    return found[-1]["no"] is None if found else None


def without_switches(messages: Sequence[Message]) -> list[Message]:
    """The messages without such words, and without the space before each."""
    return [
        message | {"content": _without(message["content"])} if any(map(_SWITCH.search, _texts(message))) else message
        for message in messages
    ]


def _texts(message: Message) -> Iterator[str]:
    """The texts of a message that may hold such words. Unsound messages have none; they are refused elsewhere."""
    if not isinstance(message, Mapping) or message.get("role") not in _SWITCHING_ROLES:
        return
    content = message.get("content")
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text


def _without(content: object) -> object:
    if isinstance(content, str):
        return _WITH_SPACE.sub("", content)
    if isinstance(content, list):
        return [_without(part) for part in content]
    return {**content, "text": _without(content.get("text"))} if isinstance(content, Mapping) else content
