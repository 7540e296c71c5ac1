"""The state of a dialogue on the command line: messages, switches and counts. No terminal in here."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from samovar.errors import BadRequest, FormatError, StoreError
from samovar.llm import LLM, Result
from samovar.llm.options import Options
from samovar.text.output_parser import Delta

Message = dict[str, object]
_MAX_CHAT_FILE_BYTES = 64 << 20


@dataclass(slots=True, kw_only=True)
class ChatSession:
    """A dialogue with one model. `messages` holds no system message; `system` is put in front of each request."""

    llm: LLM
    sampling: Options
    system: str | None = None
    is_thinking: bool | None = None
    thinking_budget: int | None = None
    messages: list[Message] = field(default_factory=list)
    last: Result | None = None
    n_turns: int = 0
    n_generated: int = 0
    own_file: Path | None = None

    def ask(self, text: str, show: Callable[[Delta], None], is_stopped: Callable[[], bool]) -> Result:
        """Send the user's `text`, and pass each piece of the answer to `show` until it ends or `is_stopped()`.

        A stopped answer (`finish_reason` "cancelled") stays in the dialogue as far as it came; one that had no text yet is
        dropped with its question. Raises what the model raises; the dialogue is then as it was before.
        """
        question: Message = {"role": "user", "content": text}
        stream = self.llm.stream_chat(
            [*self.request(), question], thinking=self.is_thinking, thinking_budget=self.thinking_budget, **self.sampling
        )
        try:
            for delta in stream:
                show(delta)
                if is_stopped():
                    break
        except KeyboardInterrupt:
            pass  # the user's second way to stop; the answer so far counts
        finally:
            stream.close()
        self._keep(question, stream.result)
        return stream.result

    def request(self) -> list[Message]:
        """The messages so far, the system message first."""
        first: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return first + self.messages

    def clear(self) -> None:
        """Forget the dialogue. The system message and the switches stay."""
        self.messages = []

    def save(self, path: Path) -> int:
        """Write the messages as a JSON list; returns how many. Replaces no file but this dialogue's own."""
        text = json.dumps(self.request(), ensure_ascii=False, indent=1) + "\n"
        try:
            with path.open("w" if path == self.own_file else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise StoreError(f"{path} exists already; choose another name, or remove it first") from error
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}; choose another place") from error
        self.own_file = path
        return len(self.request())

    def load(self, path: Path) -> int:
        """Replace the dialogue by the messages of a JSON file; returns how many. A file that is not sound changes nothing."""
        messages = read_messages(path)
        system = None
        if messages and messages[0]["role"] == "system":
            system = str(messages.pop(0)["content"])
        self.messages, self.system, self.own_file = messages, system, path
        return len(self.request())

    def _keep(self, question: Message, result: Result) -> None:
        self.last = result
        self.n_turns += 1
        self.n_generated += result.usage.n_completion
        if result.finish_reason == "cancelled" and not result.text.strip():
            return
        answer: Message = {"role": "assistant", "content": result.text}
        if result.reasoning:
            answer["reasoning_content"] = result.reasoning
        self.messages += [question, answer]


def read_messages(path: Path) -> list[Message]:
    """The messages of a saved dialogue: a list of objects with `role` and text `content`. Raises FormatError, StoreError."""
    try:
        if path.stat().st_size > _MAX_CHAT_FILE_BYTES:
            raise FormatError(f"{path} is larger than {_MAX_CHAT_FILE_BYTES >> 20} MiB; expected a saved dialogue")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise FormatError(f"{path} is no JSON: {error}; expected what /save writes") from error
    if not isinstance(found, list):
        raise FormatError(f"{path} holds {type(found).__name__}; expected a list of messages, as /save writes it")
    for index, message in enumerate(found):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise FormatError(f"{path}: message {index} has no text content; expected role and content")
        if message.get("role") not in ("system", "user", "assistant"):
            raise FormatError(f"{path}: message {index} has role {message.get('role')!r}; expected system, user or assistant")
        if message["role"] == "system" and index:
            raise FormatError(f"{path}: message {index} is a system message; expected it only at the start")
        if unknown := sorted(set(message) - {"role", "content", "reasoning_content"}):
            raise BadRequest(f"{path}: message {index} has keys that are not read: {unknown}")
    return found
