"""What an answer is: its text and thoughts, its tokens, why it ended, what it cost. A full answer is a fold over its stream."""

from dataclasses import dataclass
from typing import Literal

from samovar.engine.request import FinishReason, Logprob, ThinkingStopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens. `n_thinking` is part of `n_completion`, `n_cached` part of `n_prompt`.

    `n_drafted` were guessed ahead while decoding; `n_accepted` of those were right, and are part of `n_completion`.
    `yarn_factor` is 1 where the prompt and what was asked for fit into the native context; 2 or 4 beyond it
    (`models.long_context`).
    """

    n_prompt: int
    n_completion: int
    n_thinking: int
    n_cached: int
    n_drafted: int = 0
    n_accepted: int = 0
    yarn_factor: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds until the first token, and from there to the last."""

    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model wants made. `arguments` is a JSON object, as text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One answer. `text` of a chat is the answer alone, without thoughts and `tool_calls`, of `generate` the raw text.

    `reasoning` is None where there were no thoughts, as is `thinking_stopped`, which says what ended them. `token_ids` are
    those generated, an end-of-turn token included. `finish_reason` is "unfinished" in a result taken while its stream still
    runs; `stop` is the stop string that ended the answer, `error` what did where the reason is "error". `is_grammar_complete`
    says whether the answer matches its grammar as a whole, where there is one. `logprobs` has one entry a token, None for one
    that was put there and not chosen; `prompt_logprobs` one for each token of the prompt but the first. Where a prompt begins
    like a cached one and then parts from it, or was cached with another YaRN factor, `cache_miss_reason` says so. `seed` is the
    one that was used, so that the answer can be had again. `alternatives` are the other answers where several were asked for.
    """

    text: str
    reasoning: str | None
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | Literal["unfinished"]
    usage: Usage
    timing: Timing
    seed: int
    thinking_stopped: ThinkingStopped | None = None
    stop: str | None = None
    error: str | None = None
    is_grammar_complete: bool | None = None
    logprobs: tuple[Logprob | None, ...] | None = None
    prompt_logprobs: tuple[Logprob, ...] | None = None
    cache_miss_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    alternatives: tuple["Result", ...] = ()
