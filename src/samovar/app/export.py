"""A chat as something to take away: Markdown, JSON with all branches, or a call that asks for its next answer over the API."""

import pprint
import re
import shlex
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar.app import chat_rows, message_rows
from samovar.app.app import App, AppTable
from samovar.app.chat_copy import ChatCopy, MessageCopy, path_of, read_copy
from samovar.app.prompting import Conversation, fenced, read_conversation, thinking_choice
from samovar.app.shapes import Settings
from samovar.app.users import user_of
from samovar.errors import BadRequest
from samovar.serving.failures import Refused
from samovar.serving.paging import read_query
from samovar.serving.registry import Registry

_NOT_OPENAIS: Final = ("top_k", "min_p", "repetition_penalty", "enable_thinking", "thinking_budget")
_HEADINGS: Final = {"user": "You", "assistant": "Assistant", "tool": "Tool result"}
_KEY: Final = "SAMOVAR_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A file to download."""

    text: str
    suffix: str
    media_type: str


async def export_chat(app: App, request: Request) -> Response:
    """The chat in the form that is asked for."""
    user, chat_id = user_of(request), request.path_params["id"]
    form = read_query(request, ("form",)).get("form", "")
    if form in ("markdown", "json"):
        copy = await app.database.read(lambda file: read_copy(file, user.id, chat_id))
        title = copy.title
        made = to_markdown(copy) if form == "markdown" else to_json_file(copy)
    elif form in ("curl", "python"):
        title, body = await app.database.read(lambda file: _call(app, file, user.id, chat_id))
        url = f"{request.url.scheme}://{request.url.netloc}/v1"
        made = to_curl(url, body) if form == "curl" else to_python(url, body)
    else:
        raise BadRequest(f"form is {form!r}; expected markdown, json, curl or python", param="form")
    plain = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")[:60] or "chat"
    full = quote(re.sub(r'[\x00-\x1f/\\:*?"<>|]+', " ", title)[:100].strip() or "chat", safe="", errors="replace")
    disposition = f"attachment; filename=\"{plain}{made.suffix}\"; filename*=UTF-8''{full}{made.suffix}"
    headers = {"Content-Disposition": disposition, "X-Content-Type-Options": "nosniff"}
    return Response(made.text.encode("utf-8", "replace"), headers=headers, media_type=made.media_type)


def to_markdown(copy: ChatCopy) -> Export:
    """The branch that is shown. Files are named; thoughts are folded."""
    parts = [f"# {_one_line(copy.title) or 'Chat'}"]
    if copy.system.strip():
        parts.append(fenced("System prompt:\n", copy.system))
    parts.extend(_message_text(message) for message in path_of(copy))
    return Export(text="\n\n".join(parts) + "\n", suffix=".md", media_type="text/markdown; charset=utf-8")


def to_json_file(copy: ChatCopy) -> Export:
    """All branches, in the form of backups."""
    text = msgspec.json.format(msgspec.json.encode(copy), indent=2).decode()
    return Export(text=text + "\n", suffix=".json", media_type="application/json")


def to_curl(url: str, body: dict[str, Any]) -> Export:
    """A shell script. What was said is in a here-document, which has no length limit and in which nothing is expanded."""
    text = msgspec.json.format(msgspec.json.encode({**body, "stream": False}), indent=2).decode()
    script = (
        f"#!/bin/sh\n# Asks for the next answer of the chat. {_KEY} is a key of the server, where it asks for one.\n"
        f"curl --silent --show-error --fail-with-body {shlex.quote(url + '/chat/completions')} \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        f'  -H "Authorization: Bearer ${{{_KEY}:-none}}" \\\n'
        f"  --data-binary @- <<'END'\n{text}\nEND\n"
    )
    return Export(text=script, suffix=".sh", media_type="text/x-shellscript; charset=utf-8")


