"""What is remembered of one request while it lasts, for the log and the metrics: never a word of its prompt or answer."""

import time
from dataclasses import dataclass, field

from starlette.requests import Request

from samovar.serving.caller import ANYONE, Caller
from samovar.serving.chat import Answers


@dataclass(slots=True, kw_only=True)
class Record:
    """A request from its first byte to its last. `route` is the pattern that its path fits, empty for none."""

    request_id: str
    method: str
    path: str
    client: str
    route: str = ""
    caller: Caller = ANYONE
    status: int = 0
    is_client_gone: bool = False
    answers: Answers | None = None
    model: str = ""
    n_prompt: int = 0
    n_completion: int = 0
    n_cached: int = 0
    n_reasoning: int = 0
    yarn_factor: int = 1
    started: float = field(default_factory=time.perf_counter)
    ended: float = 0.0

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the request's arrival to the first piece of an answer; None where there was none."""
        first = None if self.answers is None else self.answers.pace.first
        return None if first is None else first - self.started

    @property
    def duration_s(self) -> float:
        """Seconds in all."""
        return self.ended - self.started

    def end(self) -> None:
        """Add up what the answers took."""
        self.ended = time.perf_counter()
        if self.answers is not None:
            usages = self.answers.usages
            self.model, self.n_prompt = self.answers.model, self.answers.n_prompt
            self.n_completion = sum(usage.n_completion for usage in usages)
            self.n_reasoning = sum(usage.n_thinking for usage in usages)
            self.n_cached = n_cached(self.answers)
            self.yarn_factor = max((usage.yarn_factor for usage in usages), default=1)


def n_cached(answers: Answers) -> int:
    """Tokens of the prompts that were found in the cache, those of answers to the same prompt counted once."""
    n_each = len(answers.usages) // len(answers.prompts)
    return sum(usage.n_cached for usage in answers.usages[:: max(1, n_each)])


def record_of(request: Request) -> Record:
    """The record of a request. A route that starts no answers says here which model it used, and for how many tokens."""
    record = request.state.record
    assert isinstance(record, Record)
    return record
