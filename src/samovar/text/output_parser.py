"""What a model writes, taken apart into thoughts and answer while it is being written."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Literal

from samovar.text.tokenizer import Tokenizer

OPEN: Final = "<think>"
CLOSE: Final = "</think>"
_TOOL_CALL: Final = "<tool_call>"


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the thoughts (`reasoning`), of the answer (`content`), or of call number `call` of a tool: first its whole
    name, then its arguments, a JSON object, piece by piece."""

    field: Literal["reasoning", "content", "tool_name", "tool_arguments"]
    text: str
    call: int = 0


class _State(Enum):
    START = auto()  # thoughts may open
    THINKING = auto()
    AFTER = auto()  # thoughts have closed, and nothing of the answer is there yet
    ANSWER = auto()  # tags are ordinary text


class OutputParser:
    """A state machine fed token by token. How the text is cut into pushes makes no difference to the texts it gives.

    Where the tokenizer has think tags as control tokens, only those tokens count and a text that quotes a tag does not; else
    the tags are found in the text. Newlines next to the tags belong to neither side. `n_thinking` counts the tokens of the
    thoughts, without tags that are tokens.
    """

    def __init__(self, state: Literal["start", "thinking", "answer"], control_tokens: dict[str, int]) -> None:
        self._state = _State[state.upper()]
        self._open_id, self._close_id = control_tokens.get(OPEN), control_tokens.get(CLOSE)
        self._tool_call_id = control_tokens.get(_TOOL_CALL)
        self._finds_tags = self._open_id is None or self._close_id is None
        self._may_open = self._state is not _State.ANSWER
        self._held = ""
        self._deltas: list[Delta] = []
        self._has_thoughts = False
        self.n_thinking = 0

    @classmethod
    def for_prompt(cls, prompt_text: str, tokenizer: Tokenizer) -> "OutputParser":
        """The parser for what follows a rendered prompt: its end says whether thoughts are open, closed, or may open."""
        tail = prompt_text[-256:].rstrip()
        state: Literal["start", "thinking", "answer"] = (
            "thinking" if tail.endswith(OPEN) else "answer" if tail.endswith(CLOSE) else "start"
        )
        return cls(state, tokenizer.control_tokens)

    @property
    def is_thinking(self) -> bool:
        """Whether the thoughts are open."""
        return self._state is _State.THINKING

    def push(self, token_id: int | None, text: str) -> list[Delta]:
        """What a token adds. `text` is what the detokenizer gave for it; None for text that is no single token's."""
        if self._finds_tags or token_id is None or not self._push_tag(token_id, text):
            self.n_thinking += self.is_thinking and token_id is not None
            self._feed(text)
        return self._take()

    def finish(self, text: str = "") -> list[Delta]:
        """The rest, after the last `text`."""
        self._feed(text)
        if self._held:
            self._emit("reasoning" if self.is_thinking else "content", self._held)
            self._held = ""
        return self._take()

    def _push_tag(self, token_id: int, text: str) -> bool:
        """Act on a token that is a tag here; the text before it, which the detokenizer had held back, comes first."""
        if token_id == self._close_id and self.is_thinking:
            self._feed(text.removesuffix(CLOSE))
            self._close()
        elif token_id == self._close_id and self._state is _State.AFTER and not text.removesuffix(CLOSE).strip():
            return True  # closed twice: by the budget, then by the model
        elif token_id == self._tool_call_id and self.is_thinking:
            self._feed(text.removesuffix(_TOOL_CALL))
            self._close()
            self._feed(_TOOL_CALL)
        elif token_id == self._open_id and self._may_open and not (self._held + text.removesuffix(OPEN)).strip():
            self._open()
        else:
            return False
        return True

    def _open(self) -> None:
        self._state, self._may_open, self._held = _State.THINKING, False, ""

    def _close(self) -> None:
        self._state, self._may_open, self._held = _State.AFTER, False, ""

    def _feed(self, text: str) -> None:
        """Take in ordinary text, and tags where they are text."""
        self._held += text
        if self._may_open and not self._passes_opening():
            return
        if self.is_thinking and not self._passes_thoughts():
            return
        if self._state is _State.AFTER:
            self._held = self._held.lstrip("\n")
            if self._held:
                self._state = _State.ANSWER
        if self._state is _State.ANSWER:
            self._emit("content", self._held)
            self._held = ""

    def _passes_opening(self) -> bool:
        """Whether it is settled if an opening tag comes; acts on it."""
        start = self._held.lstrip()
        if not start or (self._finds_tags and len(start) < len(OPEN) and OPEN.startswith(start)):
            return False
        if self._finds_tags and start.startswith(OPEN):
            self._open()
            self._held = start[len(OPEN) :]
        elif self._state is _State.START:
            self._state = _State.ANSWER
        else:
            self._held = self._held.lstrip("\n")
        self._may_open = False
        return True

    def _passes_thoughts(self) -> bool:
        """Whether the thoughts close within the held text; emits them as far as they are certain."""
        if not self._has_thoughts:
            self._held = self._held.lstrip("\n")
        thoughts, tag, rest = self._held.partition(CLOSE) if self._finds_tags else (self._held, "", "")
        if tag:
            self._emit("reasoning", thoughts.rstrip("\n"))
            self._close()
            self._held = rest
            return True
        n_tag = _n_begun(self._held) if self._finds_tags else 0
        certain = self._held[: len(self._held) - n_tag].rstrip("\n")
        self._emit("reasoning", certain)
        self._held = self._held[len(certain) :]
        return False

    def _emit(self, field: Literal["reasoning", "content"], text: str) -> None:
        if text:
            self._has_thoughts |= field == "reasoning"
            self._deltas.append(Delta(field, text))

    def _take(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return deltas


def _n_begun(text: str) -> int:
    """How many characters at the end of `text` may be the beginning of a closing tag."""
    return next((n for n in range(min(len(text), len(CLOSE) - 1), 0, -1) if text.endswith(CLOSE[:n])), 0)
