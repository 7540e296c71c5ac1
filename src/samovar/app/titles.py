"""Titles of chats: the beginning of the first message at once, then what the model makes of the first exchange."""

import contextlib
import re
import sqlite3
from typing import Final

from samovar.app import chat_rows
from samovar.app.app import App
from samovar.app.prompting import title_ask
from samovar.app.shapes import Message
from samovar.app.users import User
from samovar.errors import BadRequest, SamovarError
from samovar.serving.chat import start

MAX_TITLE_CHARS: Final = 120
_MAX_FIRST_CHARS: Final = 60
_MAX_MODEL_CHARS: Final = 80
_MAX_WORDS: Final = 10
_ASKED_CHARS: Final = 600
_TASK: Final = "Write a title of two to six words, in the same language, for this message:"
_EXAMPLES: Final = (  # small models do what they are shown rather than what they are told
    ("How long do I have to boil an egg so that the yolk stays soft?", "Boiling soft eggs"),
    ("¿Puedes escribir un poema sobre el mar para mi abuela?", "Poema sobre el mar"),
    ("my python script prints None instead of the result, why", "Python function returning None"),
)
_NO_TITLE: Final = re.compile(
    r"(?:i'?m |i am |we'?re )?(?:so |very )?sorry|i (?:can'?t|cannot|apologi[sz]e|don'?t)|as an ai|sure[,!]|"
    r"here(?:'s| is| are)|es tut mir leid|entschuldig|lo siento|(?:je suis )?désolé|desculpe|抱歉|对不起|很抱歉|عذر|آسف|"
    r".*(?:two to six words|write a title|the same language|this message)",
    re.IGNORECASE,
)
_MARKS: Final = re.compile(
    r"^(?:\s|[#*>`\"'“”„«»「」_-]|(?:title|titel|titre|título|标题|タイトル|العنوان)\s*[:：])+", re.IGNORECASE
)


def first_title(content: str) -> str:
    """A title out of a first message's beginning."""
    line = next((line.strip() for line in content.splitlines() if line.strip()), "")
    line = " ".join(line.split())
    if len(line) <= _MAX_FIRST_CHARS:
        return line
    cut = line[:_MAX_FIRST_CHARS]
    return (cut.rsplit(" ", 1)[0] if " " in cut[_MAX_FIRST_CHARS // 2 :] else cut) + "…"


def cleaned(text: str) -> str:
    """A model's title without what small models put around it; empty where nothing is left."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    line = " ".join(_MARKS.sub("", line).rstrip(" .*_`\"'“”«»「」#").split())
    return line if len(line) <= _MAX_MODEL_CHARS else line[:_MAX_MODEL_CHARS].rsplit(" ", 1)[0] + "…"


def title_of(text: str, asked: str, *, is_cut: bool) -> str:
    """The title in what a model wrote. Where that is none, being cut, an excuse, the task or an example, it is the beginning of
    what was asked."""
    title = cleaned(text)
    is_short = 0 < len(title.split()) <= _MAX_WORDS and not title.endswith("…")
    is_example = title.casefold() in (example.casefold() for _, example in _EXAMPLES)
    is_none = is_example or _NO_TITLE.match(title.replace("\u2019", "'")) is not None
    return title if is_short and not is_cut and not is_none else first_title(asked)


async def wants_title(app: App, message: Message) -> bool:
    """Whether a message is its chat's first answer, and the chat has no title of its user's own."""
    if message.status not in ("done", "length", "stopped"):
        return False

    def read(file: sqlite3.Connection) -> bool:
        row = file.execute(
            "SELECT is_title_own, (SELECT count(*) FROM messages m WHERE m.chat_id = c.id AND m.role = 'assistant') AS n "
            "FROM chats c WHERE c.id = ?",
            (message.chat_id,),
        ).fetchone()
        return row is not None and not row["is_title_own"] and row["n"] == 1

    return await app.database.read(read)


class Titling:
    """The job that has the model name a chat."""

    def __init__(self, app: App, user: User, chat_id: str) -> None:
        self._app, self._user, self._chat_id = app, user, chat_id

    async def run(self) -> None:
        """Name it; where that fails the chat keeps the title that it has."""
        with contextlib.suppress(SamovarError):
            await make_title(self._app, self._user, self._chat_id)

    def give_up(self) -> bool:
        """Nothing has to be kept of it."""
        return True


async def make_title(app: App, user: User, chat_id: str) -> str:
    """Have the model name a chat, and keep it; the title. Raises NotFound, BadRequest for an empty chat, and what asking the
    model raises."""

    def read(file: sqlite3.Connection) -> tuple[str, list[str]]:
        chat = chat_rows.find(file, user.id, chat_id)
        query = (
            "SELECT content FROM messages WHERE chat_id = ? AND role = ? AND trim(content) <> '' AND status <> 'writing' "
            "ORDER BY place LIMIT 1"
        )
        found = [file.execute(query, (chat_id, role)).fetchone() for role in ("user", "assistant")]
        return app.model_of(chat.model), ["" if row is None else row["content"] for row in found]

    model, (asked, answered) = await app.database.read(read)
    if not (asked or answered):
        raise BadRequest("the chat has no messages yet, and nothing to make a title of")
    messages = _messages((asked.strip() or answered.strip())[:_ASKED_CHARS])
    async with app.server.registry.use(model) as opened:
        ask = title_ask(opened.llm, model, messages)
        answers = await start(app.server.registry, app.server.limits, user.caller(), ask)
        try:
            (result,) = await answers.fold()
        finally:
            await answers.aclose()
    title = title_of(result.text, asked or answered, is_cut=result.finish_reason != "stop")
    await app.database.write(lambda file: chat_rows.update(file, chat_id, {"title": title}))
    await app.tell_chat(user.id, chat_id)
    return title


def _messages(text: str) -> list[dict[str, object]]:
    """The examples as turns before the one that is asked for."""
    found = list[dict[str, object]]()
    for example, title in _EXAMPLES:
        found.append({"role": "user", "content": f"{_TASK}\n\n{example}"})
        found.append({"role": "assistant", "content": title})
    return [*found, {"role": "user", "content": f"{_TASK}\n\n{text}"}]
