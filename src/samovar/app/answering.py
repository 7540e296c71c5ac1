"""An answer as a job of the server: it goes on whoever follows it, and is saved while it grows."""

import asyncio
import time
from typing import Final, NamedTuple

import msgspec

from samovar.app import message_rows
from samovar.app.app import App
from samovar.app.codes import LOOP, code_of, message_of
from samovar.app.database import new_id
from samovar.app.live import Live
from samovar.app.prompting import chat_ask, continue_ask, read_conversation
from samovar.app.shapes import DEFAULT_ANSWER_TOKENS, Chat, Message, Stats, Status, to_json
from samovar.app.titles import Titling, wants_title
from samovar.app.users import User
from samovar.engine.request import FinishReason
from samovar.errors import EngineFailed, StoreError
from samovar.llm.result import Result
from samovar.serving.chat import Answers, start
from samovar.serving.failures import failure_of

_SAVE_S: Final = 0.4
_RETRY_S: Final = 10.0
_ENDINGS: Final[dict[FinishReason | str, Status]] = {"stop": "done", "length": "length"}


class Ending(NamedTuple):
    """How an answer ended; `error` is for people, `code` for programs."""

    status: Status
    error: str | None = None
    code: str | None = None


_LOOP: Final = Ending("stopped", "the answer went round in circles, and was ended", LOOP)


