"""A request in progress: its tokens, how many are computed, and the pages that hold their keys and values."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from samovar.engine.prefix_cache import Break, Node, OtherFactor
from samovar.engine.realm import Realm
from samovar.engine.request import FinishReason, Grammar, Logprob, Request
from samovar.engine.speculate import Speculation
from samovar.engine.thinking import Control
from samovar.engine.token_counts import TokenCounts
from samovar.errors import SamovarError


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """Changes as the engine works, and is owned by the engine alone.

    `token_ids` is the prompt followed by what was generated; the keys and values of the first `n_computed` of them are in
    `pages`, in order, of which the first `n_shared` tokens' are in the prefix cache up to `node`. `n_cached` of the prompt's
    tokens were computed by earlier requests. `counts` follow `token_ids` as far as penalties have asked for them. `speculation`
    guesses ahead, `matcher` follows the answer where it has a grammar, `control` watches thoughts and loops. `leader` has the
    same prompt, whose pages this one waits for. Tokens up to `n_reported` were told to the caller; `logprobs` are those of the
    others. `state` is the slot of its recurrent state, in models that have such; a copy of it after `n_kept` tokens is kept.
    `factor` is that of YaRN (`models.long_context`), the same from the first token to the last.
    """

    request: Request
    token_ids: list[int]
    id: int = 0
    rank: float = 0.0
    deadline: float | None = None
    leader: "Sequence | None" = None
    n_computed: int = 0
    n_cached: int = 0
    n_shared: int = 0
    n_preempted: int = 0
    parting: Break | None = None
    factor: int = 1
    other_factor: OtherFactor | None = None
    pages: list[int] = field(default_factory=list)
    node: Node | None = None
    state: int | None = None
    n_kept: int = 0
    finish_reason: FinishReason | None = None
    error: SamovarError | None = None
    counts: TokenCounts = field(default_factory=TokenCounts)
    speculation: Speculation = field(default_factory=lambda: Speculation(()))
    matcher: Grammar | None = None
    control: Control = field(default_factory=Control)
    max_tokens: int = 1 << 31
    n_reported: int = 0
    logprobs: list[Logprob | None] = field(default_factory=list)
    prompt_logprobs: list[Logprob] = field(default_factory=list)
    logits: tuple[float, ...] = ()
    vector: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """The prompt is no news."""
        self.n_reported = self.n_prompt

    @property
    def realm(self) -> Realm:
        """Where in the prefix cache it looks and is kept."""
        return self.request.tenant, self.request.adapter or "", self.factor

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def n_behind(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.token_ids) - self.n_computed

    @property
    def n_generated(self) -> int:
        """Tokens added to the prompt."""
        return len(self.token_ids) - self.n_prompt

    @property
    def is_guided(self) -> bool:
        """A grammar says what the next token may be."""
        return self.matcher is not None and self.control.is_answering

    @property
    def forbidden_ids(self) -> tuple[int, ...]:
        """Tokens that may not be chosen next: the stop tokens of an answer that is too short, and in thoughts before a guided
        answer whatever would end them without one."""
        stop_ids, tokens = self.request.sampling.stop_ids, self.control.tokens
        if self.request.grammar is not None and self.control.is_thinking and tokens is not None:
            return stop_ids if tokens.tool_call_id is None else (*stop_ids, tokens.tool_call_id)
        return stop_ids if self.n_generated < self.request.sampling.min_tokens else ()

    @property
    def is_ready(self) -> bool:
        """It may run: the one with the same prompt has computed it, or is gone."""
        leader = self.leader
        return leader is None or leader.is_finished or leader.n_computed >= leader.n_prompt

    @property
    def is_finished(self) -> bool:
        """No more tokens will come."""
        return self.finish_reason is not None
