"""What a caller asks of the engine, and what it reports back. Plain frozen data."""

import math
import time
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from samovar.engine.prefix_cache import Break, OtherFactor
from samovar.errors import BadRequest, PromptTooLong, SamovarError
from samovar.text.grammar_spec import GrammarSpec

FinishReason = Literal["stop", "length", "cancelled", "deadline", "loop", "error"]
"""Why a request ended: a stop token (or string), `max_tokens` or the context, the caller, its deadline, an answer that went
round in circles, an error."""

ThinkingStopped = Literal["natural", "budget", "loop", "tool", "request", "length"]
"""What ended the thoughts: the model, the budget, the loop detector, a tool call, the caller, or `max_tokens` (which keeps a
reserve for the answer)."""

Task = Literal["generate", "prefill", "embed"]
"""What a request is for: to be continued; to be computed and kept; to be made into a vector."""

MAX_SEED = (1 << 63) - 1
MAX_LOGPROBS = 20  # as OpenAI's API has it
MAX_PRIORITY = 100
_MAX_PROMPT_LOGIT_ROWS = 64  # of a step, for prompts whose logits are wanted: a row of Qwen3's vocabulary has 600 kB


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. Out-of-range values raise BadRequest naming the parameter.

    Order: grammar, logit_bias, penalties, temperature, top_k, top_p, min_p, as vLLM and transformers apply them (vLLM takes
    min_p before top_k). `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. `logit_bias` holds pairs of a
    token id and what is added to its logit, from -100 to 100, as OpenAI has it. `repetition_penalty` divides positive
    and multiplies negative logits of all tokens seen, prompt included; `presence_penalty` and `frequency_penalty` subtract
    for tokens generated (OpenAI's definitions). `max_tokens` None means: until the context is full. No token of `stop_ids` is
    chosen before `min_tokens` others were.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 0.9
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    max_tokens: int | None = None
    min_tokens: int = 0
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check every value."""
        _check_number("temperature", self.temperature, 0, 100)
        _check_number("top_p", self.top_p, 0, 1, excludes_low=True)
        _check_number("min_p", self.min_p, 0, 1)
        _check_number("repetition_penalty", self.repetition_penalty, 0, 100, excludes_low=True)
        _check_number("presence_penalty", self.presence_penalty, -2, 2)
        _check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        for token_id, bias in self.logit_bias:
            _check_whole("logit_bias", token_id, 0, 1 << 31)
            _check_number("logit_bias", bias, -100, 100)
        if len({token_id for token_id, _ in self.logit_bias}) < len(self.logit_bias):
            raise BadRequest("logit_bias names a token id twice; expected one value for each", param="logit_bias")
        _check_whole("top_k", self.top_k, 0, 1 << 31)
        _check_whole("seed", self.seed, 0, MAX_SEED)
        if self.max_tokens is not None:
            _check_whole("max_tokens", self.max_tokens, 1, 1 << 31)
        _check_whole("min_tokens", self.min_tokens, 0, self.max_tokens or 1 << 31)

    @property
    def has_penalty(self) -> bool:
        """Whether it matters which tokens came before."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


class Grammar(Protocol):
    """A matcher that follows one answer and says which tokens may come next. It belongs to one sequence."""

    def mask(self, allowed_W: NDArray[np.uint32], /) -> None:
        """Write the tokens allowed next: bit i % 32 of word i // 32 for token id i, over a vocabulary of up to 32 W tokens."""
        ...

    def accept(self, token_id: int, /) -> None:
        """Step on by a token that was chosen."""
        ...

    @property
    def is_accepting(self) -> bool:
        """Whether the answer may end here."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How a request may think. `is_open` when the prompt ends inside thoughts, `may_open` when the answer may begin with some.

    `budget` bounds the tokens of the thoughts, the text that ends them included; 0 means none at all, None as many as
    `max_tokens` leaves room for.
    """

    is_open: bool
    may_open: bool = True
    budget: int | None = None

    def __post_init__(self) -> None:
        """Check the budget."""
        if self.budget is not None:
            _check_whole("thinking_budget", self.budget, 0, 1 << 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt and how to continue it. `prompt_ids` must not be empty.

    A `grammar` restricts the answer, from the end of the thoughts on. `logprobs` asks for the log-probability of each token
    generated, and of that many of the likeliest beside it; `prompt_logprobs` for the same of the prompt's tokens from position
    `prompt_logprobs_from` on. `logit_ids` are tokens whose logits after the prompt are wanted. Requests of one `tenant` share
    what was computed for their prompts, and nothing with others. Those of higher `priority` go first; `deadline_s` bounds the
    time from submission to the end. `adapter` names a LoRA adapter that is loaded. `stops_loops` ends what goes round in
    circles. `max_context` bounds prompt and answer together.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    task: Task = "generate"
    grammar: GrammarSpec | None = None
    thinking: Thinking | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprobs_from: int = 1
    logit_ids: tuple[int, ...] = ()
    tenant: str = ""
    adapter: str | None = None
    priority: int = 0
    deadline_s: float | None = None
    stops_loops: bool = True
    max_context: int | None = None

    def __post_init__(self) -> None:
        """Check what does not depend on the model."""
        for name in ("logprobs", "prompt_logprobs"):
            if (n := getattr(self, name)) is not None:
                _check_whole(name, n, 0, MAX_LOGPROBS)
        if self.task != "generate":
            wanted = {
                "grammar": self.grammar,
                "thinking": self.thinking,
                "logprobs": self.logprobs,
                "logit_ids": self.logit_ids,
            }
            if self.task == "embed":
                wanted["prompt_logprobs"] = self.prompt_logprobs
            if unread := [name for name, value in wanted.items() if value not in (None, ())]:
                raise BadRequest(f"{unread[0]} is given, which a request to {self.task} has no use for", param=unread[0])
        _check_whole("prompt_logprobs_from", self.prompt_logprobs_from, 1, 1 << 31)
        _check_name("tenant", self.tenant)
        if self.adapter is not None:
            _check_name("adapter", self.adapter)
        if self.max_context is not None:
            _check_whole("max_context", self.max_context, 1, 1 << 31)
        _check_whole("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        if self.deadline_s is not None:
            _check_number("deadline_s", self.deadline_s, 0, 1e9, excludes_low=True)

    @property
    def max_chunk(self) -> int | None:
        """The tokens of a step to which the request has to be cut, for the logits it asks for."""
        return None if self.prompt_logprobs is None else _MAX_PROMPT_LOGIT_ROWS


@dataclass(frozen=True, slots=True)
class Logprob:
    """Natural log-probability of a token under the model's own distribution, before any sampling setting, and the likeliest
    tokens there, best first, as pairs (id, log-probability)."""

    value: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a request ended, and what it took. `error` goes with the reason "error".

    `n_cached` of the prompt's tokens were not computed again; `parting` says where the prompt parted from what was cached.
    `n_thinking` counts the tokens of the thoughts without their tags. `is_grammar_complete` says whether the answer matches its
    grammar as a whole, where there is one. `yarn_factor` is 1 for the model's own rotation; `other_factor` is what was cached
    with another one.
    """

    reason: FinishReason
    error: SamovarError | None = None
    n_cached: int = 0
    parting: Break | None = None
    n_thinking: int = 0
    thinking_stopped: ThinkingStopped | None = None
    n_drafted: int = 0
    n_accepted: int = 0
    n_preempted: int = 0
    yarn_factor: int = 1
    other_factor: OtherFactor | None = None
    is_grammar_complete: bool | None = None
    prompt_logprobs: tuple[Logprob, ...] = ()
    logits: tuple[float, ...] = ()
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a step brought a request: tokens, with `logprobs` of each where they were asked for (None for a token that was not
    chosen but put there), and the `ending` with the last. `made_s` is when, by time.perf_counter."""

    sequence_id: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Logprob | None, ...] = ()
    ending: Ending | None = None
    made_s: float = field(default_factory=time.perf_counter, compare=False)


def check_request(request: Request, max_context: int, vocab_size: int, n_to_come: int = 1) -> None:
    """Raises PromptTooLong or BadRequest for a request that no model of this context and vocabulary can serve."""
    ids = request.prompt_ids
    if not ids:
        raise BadRequest("the prompt is empty; expected at least one token", param="prompt")
    if len(ids) + (n_to_come if request.task == "generate" else 0) > max_context:
        raise PromptTooLong(len(ids), max_context)
    odd = tuple(kind for kind in set(map(type, ids)) if kind is bool or not issubclass(kind, Integral))
    if odd:  # a prompt has few types and many ids
        found = next(i for i in ids if isinstance(i, odd))
        raise BadRequest(f"token ids hold {found!r}; expected whole numbers", param="prompt")
    for name, some in (
        ("prompt", ids),
        ("logit_bias", [i for i, _ in request.sampling.logit_bias]),
        ("logit_ids", request.logit_ids),
        ("stop_ids", request.sampling.stop_ids),
    ):
        if beyond := [i for i in (min(some, default=0), max(some, default=0)) if not 0 <= i < vocab_size]:
            raise BadRequest(
                f"{name}: token id {beyond[0]} is not in the vocabulary; expected 0 to {vocab_size - 1}", param=name
            )


def _check_number(name: str, value: object, low: float, high: float, *, excludes_low: bool = False) -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (excludes_low and value == low):  # type: ignore[operator]
        bound = f"above {low} and at most {high}" if excludes_low else f"from {low} to {high}"
        raise BadRequest(f"{name} is {value!r}; expected a number {bound}", param=name)


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise BadRequest(f"{name} is {value!r}; expected a text", param=name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{name} is {value!r}, which is no valid Unicode; expected a text", param=name) from None


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise BadRequest(f"{name} is {value!r}; expected a whole number from {low} to {high}", param=name)
