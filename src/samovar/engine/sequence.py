"""A request in progress: its tokens, how many are computed, and the pages that hold their keys and values."""

from dataclasses import dataclass, field

from samovar.engine.request import FinishReason, Request
from samovar.engine.speculate import Speculation
from samovar.engine.token_counts import TokenCounts


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """Changes as the engine works, and is owned by the engine alone.

    `token_ids` is the prompt followed by what was generated; the keys and values of the first `n_computed` of them are in
    `pages`, in order. `n_cached` of the prompt's tokens were computed by an earlier request. `counts` follow `token_ids` as
    far as penalties have asked for them. `speculation` guesses ahead.
    """

    request: Request
    token_ids: list[int]
    n_computed: int = 0
    n_cached: int = 0
    pages: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    counts: TokenCounts = field(default_factory=TokenCounts)
    speculation: Speculation = field(default_factory=lambda: Speculation(()))

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
    def is_finished(self) -> bool:
        """No more tokens will come."""
        return self.finish_reason is not None
