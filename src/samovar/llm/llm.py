"""Text in, text out: a model, its tokenizer and its chat template behind two verbs, chat and generate.

All requests of a model go on together, in the thread of its engine, whoever waits for which.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from samovar.engine.engine import Engine, Limits, StartDrafter
from samovar.engine.engine_thread import EngineThread
from samovar.engine.ngram_drafter import NgramDrafter
from samovar.engine.page_pool import PagePool
from samovar.engine.request import SamplingParams
from samovar.errors import BadRequest
from samovar.formats import open_checkpoint
from samovar.formats.hub import EMBEDDED_DEFAULT, default_cache, default_store, resolve
from samovar.kernels import KvType, WeightForm
from samovar.llm.answer import Answer
from samovar.llm.dialogue import Dialogue, read_dialogue
from samovar.llm.memory import Budget, available_bytes
from samovar.llm.model_text import ModelText, read_model_text
from samovar.llm.options import Defaults, Options, own_defaults, requests, sampling_params, stop_strings, unread_defaults
from samovar.llm.result import Result
from samovar.llm.setup import check_choices, choose_ops, kv_type_for
from samovar.llm.speculation import SpeculationMode, check_same_vocabulary, check_speculation
from samovar.llm.stream import OnEnd, Stream, run_together
from samovar.llm.thinking_tokens import thinking_tokens
from samovar.models.blocks import Decoder
from samovar.models.loader import load_model
from samovar.models.packing import BackgroundPacker
from samovar.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from samovar.llm.async_stream import AsyncStream

Progress = Callable[[int, int, str], None]
Message = dict[str, object]


class LLM:
    """An open model file or folder, ready to answer.

    Example: `LLM("model.gguf").chat("What is the capital of France?").text`.
    """

    def __init__(
        self,
        path_or_name: str | Path | None = None,
        *,
        n_threads: int | None = None,
        max_context: int | None = None,
        kv_type: KvType | None = None,
        weights: WeightForm = "stored",
        isa: str | None = None,
        draft: str | Path | None = None,
        speculation: SpeculationMode = "auto",
        cache: bool = True,
        memory: int | None = None,
        max_streams: int = 64,
        max_waiting: int = 1024,
        prefix_cache: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Load a GGUF file, a Hugging Face folder, or a name in the model store; None is the embedded default.

        `n_threads` defaults to the usable cores, `max_context` (tokens) to the model's own as far as memory goes, `kv_type` to
        f32 for f32 weights, bf16 for bf16 weights, else f16; int8 halves their memory. `isa` forces an instruction set, `numpy`
        the reference. `weights="int4"` rounds all linear layers but the output head to 4 bits (`kernels.int4`): smaller,
        quicker, less exact. `draft` is a smaller model with the same vocabulary, which guesses ahead; `speculation` says what
        may (see `SpeculationMode`). Neither changes an answer, only how soon it comes. `memory` (bytes) bounds weights, keys
        and values and what else there is; without it, keys and values take what a few full contexts need, at most half of the
        free memory. `max_streams` requests run together and `max_waiting` wait; more are refused. `prefix_cache` lets prompts
        that begin alike share what was computed. Packed weights are kept in the store's cache and mapped at the next start,
        unless `cache` is False. Where they are not there, they are packed in the background, while the first prompt is computed
        as far as they have come. `progress(done_bytes, total_bytes, tensor)` is called from the thread that does so. Raises a
        SamovarError for whatever is wrong with the path, the file, or these values.
        """
        self.path = resolve(EMBEDDED_DEFAULT if path_or_name is None else str(path_or_name), default_store())
        check_choices(kv_type, weights, max_context, memory, max_streams, max_waiting)
        check_speculation(speculation, draft)
        if draft is not None:  # said before the larger model is loaded
            resolve(str(draft), default_store())
        self._cache = default_cache() if cache else None
        checkpoint = open_checkpoint(self.path, self._cache)
        self.ops, self.slow_reason = choose_ops(isa, n_threads)
        free_bytes = available_bytes()
        loaded = load_model(checkpoint, self.ops, self._cache, progress, weights)
        self.model: Decoder = loaded.decoder
        self.packer = loaded.packer
        with _stopping(self.packer):
            self._text: ModelText = read_model_text(checkpoint, self._cache)
            self.kv_type: KvType = kv_type or kv_type_for(self.model.embedding.type.name)
            pool = self._make_pool(max_context, Budget(memory, free_bytes, self.model.packed_bytes), max_streams)
            drafters: list[StartDrafter] = [lambda _: NgramDrafter()] if speculation in ("auto", "ngram") else []
            self.draft: LLM | None = None
            if draft is not None:
                from samovar.engine.draft_model import DraftModel  # start-up waits for imports, and few ask for it

                self.draft = LLM(
                    draft, n_threads=n_threads, kv_type=kv_type, isa=isa, cache=cache, speculation="off", progress=progress
                )
                check_same_vocabulary(self.tokenizer, self.draft.tokenizer, self.draft.path)
                drafters.append(DraftModel(self.draft._engine).start)
            vocab_size = self.model.config.vocab_size
            self._engine: Engine = Engine(
                self.model,
                self.ops,
                pool,
                vocab_size,
                self.max_context,
                Limits(max_running=max_streams, max_waiting=max_waiting),
                tuple(drafters),
                thinking_tokens=thinking_tokens(self.tokenizer),
                keeps_prefixes=prefix_cache,
            )
            self._thread = EngineThread(self._engine)
            own = own_defaults(self._text.generation_config, self._text.metadata, str(self.path))
        self._defaults = Defaults(own=own, architecture=self.model.config.architecture)

    def _make_pool(self, max_context: int | None, budget: Budget, max_streams: int) -> PagePool:
        """Room for the keys and values of as many tokens as are asked for, or fit."""
        config = self.model.config
        self.max_context, n_pages = budget.choose(config, self.kv_type, max_context, max_streams)
        self._is_context_cut = max_context is None and self.max_context < config.max_context
        return PagePool(
            self.kv_type, n_pages=n_pages, n_layers=config.n_layers, n_kv_heads=config.n_kv_heads, d_head=config.d_head
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._text.tokenizer

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know about how the model was loaded, a line each."""
        lines = [self.slow_reason] if self.slow_reason else []
        if self._cache is not None and self._cache.problem:
            lines.append(self._cache.problem)
        if self._is_context_cut:
            lines.append(
                f"the context is {self.max_context} tokens, as far as half of the free memory goes; "
                f"the model takes {self.model.config.max_context}"
            )
        if unread := unread_defaults(self._text.generation_config):
            lines.append(f"generation_config.json asks for {', '.join(unread)}, which this version does not do")
        return tuple(lines)

    def check_thinking(self, thinking: bool) -> None:
        """Raises BadRequest where the model's template has no way to switch thinking so."""
        self._text.render([{"role": "user", "content": "?"}], None, thinking)

    @overload
    def chat(
        self,
        messages: str | list[Message],
        *,
        tools: Sequence[Message] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        continue_final: bool = False,
        **options: Unpack[Options],
    ) -> Result: ...
    @overload
    def chat(
        self,
        messages: list[str] | list[list[Message]],
        *,
        tools: Sequence[Message] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        continue_final: bool = False,
        **options: Unpack[Options],
    ) -> list[Result]: ...
    def chat(
        self,
        messages: str | list[Message] | list[str] | list[list[Message]],
        *,
        tools: Sequence[Message] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        continue_final: bool = False,
        **options: Unpack[Options],
    ) -> Result | list[Result]:
        """Answer a conversation (OpenAI-style messages; a string is one user message), or each of a list of conversations.

        `thinking` on or off needs a model that has the choice; None is the template's default. `thinking_budget` bounds the
        tokens of the thoughts (see `engine.thinking`). With `continue_final` the last message, an assistant's, is continued.
        `options` are those of `samovar.llm.options.Options`. Raises BadRequest for messages, tools or options that cannot be
        served, PromptTooLong when the context does not hold them, Overloaded when too many requests wait. An answer of a list
        that fails says so in its result.
        """
        settings = (tools, thinking, thinking_budget, continue_final)
        if _is_list_of_conversations(messages):
            groups = [self._chat_answers(read_dialogue(self._text, one, *settings), options) for one in messages]
            run_together(self._thread, groups)
            return [_joined(group) for group in groups]
        dialogue = read_dialogue(self._text, cast("str | Sequence[Message]", messages), *settings)
        answers = self._chat_answers(dialogue, options)
        result = self._run(answers)
        dialogue.prepare_next_turn(self._thread, answers[0])
        return result

    def stream_chat(
        self,
        messages: str | Sequence[Message],
        *,
        tools: Sequence[Message] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        continue_final: bool = False,
        **options: Unpack[Options],
    ) -> Stream:
        """As `chat` of one conversation, piece by piece: iterate for `Delta`s; `.result` is the whole."""
        dialogue = read_dialogue(self._text, messages, tools, thinking, thinking_budget, continue_final)
        return Stream(self._thread, _only(self._chat_answers(dialogue, options)), on_end=self._when_ended(dialogue))

    def astream_chat(
        self,
        messages: str | Sequence[Message],
        *,
        tools: Sequence[Message] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        continue_final: bool = False,
        **options: Unpack[Options],
    ) -> "AsyncStream":
        """As `stream_chat`, for `async for`; to be called where an event loop runs."""
        dialogue = read_dialogue(self._text, messages, tools, thinking, thinking_budget, continue_final)
        from samovar.llm.async_stream import AsyncStream  # asyncio takes time to import

        return AsyncStream(self._thread, _only(self._chat_answers(dialogue, options)), on_end=self._when_ended(dialogue))

    @overload
    def generate(self, prompt: str, **options: Unpack[Options]) -> Result: ...
    @overload
    def generate(self, prompt: list[str], **options: Unpack[Options]) -> list[Result]: ...
    def generate(self, prompt: str | list[str], **options: Unpack[Options]) -> Result | list[Result]:
        """Continue a text, or several together, each exactly as it would be continued alone.

        Control tokens in the text are parsed, and a beginning-of-text token is added where the model wants one.
        """
        if isinstance(prompt, str):
            return self._run(self._raw_answers(prompt, options))
        if not isinstance(prompt, list) or not prompt:
            raise BadRequest(f"prompt is {prompt!r}; expected a text or a list of texts", param="prompt")
        groups = [self._raw_answers(text, options) for text in prompt]
        run_together(self._thread, groups)
        return [_joined(group) for group in groups]

    def stream_generate(self, prompt: str, **options: Unpack[Options]) -> Stream:
        """As `generate`, piece by piece."""
        return Stream(self._thread, _only(self._raw_answers(prompt, options)))

    def astream_generate(self, prompt: str, **options: Unpack[Options]) -> "AsyncStream":
        """As `stream_generate`, for `async for`; to be called where an event loop runs."""
        from samovar.llm.async_stream import AsyncStream

        return AsyncStream(self._thread, _only(self._raw_answers(prompt, options)))

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits [T, V] after every token, float32. Raises BadRequest or PromptTooLong as `generate` does."""
        if not isinstance(token_ids, Iterable) or isinstance(token_ids, str):
            raise BadRequest(f"token_ids is {token_ids!r}; expected a list of ids", param="token_ids")
        ids = tuple(token_ids)
        return self._thread.call(lambda engine: engine.logits(ids))

    def settle(self) -> None:
        """Wait until all requests have ended and the next turns of conversations are prepared."""
        self._thread.settle()

    def close(self) -> None:
        """Stop working, after the step that is running. Answers that are open end with an error."""
        self._thread.close()
        if self.packer is not None:
            self.packer.stop()

    def _run(self, answers: list[Answer]) -> Result:
        """Generate one answer, or several to one prompt. Raises the error that ended one."""
        run_together(self._thread, [answers])
        for answer in answers:
            if answer.error is not None:
                raise answer.error
        return _joined(answers)

    def _when_ended(self, dialogue: Dialogue) -> OnEnd:
        """What to do after an answer: compute the form that the dialogue will have in the next turn."""
        return lambda answer: dialogue.prepare_next_turn(self._thread, answer)

    def _chat_answers(self, dialogue: Dialogue, options: Options) -> list[Answer]:
        """Check everything about a chat before any of it is computed; an answer for each that is asked for."""
        prompt = dialogue.prompt
        thinks = prompt.is_thinking and (dialogue.thinking is None or dialogue.thinking.budget != 0)
        params = self._params(options, is_thinking=thinks)
        stop = stop_strings(options)
        return [
            Answer(request, self.tokenizer.detokenizer(is_continuation=True), dialogue.parser(), stop, dialogue.explain)
            for request in requests(options, prompt.ids, params, dialogue.thinking)
        ]

    def _raw_answers(self, prompt: str, options: Options) -> list[Answer]:
        if not isinstance(prompt, str):
            raise BadRequest(f"prompt is {prompt!r}; expected a text", param="prompt")
        prompt_ids, params = tuple(self.tokenizer.encode(prompt)), self._params(options, is_thinking=False)
        stop = stop_strings(options)
        return [
            Answer(request, self.tokenizer.detokenizer(is_continuation=True), None, stop, lambda _: None)
            for request in requests(options, prompt_ids, params, None)
        ]

    def _params(self, options: Options, *, is_thinking: bool) -> SamplingParams:
        return sampling_params(
            options,
            self._defaults.sampling(is_thinking=is_thinking),
            eos_ids=self._text.eos_ids,
            vocab_size=self.model.config.vocab_size,
        )


@contextmanager
def _stopping(packer: BackgroundPacker | None) -> Iterator[None]:
    """Stop packing where what goes on beside it fails."""
    try:
        yield
    except BaseException:
        if packer is not None:
            packer.stop()
        raise


def _only(answers: list[Answer]) -> Answer:
    """The one answer of a stream."""
    if len(answers) > 1:
        raise BadRequest("a stream is one answer; for several, open a stream for each, with seeds of their own", param="n")
    return answers[0]


def _joined(answers: list[Answer]) -> Result:
    """The first of several answers to one prompt, with the others as alternatives."""
    first, *others = (answer.result() for answer in answers)
    return replace(first, alternatives=tuple(others))


def _is_list_of_conversations(
    messages: str | list[Message] | list[str] | list[list[Message]],
) -> TypeGuard[list[str] | list[list[Message]]]:
    return (
        isinstance(messages, Sequence)
        and not isinstance(messages, str)
        and bool(messages)
        and not any(isinstance(item, Mapping) for item in messages)
    )
