"""Requests to one prompt that are checked, rendered and encoded, and can be handed to the engine in one of several ways."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from samovar.engine.client import EngineClient
from samovar.errors import BadRequest, PromptTooLong
from samovar.llm.answer import Answer
from samovar.llm.result import Result
from samovar.llm.stream import OnEnd, Stream, run_together

if TYPE_CHECKING:
    import asyncio

    from samovar.llm.async_stream import AsyncStream


class Prepared:
    """One answer to a prompt, or several, before any of it is computed. `on_end` is told the first of them once it has ended.

    `thinking` says whether the model thinks first; None for one that cannot. Each of its verbs may be used once. All raise
    PromptTooLong or BadRequest for what the engine cannot serve, Overloaded when too many requests wait.
    """

    def __init__(
        self,
        client: EngineClient,
        answers: Sequence[Answer],
        on_end: OnEnd | None = None,
        *,
        thinking: bool | None = None,
    ) -> None:
        self._client, self.answers, self._on_end, self.thinking = client, answers, on_end, thinking

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt."""
        return self.answers[0].request.prompt_ids

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_ids)

    def check(self) -> None:
        """Raises what is wrong with the requests for this engine."""
        self._client.check(self.answers[0].request)  # they differ in their seeds alone

    def bound(self, n_context: int) -> None:
        """Let prompt and answer have that many tokens together at most. Raises PromptTooLong where there is no room."""
        if self.n_prompt >= n_context:
            raise PromptTooLong(self.n_prompt, n_context)
        for answer in self.answers:
            answer.request = replace(answer.request, max_context=n_context)

    def run(self) -> Result:
        """Generate all answers. Raises the error that ended one."""
        run_together(self._client, [self.answers])
        for answer in self.answers:
            if answer.error is not None:
                raise answer.error
        if self._on_end is not None:
            self._on_end(self.answers[0])
        return joined(self.answers)

    def stream(self) -> Stream:
        """The one answer, piece by piece."""
        return Stream(self._client, self._only(), on_end=self._on_end)

    def astream(self) -> "AsyncStream":
        """The one answer, for `async for`; to be called where an event loop runs."""
        self._only()
        return self.astreams()[0]

    def astreams(self, loop: "asyncio.AbstractEventLoop | None" = None) -> "list[AsyncStream]":
        """All answers, each a stream of its own; to be called where an event loop runs, or for a `loop` that runs elsewhere.

        The prompt is computed once.
        """
        from samovar.llm.async_stream import AsyncStream  # asyncio takes time to import

        first, *others = self.answers
        leader = AsyncStream(self._client, first, on_end=self._on_end, loop=loop)
        return [leader, *(AsyncStream(self._client, answer, leader=leader.ticket, loop=loop) for answer in others)]

    def _only(self) -> Answer:
        if len(self.answers) > 1:
            raise BadRequest("a stream is one answer; for several, open a stream for each, with seeds of their own", param="n")
        return self.answers[0]


def run_all(client: EngineClient, all_prepared: Sequence[Prepared]) -> list[Result]:
    """Generate the answers to several prompts together. One that fails says so in its result."""
    groups = [prepared.answers for prepared in all_prepared]
    run_together(client, groups)
    return [joined(group) for group in groups]


def joined(answers: Sequence[Answer]) -> Result:
    """The first of several answers to one prompt, with the others as alternatives."""
    first, *others = (answer.result() for answer in answers)
    return replace(first, alternatives=tuple(others))
