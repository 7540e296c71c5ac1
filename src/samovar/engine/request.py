"""What a caller asks of the engine, and what it reports back. Plain frozen data."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from samovar.errors import BadRequest

FinishReason = Literal["stop", "length", "cancelled"]  # of a sequence that has ended
MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. Out-of-range values raise BadRequest naming the parameter.

    Order: grammar, logit_bias, penalties, temperature, top_k, top_p, min_p, as vLLM and transformers apply them (vLLM takes
    min_p before top_k). `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. `logit_bias` holds pairs of a
    token id and what is added to its logit, from -100 to 100, as OpenAI has it. `repetition_penalty` divides positive
    and multiplies negative logits of all tokens seen, prompt included; `presence_penalty` and `frequency_penalty` subtract
    for tokens generated (OpenAI's definitions). `max_tokens` None means: until the context is full.
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

    @property
    def has_penalty(self) -> bool:
        """Whether it matters which tokens came before."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


class Grammar(Protocol):
    """A matcher that follows one answer and says which tokens may come next. It belongs to one request."""

    def mask(self, allowed_W: NDArray[np.uint32], /) -> None:
        """Write the tokens allowed next: bit i % 32 of word i // 32 for token id i, over a vocabulary of up to 32 W tokens."""
        ...

    def accept(self, token_id: int, /) -> None:
        """Step on by a token that was chosen."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt and how to continue it. `prompt_ids` must not be empty. A `grammar` restricts what may be generated.

    `adapter` names one of the runner's adapters.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    grammar: Grammar | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One generated token of the request at `index` of its batch; `finish_reason` is set on its last."""

    index: int
    token_id: int
    finish_reason: FinishReason | None


def _check_number(name: str, value: object, low: float, high: float, *, excludes_low: bool = False) -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (excludes_low and value == low):  # type: ignore[operator]
        bound = f"above {low} and at most {high}" if excludes_low else f"from {low} to {high}"
        raise BadRequest(f"{name} is {value!r}; expected a number {bound}", param=name)


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise BadRequest(f"{name} is {value!r}; expected a whole number from {low} to {high}", param=name)
