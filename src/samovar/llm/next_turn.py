"""The form in which a conversation comes back with the next message, and where a prompt parts from an earlier one.

A template leaves old thoughts out, so the next prompt parts from what was computed where the thoughts began. What it will have
in common with the dialogue so far, whatever the next message is, can be computed before that message comes.
"""

from collections.abc import Sequence

from samovar.engine.prefix_cache import Break, n_common
from samovar.llm.model_text import ModelText

_NEXT = ("A", "1")  # two messages that begin with different tokens
_SHOWN = 40
Message = dict[str, object]


def next_turn_ids(
    text: ModelText, messages: Sequence[Message], tools: Sequence[Message] | None, thinking: bool | None, answer: str
) -> tuple[int, ...]:
    """The tokens with which every next turn of a conversation begins. Raises BadRequest where the template takes no further
    turn."""
    turns: list[Message] = [*messages, {"role": "assistant", "content": answer}]
    first, second = (text.render([*turns, {"role": "user", "content": said}], tools, thinking).ids for said in _NEXT)
    return first[: n_common(first, second)]


def explain_break(
    text: ModelText, prompt_text: str, messages: Sequence[Message], prompt_ids: tuple[int, ...], at: Break
) -> str | None:
    """Which message, and which token of it, a cached prompt differs in; None where the two have nothing in common."""
    if not at.position or at.position >= len(prompt_ids):
        return None
    tokenizer = text.tokenizer
    offset = len(tokenizer.decode(prompt_ids[: at.position]))
    place, found = "the text before the messages", 0
    for index, message in enumerate(messages):
        content = message.get("content")
        start = prompt_text.find(content.strip(), found) if isinstance(content, str) else -1
        if start >= 0:
            if start > offset:
                break
            found = start
            place = f"message {index + 1} of {len(messages)} ({message.get('role')})"
            if start + len(content) < offset:  # type: ignore[arg-type]
                place = f"what follows {place}"
    here, there = (repr(tokenizer.decode([token_id]))[:_SHOWN] for token_id in (at.asked, at.cached))
    return f"{place}: at token {at.position} of the prompt there is {here}, where the cached text has {there}"
