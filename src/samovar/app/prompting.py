"""From a branch of a chat and its settings to what the model is asked."""

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from samovar.app import message_rows
from samovar.app.codes import ImageNotTaken
from samovar.app.shapes import Message, Settings, ThinkingChoice, ToolCall, to_json
from samovar.errors import BadRequest
from samovar.llm import LLM
from samovar.llm.options import ChatOptions
from samovar.serving.chat import ChatAsk

_FENCE = re.compile(r"^\s*(`{3,})", re.MULTILINE)


@dataclass(slots=True, kw_only=True)
class Conversation:
    """Messages in OpenAI's form; `images` are the names of files that are pictures."""

    messages: list[dict[str, object]]
    images: list[str] = field(default_factory=list)


def read_conversation(file: sqlite3.Connection, system: str, last_id: str | None) -> Conversation:
    """A branch from the chat's first message to this one, with the texts of its files. Thoughts are left out."""
    found = Conversation(messages=[{"role": "system", "content": system}] if system.strip() else [])
    rows = [] if last_id is None else message_rows.path(file, last_id)
    texts: dict[str, list[str]] = {}
    query = (
        "SELECT message_id, name, text, image IS NOT NULL AS is_image FROM files "
        "WHERE message_id IN (SELECT value FROM json_each(?)) ORDER BY place"
    )
    for row in file.execute(query, (to_json([row["id"] for row in rows]),)):
        if row["is_image"]:
            found.images.append(row["name"])
        else:
            texts.setdefault(row["message_id"], []).append(fenced(row["name"], row["text"]))
    for row in rows:
        content = "\n\n".join([*texts.get(row["id"], ()), *([row["content"]] if row["content"] else [])])
        message: dict[str, object] = {"role": row["role"], "content": content}
        if row["role"] == "tool":
            message["tool_call_id"] = row["tool_call_id"]
        calls = msgspec.json.decode(row["tool_calls_json"], type=list[ToolCall])
        if calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in calls
            ]
        if content or calls or row["role"] == "tool":  # an answer that failed before its first word says nothing
            found.messages.append(message)
    return found


def fenced(name: str, text: str) -> str:
    """A file's name and its text, in a fence that the text does not close."""
    longest = max((len(match[1]) for match in _FENCE.finditer(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{name}\n{fence}\n{text.rstrip()}\n{fence}"


def chat_ask(llm: LLM, model: str, conversation: Conversation, settings: Settings) -> ChatAsk:
    """What to ask of an open model. Raises ImageNotTaken for pictures."""
    if conversation.images:
        raise ImageNotTaken(conversation.images[0])
    options: ChatOptions = {**settings.sampling(), **_thinking(llm, settings)}  # type: ignore[typeddict-item]
    if settings.json_schema is not None:
        options["json_schema"] = settings.json_schema
    if settings.tools:
        options["tools"] = settings.tools
    return ChatAsk(model=model, messages=conversation.messages, options=options)


def continue_ask(model: str, conversation: Conversation, settings: Settings, message: Message) -> ChatAsk:
    """What to ask so that the model goes on with a message of its own, which keeps the thoughts that it began with."""
    begun: dict[str, object] = {"role": "assistant", "content": message.content}
    if message.thoughts:
        begun["reasoning_content"] = message.thoughts
    options: ChatOptions = {**settings.sampling(), "continue_final": True}  # type: ignore[typeddict-item]
    return ChatAsk(model=model, messages=[*conversation.messages, begun], options=options)


def why_not_continued(message: Message) -> str | None:
    """Why an answer cannot be continued; None where it can."""
    if message.role != "assistant":
        return "only answers can be continued"
    if message.status in ("writing", "done"):
        return "the answer is still being written" if message.status == "writing" else "the answer is whole"
    if message.tool_calls:
        return "the answer calls a tool, and goes on with its result; send that, or regenerate the answer"
    if not message.content.strip():
        what = "while the model was thinking" if message.thoughts else "before its first word"
        return (
            f"the answer was cut {what}, and thoughts cannot be taken up again: regenerate it, with a larger limit of tokens "
            "or a smaller thinking budget"
        )
    if message.settings is not None and message.settings.json_schema is not None:
        return "the answer has to match a schema from its first sign on: regenerate it, with a larger limit of tokens"
    return None


def thinking_choice(llm: LLM) -> ThinkingChoice:
    """Whether a model thinks, as far as its template has a say."""
    if not can_think(llm, True):
        return "none"
    return "choice" if can_think(llm, False) else "always"


def can_think(llm: LLM, thinking: bool) -> bool:
    """Whether a model can be told to think, or not to."""
    try:
        llm.check_thinking(thinking)
    except BadRequest:
        return False
    return True


def title_ask(llm: LLM, model: str, messages: Sequence[dict[str, object]]) -> ChatAsk:
    """What to ask for a short answer without thoughts."""
    choice = thinking_choice(llm)
    options: ChatOptions = {"temperature": 0.3, "max_tokens": 40, "priority": -1}  # after whatever somebody waits for
    if choice == "choice":
        options["thinking"] = False
    elif choice == "always":
        options["thinking_budget"] = 0
    return ChatAsk(model=model, messages=messages, options=options)


def _thinking(llm: LLM, settings: Settings) -> ChatOptions:
    """Mode and budget. A budget is a bound, and holds by itself where there are no thoughts."""
    choice = thinking_choice(llm)
    if settings.mode == "fast":
        return {} if choice == "none" else {"thinking": False}
    options: ChatOptions = {} if settings.mode is None else {"thinking": True}
    if settings.thinking_budget is not None and choice != "none":
        options["thinking_budget"] = settings.thinking_budget
    return options