def to_python(url: str, body: dict[str, Any]) -> Export:
    """A script for OpenAI's client."""
    given = {name: value for name, value in body.items() if name not in ("messages", *_NOT_OPENAIS)}
    if extra := {name: body[name] for name in _NOT_OPENAIS if name in body}:
        given["extra_body"] = extra
    options = "".join(f"    {name}={_literal(value, 4)},\n" for name, value in given.items())
    script = (
        f"# Asks for the next answer of the chat: pip install openai. {_KEY} is a key of the server, where it asks for one.\n"
        "import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url={url!r}, api_key=os.environ.get("{_KEY}", "none"))\n'
        f"messages = {_literal(body['messages'], 0)}\n"
        f"answer = client.chat.completions.create(\n{options}    messages=messages,\n)\n"
        "message = answer.choices[0].message\n"
        "print(message.content or message.tool_calls)\n"
    )
    return Export(text=script, suffix=".py", media_type="text/x-python; charset=utf-8")


def _call(app: App, file: sqlite3.Connection, user_id: str, chat_id: str) -> tuple[str, dict[str, Any]]:
    """The chat's title, and the body of the API call for what the model was asked last. Raises NotFound; Refused where nothing
    was asked, or a picture."""
    chat = chat_rows.find(file, user_id, chat_id)
    path = [] if chat.leaf_id is None else message_rows.path(file, chat.leaf_id)
    last_id = next((row["id"] for row in reversed(path) if row["role"] != "assistant"), None)
    if last_id is None:
        raise Refused("there is no question in this chat that could be asked again", status=409, code="nothing_to_ask")
    conversation: Conversation = read_conversation(file, chat.system, last_id)
    if conversation.images:
        raise Refused("the chat has pictures, which the call could not send", status=409, code="has_images")
    model = app.model_of(chat.model)
    options = _options(chat.settings, has_choice=_may_choose(app.server.registry, model))
    return chat.title, {"model": model, "messages": conversation.messages, **options}


def _may_choose(registry: Registry, model: str) -> bool:
    """Whether a model may be told how to think, as far as that is known."""
    offered = next((one for name, one in registry.models.items() if model == name or model in one.adapters), None)
    return offered is None or offered.llm is None or thinking_choice(offered.llm) != "none"


def _options(settings: Settings, *, has_choice: bool) -> dict[str, Any]:
    """Settings as fields of /v1/chat/completions; without the thinking ones for a model that has no choice."""
    options = settings.sampling()
    if has_choice and settings.mode in ("fast", "thinking"):
        options["enable_thinking"] = settings.mode == "thinking"
    if has_choice and settings.thinking_budget is not None and settings.mode != "fast":
        options["thinking_budget"] = settings.thinking_budget
    if settings.tools:
        options["tools"] = settings.tools
    if settings.json_schema is not None:
        schema = {"name": "answer", "schema": settings.json_schema}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    return options


def _message_text(message: MessageCopy) -> str:
    when = datetime.fromtimestamp(message.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    model = f", {_one_line(message.model)}" if message.model else ""
    parts = [f"## {_HEADINGS[message.role]} ({when} UTC{model})"]
    parts.extend(f"*File: {_one_line(file.name)}, {len(file.text):,} characters*" for file in message.files)
    if message.thoughts:
        parts.append(f"<details>\n<summary>Thoughts</summary>\n\n{message.thoughts.strip()}\n\n</details>")
    if message.content:
        parts.append(message.content.strip())
    parts.extend(fenced(f"Call of `{call.name}`:\n", call.arguments) for call in message.tool_calls)
    if message.error:
        parts.append(f"*{message.error}*")
    return "\n\n".join(parts)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _literal(value: object, indent: int) -> str:
    """A value as Python source, its later lines indented."""
    text = pprint.pformat(value, width=110, sort_dicts=False)
    return text.replace("\n", "\n" + " " * indent)  # strings have their line feeds escaped


EXPORT_ROUTES: Final[AppTable] = (("GET", "/chats/{id}/export", export_chat),)
