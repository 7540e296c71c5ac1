"""How fast steps are, learnt as they go by, for the wait that a refused request is told."""

from dataclasses import dataclass

_NEWEST_SHARE = 0.05


@dataclass(slots=True)
class Throughput:
    """Running means: seconds a token of a long slice takes, and seconds a step without such slices takes."""

    token_s: float = 0.0
    step_s: float = 0.0

    def observe(self, n_tokens: int, n_sequences: int, seconds: float) -> None:
        """A step computed `n_tokens` of `n_sequences`."""
        if n_tokens > 4 * n_sequences:
            self.token_s = _mean(self.token_s, seconds / n_tokens)
        elif n_tokens:
            self.step_s = _mean(self.step_s, seconds)

    def seconds(self, n_prompt: int, n_steps: int) -> float:
        """What `n_prompt` tokens of prompts and then `n_steps` steps are expected to take."""
        return n_prompt * self.token_s + n_steps * self.step_s


def _mean(old: float, newest: float) -> float:
    return newest if not old else old + _NEWEST_SHARE * (newest - old)
