"""The form of OpenAI's text completions, whole or in chunks."""

import time
import uuid
from collections.abc import AsyncGenerator, Sequence

from samovar.engine.request import Logprob
from samovar.llm.result import Result
from samovar.serving.chat import Answers
from samovar.serving.failures import error_body
from samovar.serving.openai_options import finish_details, finish_reason, prompt_logprobs, usage, with_seed
from samovar.serving.replies import sse
from samovar.serving.server import Server
from samovar.text.detokenizer import Detokenizer
from samovar.text.tokenizer import Tokenizer


class CompletionShape:
    """Gives answers the form of text completions. There are `n` to each prompt, those to the first one first."""

    def __init__(
        self,
        server: Server,
        answers: Answers,
        prompts: Sequence[str | tuple[int, ...]],
        *,
        n: int,
        has_echo: bool,
        has_logprobs: bool,
        is_prompt_only: bool,
    ) -> None:
        self._server, self._answers, self._prompts, self._n = server, answers, prompts, n
        self._has_echo, self._has_logprobs, self._is_prompt_only = has_echo, has_logprobs, is_prompt_only
        self._tokenizer = answers.llm.tokenizer
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": answers.model,
            "system_fingerprint": server.fingerprint,
        }

    def whole(self, results: list[Result], *, has_prompt_logprobs: bool) -> dict[str, object]:
        """The reply to a request that does not stream."""
        choices = [self._whole_choice(index, result) for index, result in enumerate(results)]
        if has_prompt_logprobs:
            for index, (choice, result) in enumerate(zip(choices, results, strict=True)):
                ids, entries = self._answers.prompts[index // self._n], result.prompt_logprobs or ()
                choice["prompt_logprobs"] = prompt_logprobs(self._tokenizer, ids, entries)
        return {**self._head, "choices": choices, "usage": usage(results, self._n)} | with_seed(results)

    async def events(self, *, has_usage: bool) -> AsyncGenerator[bytes, None]:
        """The reply in chunks. An error ends it with an event of its own.

        The log-probabilities of a prompt are known when its answer has ended, so that with them each choice is one chunk.
        """
        is_held = self._has_echo and self._has_logprobs
        records = [self._record(index) for index in range(len(self._answers.results))]
        if self._has_echo and not is_held:
            for index in range(len(records)):
                yield self._chunk(index, self._echo(index))
        try:
            async for index, delta in self._answers:
                if not is_held:
                    yield self._chunk(index, delta.text, self._more(records[index], index))
        except Exception as error:  # the head is sent: this is the one place left to tell of it
            yield sse(error_body(self._server.failed(error)))
            return
        results = self._answers.results
        for index, result in enumerate(results):
            if is_held:
                yield sse({**self._head, "choices": [self._whole_choice(index, result)]})
            else:
                yield self._chunk(index, "", self._more(records[index], index) | self._finish(result))
        if has_usage:
            yield sse({**self._head, "choices": [], "usage": usage(results, self._n)} | with_seed(results))
        yield b"data: [DONE]\n\n"

    def _whole_choice(self, index: int, result: Result) -> dict[str, object]:
        text = self._echo(index) + result.text if self._has_echo else result.text
        choice: dict[str, object] = {"index": index, "text": text, "logprobs": None}
        if self._has_logprobs:
            record = self._record(index)
            record.take(result.token_ids, result.logprobs or ())
            choice["logprobs"] = record.logprobs(0)
        return choice | self._finish(result)

    def _record(self, index: int) -> "_Record":
        """An empty record of a choice's tokens; with echo, after those of its prompt."""
        if not (self._has_echo and self._has_logprobs):
            return _Record(self._tokenizer.detokenizer(is_continuation=True), self._tokenizer)
        prompt, entries = self._answers.prompts[index // self._n], self._answers.results[index].prompt_logprobs
        record = _Record(self._tokenizer.detokenizer(), self._tokenizer)
        known = (None, *(entries or (None,) * (len(prompt) - 1)))
        n_before = int(self._tokenizer.add_bos and isinstance(self._prompts[index // self._n], str))
        record.take(prompt[:n_before], known[:n_before])
        record.begin_text()
        record.take(prompt[n_before:], known[n_before:])
        return record

    def _echo(self, index: int) -> str:
        prompt = self._prompts[index // self._n]
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)

    def _more(self, record: "_Record", index: int) -> dict[str, object]:
        """What a chunk says beside its text: the log-probabilities of the tokens since the last one."""
        if not self._has_logprobs:
            return {}
        result, start = self._answers.results[index], len(record.tokens)
        record.take(result.token_ids[start:], (result.logprobs or ())[start:])
        return {"logprobs": record.logprobs(start)}

    def _finish(self, result: Result) -> dict[str, object]:
        reason = "length" if self._is_prompt_only else finish_reason(result)
        return {"finish_reason": reason, **finish_details(result)}

    def _chunk(self, index: int, text: str, more: dict[str, object] | None = None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None} | (more or {})
        return sse({**self._head, "choices": [choice]})


class _Record:
    """The tokens of one choice, with their log-probabilities and where they begin in its text."""

    def __init__(self, detokenizer: Detokenizer, tokenizer: Tokenizer) -> None:
        self._detokenizer, self._tokenizer = detokenizer, tokenizer
        self._n_text = 0
        self.tokens: list[str] = []
        self._offsets: list[int] = []
        self._values: list[float | None] = []
        self._tops: list[dict[str, float] | None] = []

    def take(self, ids: Sequence[int], entries: Sequence[Logprob | None]) -> None:
        """Some more tokens; those without an entry were not chosen, or had nothing before them."""
        for token_id, entry in zip(ids, entries, strict=True):
            self.tokens.append(self._name(token_id))
            self._offsets.append(self._n_text)
            self._n_text += len(self._detokenizer.push(token_id))
            self._values.append(None if entry is None else entry.value)
            likeliest = None if entry is None else (*entry.top, (token_id, entry.value))
            self._tops.append(None if likeliest is None else {self._name(i): value for i, value in likeliest})

    def begin_text(self) -> None:
        """The text begins here: a token before it is none of the caller's."""
        self._n_text, self._detokenizer = 0, self._tokenizer.detokenizer()

    def logprobs(self, start: int) -> dict[str, object]:
        """OpenAI's form, from a token on."""
        return {
            "tokens": self.tokens[start:],
            "token_logprobs": self._values[start:],
            "top_logprobs": self._tops[start:],
            "text_offset": self._offsets[start:],
        }

    def _name(self, token_id: int) -> str:
        """A token's text; of one that is no whole text its bytes, as OpenAI writes them, so that two never look alike."""
        raw = self._tokenizer.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
