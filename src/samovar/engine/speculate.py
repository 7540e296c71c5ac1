"""Speculation: guess the next tokens, compute them in the pass that is due anyway, and keep those that were right.

A step that computes 1 + k tokens costs less than 1 + k steps, since weights are read once. Row i of its logits follows the
token before it and the first i guesses, and chooses the token at that place as plain decoding would: same penalties, same
random number. As long as the guess is the token chosen, the next row counts too. Rows do not depend on their neighbours, so
the tokens are those of plain decoding, bit for bit; how much is guessed decides the time alone. (The idea: Stern et al., 2018,
arXiv 1811.03115. Rejection sampling as in Leviathan et al., 2023, would keep the distribution and not the tokens.)

How much to guess follows from what rows cost, measured as steps go by, and from how often such guesses were right.
"""

from dataclasses import dataclass, field
from typing import Protocol

from samovar.engine.step_cost import StepCost

MAX_DRAFTS = 15  # a step of 16 rows still takes the kernels' path for few rows
_MIN_GAIN = 1.04  # a smaller one is within what measurements err
_PRIOR_TRIES = 2.0
_FADE = 0.97  # a step


class Drafter(Protocol):
    """Guesses how one sequence goes on."""

    @property
    def priors(self) -> tuple[float, ...]:
        """The share of right tokens to expect of each kind of guess."""
        ...

    @property
    def token_s(self) -> float:
        """Seconds that a guessed token takes."""
        ...

    def look(self, token_ids: list[int]) -> int | None:
        """Which kind of guess there is for what follows `token_ids`; None for none. Ids of earlier calls never change."""
        ...

    def propose(self, token_ids: list[int], n_most: int) -> tuple[int, ...]:
        """The guess that the last `look` found, `n_most` tokens or fewer."""
        ...

    def close(self) -> None:
        """The sequence has ended."""
        ...


@dataclass(slots=True)
class Acceptance:
    """The share of guessed tokens that were right, near `prior` while little is known.

    What was seen fades with every step that has such a guess, used or not. So a kind that was given up is tried again later.
    """

    prior: float
    n_right: float = 0.0
    n_wrong: float = 0.0

    @property
    def rate(self) -> float:
        """The expected share, 0 to 1."""
        return (self.n_right + _PRIOR_TRIES * self.prior) / (self.n_right + self.n_wrong + _PRIOR_TRIES)

    def fade(self) -> None:
        """Let a step pass."""
        self.n_right *= _FADE
        self.n_wrong *= _FADE


@dataclass(slots=True)
class Speculation:
    """The guesses about one sequence: who makes them, how good they were, and how many there were."""

    drafters: tuple[Drafter, ...]
    n_drafted: int = 0
    n_accepted: int = 0
    _tables: tuple[tuple[Acceptance, ...], ...] = field(init=False)
    _current: Acceptance | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Nothing is known yet."""
        self._tables = tuple(tuple(Acceptance(prior) for prior in drafter.priors) for drafter in self.drafters)

    def draft(self, token_ids: list[int], n_most: int, cost: StepCost, n_sequences: int) -> tuple[int, ...]:
        """The tokens to guess in a step of `n_sequences`, each taken to guess as much; () where plain decoding is as fast."""
        self._current = None
        if n_most < 1 or not cost.is_known:
            return ()
        plain_s = cost.seconds(n_sequences) / n_sequences
        best_rate, best = _MIN_GAIN / plain_s, None
        for drafter, table in zip(self.drafters, self._tables, strict=True):
            if (kind := drafter.look(token_ids)) is not None:
                n, rate = best_length(table[kind].rate, n_most, plain_s, cost.row_s + drafter.token_s)
                table[kind].fade()
                if rate > best_rate:
                    best_rate, best = rate, (drafter, n, table[kind])
        if best is None:
            return ()
        drafter, n, self._current = best
        return drafter.propose(token_ids, n)[:n]

    def learn(self, *, is_right: bool) -> None:
        """The next token of the last guess was right, or wrong."""
        self.n_accepted += is_right
        if self._current is not None:
            self._current.n_right += is_right
            self._current.n_wrong += not is_right

    def close(self) -> None:
        """The sequence has ended."""
        for drafter in self.drafters:
            drafter.close()


def best_length(rate: float, n_most: int, plain_s: float, row_s: float) -> tuple[int, float]:
    """How many tokens to guess, each right with probability `rate` if those before were, and the tokens a second to expect."""
    best_n, best, expected, likelihood = 0, 1 / plain_s, 1.0, 1.0
    for n in range(1, n_most + 1):
        likelihood *= rate
        expected += likelihood
        if (found := expected / (plain_s + n * row_s)) > best:
            best_n, best = n, found
    return best_n, best
