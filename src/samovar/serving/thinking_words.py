"""How a request wants the model to think: every dialect's words for it, to one contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from samovar.errors import BadRequest

# Tokens of thoughts for an effort; None is as many as the answer's limit leaves. "none" is no thoughts at all.
EFFORTS: Final[Mapping[str, int | None]] = {
    "none": 0,
    "minimal": 512,
    "low": 2_048,
    "medium": 8_192,
    "high": None,
    "xhigh": None,
    "max": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingAsk:
    """`thinking` on, off, or as the model's template has it (None); `budget` in tokens, None unbounded. `word` is the
    field that says so, None for none."""

    thinking: bool | None = None
    budget: int | None = None
    word: str | None = None


def read_thinking(words: Mapping[str, object]) -> ThinkingAsk:
    """The contract out of the fields that were given, by their names; None is not given.

    Switches (`enable_thinking`, `think`) are on or off, budgets (`thinking_budget`, `thinking.budget_tokens`) a number of
    tokens, efforts (`reasoning_effort`, `reasoning.effort`) one of EFFORTS. Raises BadRequest for two that contradict each
    other.
    """
    given = {name: value for name, value in words.items() if value is not None}
    switch: tuple[str, bool] | None = None
    budget: tuple[str, int | None] | None = None
    asked_budget: tuple[str, int | None] | None
    for name, value in given.items():
        if isinstance(value, bool):
            asked_switch, asked_budget = value, None
        elif isinstance(value, int):
            if value < 0:
                raise BadRequest(f"{name} is {value}; expected a whole number of tokens from 0 on", param=name)
            asked_switch, asked_budget = value > 0, (name, value)
        elif isinstance(value, str) and value in EFFORTS:
            asked_switch, asked_budget = value != "none", (name, EFFORTS[value])
        else:
            raise BadRequest(f"{name} is {value!r}; expected {_expected(name)}", param=name)
        if switch is not None and switch[1] != asked_switch:
            raise BadRequest(f"{switch[0]} and {name} contradict each other; give one of them", param=name)
        if asked_budget is not None and budget is not None and asked_budget[1] != budget[1]:
            raise BadRequest(f"{budget[0]} and {name} give different budgets; give one of them", param=name)
        switch, budget = switch or (name, asked_switch), budget or asked_budget
    if switch is None:
        return ThinkingAsk()
    if budget is not None and budget[1] == 0 and "effort" not in budget[0]:
        return ThinkingAsk(budget=0, word=budget[0])  # models that always think are told to close their thoughts at once
    tokens = budget[1] if budget is not None and switch[1] else None
    return ThinkingAsk(thinking=switch[1], budget=tokens, word=switch[0] if budget is None else budget[0])


def _expected(name: str) -> str:
    return f"one of {', '.join(EFFORTS)}" if "effort" in name else "true, false or a number of tokens"