class Answering:
    """The job that writes one message. `is_continued` goes on with the text that it has."""

    def __init__(self, app: App, user: User, chat: Chat, message: Message, *, is_continued: bool = False) -> None:
        self._app, self._user, self._chat, self._message, self._is_continued = app, user, chat, message, is_continued
        self._live = Live(message)
        self._started, self._is_given_up = time.perf_counter(), False
        self._answers: Answers | None = None
        self._unsaved: StoreError | None = None
        self._n_saved, self._model = 0, message.model

    def begin(self) -> None:
        """Start it; from here on its message is found among the live ones."""
        self._app.live[self._message.id] = self._live
        self._app.jobs.begin(self._live.job_id, self)
        self._app.tell_message(self._user.id, self._message)

    def give_up(self) -> bool:
        """Its user wants no more of it; what is there stays."""
        self._is_given_up = True
        return True

    async def run(self) -> None:
        """Write the message to its end, whatever that is. It is told to those who follow once it is saved."""
        try:
            with self._app.server.drain.held():
                saving = asyncio.create_task(self._save_often(asyncio.current_task()))
                try:
                    ending = await self._write()
                except asyncio.CancelledError:
                    ending = self._cancelled()
                except Exception as caught:  # whatever it is, it ends this message, and has to be told there
                    ending = self._failed(caught)
                finally:
                    saving.cancel()
                message = self._ended(ending)
                is_saved = await self._save_end(message)
            if not is_saved:
                await self._save_later(message)
        finally:
            self._forget_live()
            if not self._live.is_over:  # the server ends, or it is deleted, while the last state is being written
                self._live.end(self._live.message)
        if await wants_title(self._app, message):
            self._app.jobs.begin(new_id(), Titling(self._app, self._user, self._chat.id))

    async def _write(self) -> Ending:
        """Have the model write; how that ended."""
        app, message = self._app, self._message
        settings, system = message.settings, self._chat.system
        assert settings is not None
        model = app.model_of(message.model)
        conversation = await app.database.read(lambda file: read_conversation(file, system, message.parent_id))
        async with app.server.registry.use(model) as opened:
            self._model = opened.name
            if self._is_continued:
                ask = continue_ask(model, conversation, settings, message)
            else:
                ask = await asyncio.to_thread(chat_ask, opened.llm, model, conversation, settings)
            self._answers = answers = await start(app.server.registry, app.server.limits, self._user.caller(), ask)
            answers.on_close = lambda: app.server.metrics.observe_answers(answers, self._started)
            try:
                is_cut = await self._follow(answers, is_bounded=settings.max_tokens is None)
            finally:
                await answers.aclose()
        reason = "length" if is_cut else answers.results[0].finish_reason
        return _LOOP if reason == "loop" else Ending(_ENDINGS.get(reason, "done"))

    async def _follow(self, answers: Answers, *, is_bounded: bool) -> bool:
        """Take in what the model writes; whether that was cut, being longer than an answer may be that has no bound of its own.

        A piece is a token or a few, by which the bound may be missed.
        """
        async for _, delta in answers:
            self._live.push(delta)
            if is_bounded and answers.n_tokens - answers.n_thinking >= DEFAULT_ANSWER_TOKENS:
                return True
        return False

    def _cancelled(self) -> Ending:
        if self._unsaved is not None:
            return _unsaved(self._unsaved)
        return Ending("stopped" if self._is_given_up else "interrupted")

    def _failed(self, error: Exception) -> Ending:
        failure = self._app.server.failed(error)
        is_end = isinstance(error, EngineFailed) and self._app.server.drain.is_over
        return Ending("interrupted") if is_end else Ending("failed", message_of(error, failure), code_of(failure))

    async def _save_often(self, writing: "asyncio.Task[object] | None") -> None:
        """Keep what is there in the database. Where that fails, the answer ends: it would be lost at the next reload."""
        while True:
            await asyncio.sleep(_SAVE_S)
            if self._live.n_changes == self._n_saved:
                continue
            n_changes, message = self._live.n_changes, self._live.message
            try:
                await self._save(message)
            except StoreError as error:
                self._unsaved = error
                if writing is not None:
                    writing.cancel()
                return
            self._n_saved = n_changes

    async def _save(self, message: Message) -> None:
        values = {
            "content": message.content,
            "thoughts": message.thoughts,
            "tool_calls_json": to_json(message.tool_calls),
            "status": message.status,
            "error": message.error,
            "error_code": message.error_code,
            "model": message.model,
            "stats_json": None if message.stats is None else to_json(message.stats),
            "is_json_valid": message.is_json_valid,
        }
        await self._app.database.write(lambda file: message_rows.update(file, message.id, values))

    async def _save_end(self, message: Message) -> bool:
        """Save the last state and tell everybody; whether it could be saved."""
        try:
            await self._save(message)
        except StoreError as error:
            status, told, code = _unsaved(error)
            self._live.end(msgspec.structs.replace(message, status=status, error=told, error_code=code))
            self._app.tell_message(self._user.id, self._live.message)
            return False
        self._live.end(message)
        self._forget_live()
        self._app.tell_message(self._user.id, message)
        await self._app.tell_chat(self._user.id, self._chat.id)
        return True

    def _forget_live(self) -> None:
        if self._app.live.get(self._message.id) is self._live:  # and not of a job that went on with the message
            del self._app.live[self._message.id]

    async def _save_later(self, message: Message) -> None:
        """Until it is saved, or the server ends, the message is in memory alone."""
        message = self._live.message
        while True:
            await asyncio.sleep(_RETRY_S)
            try:
                await self._save(message)
            except StoreError:
                continue
            return

    def _ended(self, ending: Ending) -> Message:
        results = [] if self._answers is None else self._answers.results
        message, settings = self._live.message, self._message.settings
        has_schema = settings is not None and settings.json_schema is not None and not message.tool_calls
        is_valid = bool(results and results[0].is_grammar_complete) if has_schema else None
        return msgspec.structs.replace(
            message,
            status=ending.status,
            error=ending.error,
            error_code=ending.code,
            model=self._model,
            stats=self._stats(results[0]) if results else self._message.stats,
            is_json_valid=is_valid,
        )

    def _stats(self, result: Result) -> Stats:
        """What it took; a continued answer's tokens and times are added to those that it had."""
        assert self._answers is not None
        usage, first, decode_s = result.usage, self._answers.pace.first, result.timing.decode_s
        before = self._message.stats or Stats()
        first_ms = None if first is None else _ms(first - self._started)
        return Stats(
            n_prompt=usage.n_prompt,
            n_cached=usage.n_cached,
            n_completion=usage.n_completion + (before.n_completion or 0),
            n_thinking=usage.n_thinking + (before.n_thinking or 0),
            first_token_ms=first_ms if before.first_token_ms is None else before.first_token_ms,
            thinking_ms=_ms(self._live.thinking_s) or before.thinking_ms,
            total_ms=_ms(time.perf_counter() - self._started) + (before.total_ms or 0),
            tokens_per_s=round((usage.n_completion - 1) / decode_s, 2) if decode_s > 0 and usage.n_completion > 1 else None,
            max_context=self._answers.llm.max_context,
            seed=result.seed,
        )


def _unsaved(error: StoreError) -> Ending:
    return Ending("failed", str(error), code_of(failure_of(error)))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


async def stop(app: App, message_ids: list[str]) -> None:
    """End answers that are being written, and wait for that; what is there of them stays."""
    for message_id in message_ids:
        if (live := app.live.get(message_id)) is not None:
            await app.jobs.cancel(live.job_id)
