"""Text in, text out: a model, its tokenizer and its chat template behind two verbs, chat and generate."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack, get_args, overload

import numpy as np
from numpy.typing import NDArray

from samovar.engine.engine import Engine, StartDrafter
from samovar.engine.ngram_drafter import NgramDrafter
from samovar.engine.page_pool import PagePool, n_pages_for
from samovar.engine.request import Request
from samovar.errors import BadRequest
from samovar.formats import open_checkpoint
from samovar.formats.hub import EMBEDDED_DEFAULT, default_cache, default_store, resolve
from samovar.kernels import KV_DTYPES, KvType, Ops, WeightForm
from samovar.kernels.cores import usable_cores
from samovar.kernels.native import available_isas, isa_warning, native_missing_reason, native_ops
from samovar.llm.answer import Answer, Stream, run_batch
from samovar.llm.memory import available_bytes, choose_context
from samovar.llm.model_text import ModelText, read_model_text
from samovar.llm.options import Defaults, Options, own_defaults, sampling_params, stop_strings, unread_defaults
from samovar.llm.result import Result
from samovar.llm.speculation import SpeculationMode, check_same_vocabulary, check_speculation
from samovar.models.blocks import Decoder
from samovar.models.loader import load_model
from samovar.models.packing import BackgroundPacker
from samovar.text.output_parser import OutputParser
from samovar.text.tokenizer import Tokenizer

MAX_THREADS = 512
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
        progress: Progress | None = None,
    ) -> None:
        """Load a GGUF file, a Hugging Face folder, or a name in the model store; None is the embedded default.

        `n_threads` defaults to the usable cores, `max_context` (tokens) to the model's own as far as memory goes, `kv_type`
        to f32 for f32 weights, bf16 for bf16 weights, else f16; int8 halves their memory. `isa` forces an
        instruction set, `numpy` the reference.
        `weights="int4"` rounds all linear layers but the output head to 4 bits (`kernels.int4`), those of a draft too: smaller,
        quicker, less exact.
        `draft` is a smaller model with the same vocabulary, which guesses ahead; `speculation` says what may (see
        `SpeculationMode`). Neither changes an answer, only how soon it comes.
        Packed weights are kept in the store's cache and mapped at the next start, unless `cache` is False. Where they are not
        there, they are packed in the background, while the first prompt is computed as far as they have come.
        `progress(done_bytes, total_bytes, tensor)` is called from the thread that does so.
        Raises a SamovarError for whatever is wrong with the path, the file, or these values.
        """
        self.path = resolve(EMBEDDED_DEFAULT if path_or_name is None else str(path_or_name), default_store())
        _check_choices(kv_type, weights, max_context)
        check_speculation(speculation, draft)
        if draft is not None:  # said before the larger model is loaded
            resolve(str(draft), default_store())
        self._cache = default_cache() if cache else None
        checkpoint = open_checkpoint(self.path, self._cache)
        self.ops, self.slow_reason = _choose_ops(isa, n_threads)
        free_bytes = available_bytes()
        loaded = load_model(checkpoint, self.ops, self._cache, progress, weights)
        self.model: Decoder = loaded.decoder
        self.packer = loaded.packer
        with _stopping(self.packer):
            self._text: ModelText = read_model_text(checkpoint, self._cache)
            self.kv_type: KvType = kv_type or kv_type_for(self.model.embedding.type.name)
            pool = self._make_pool(max_context, max(0, free_bytes - self.model.packed_bytes))
            drafters: list[StartDrafter] = [lambda _: NgramDrafter()] if speculation in ("auto", "ngram") else []
            self.draft: LLM | None = None
            if draft is not None:
                from samovar.engine.draft_model import DraftModel  # start-up waits for imports, and few ask for it

                self.draft = LLM(
                    draft, n_threads=n_threads, kv_type=kv_type, weights=weights, isa=isa, cache=cache, speculation="off",
                    progress=progress,
                )  # fmt: skip
                check_same_vocabulary(self.tokenizer, self.draft.tokenizer, self.draft.path)
                drafters.append(DraftModel(self.draft._engine).start)
            vocab_size = self.model.config.vocab_size
            self._engine: Engine = Engine(
                self.model, self.ops, pool, vocab_size, self.max_context, start_drafters=tuple(drafters)
            )
            own = own_defaults(self._text.generation_config, self._text.metadata, str(self.path))
        self._defaults = Defaults(own=own, architecture=self.model.config.architecture)

    def _make_pool(self, max_context: int | None, free_bytes: int) -> PagePool:
        """Room for the keys and values of as many tokens as are asked for, or fit."""
        config = self.model.config
        self.max_context = choose_context(config, self.kv_type, max_context, free_bytes)
        self._is_context_cut = max_context is None and self.max_context < config.max_context
        return PagePool(
            self.kv_type,
            n_pages=n_pages_for(self.max_context),
            n_layers=config.n_layers,
            n_kv_heads=config.n_kv_heads,
            d_head=config.d_head,
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

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        tools: Sequence[Message] | None = None,
        thinking: bool | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Answer a conversation (OpenAI-style messages; a string is one user message).

        `thinking` on or off needs a model that has the choice; None is the template's default. `options` are those of
        `samovar.llm.options.Options`: temperature, top_k, top_p, min_p, penalties, seed, stop, max_tokens. Raises
        BadRequest for messages, tools or options that cannot be served, PromptTooLong when the context does not hold them.
        """
        return _drain(self.stream_chat(messages, tools=tools, thinking=thinking, **options))

    def stream_chat(
        self,
        messages: str | Sequence[Message],
        *,
        tools: Sequence[Message] | None = None,
        thinking: bool | None = None,
        **options: Unpack[Options],
    ) -> Stream:
        """As `chat`, piece by piece: iterate for `Delta`s; `.result` is the whole."""
        if not isinstance(messages, Iterable):
            raise BadRequest(f"messages is {messages!r}; expected a text or a list of messages", param="messages")
        turns: list[Message] = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        prompt = self._text.render(turns, tools, thinking)
        parser = OutputParser.for_prompt(prompt.text, self.tokenizer)
        is_thinking = prompt.is_thinking
        return Stream(self._engine, self._answer(prompt.ids, options, parser, is_thinking=is_thinking))

    @overload
    def generate(self, prompt: str, **options: Unpack[Options]) -> Result: ...
    @overload
    def generate(self, prompt: list[str], **options: Unpack[Options]) -> list[Result]: ...
    def generate(self, prompt: str | list[str], **options: Unpack[Options]) -> Result | list[Result]:
        """Continue a text, or several together, each exactly as it would be continued alone.

        Control tokens in the text are parsed, and a beginning-of-text token is added where the model wants one.
        """
        if isinstance(prompt, str):
            return _drain(self.stream_generate(prompt, **options))
        if not isinstance(prompt, list) or not prompt:
            raise BadRequest(f"prompt is {prompt!r}; expected a text or a list of texts", param="prompt")
        answers = [self._raw_answer(text, options) for text in prompt]
        for _ in run_batch(self._engine, answers):
            pass
        return [answer.result() for answer in answers]

    def stream_generate(self, prompt: str, **options: Unpack[Options]) -> Stream:
        """As `generate`, piece by piece."""
        return Stream(self._engine, self._raw_answer(prompt, options))

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits [T, V] after every token, float32. Raises BadRequest or PromptTooLong as `generate` does."""
        if not isinstance(token_ids, Iterable) or isinstance(token_ids, str):
            raise BadRequest(f"token_ids is {token_ids!r}; expected a list of ids", param="token_ids")
        return self._engine.logits(tuple(token_ids))

    def _raw_answer(self, prompt: str, options: Options) -> Answer:
        if not isinstance(prompt, str):
            raise BadRequest(f"prompt is {prompt!r}; expected a text", param="prompt")
        return self._answer(tuple(self.tokenizer.encode(prompt)), options, parser=None, is_thinking=False)

    def _answer(
        self, prompt_ids: tuple[int, ...], options: Options, parser: OutputParser | None, *, is_thinking: bool
    ) -> Answer:
        """Check everything about a request before any of it is computed."""
        params = sampling_params(
            options,
            self._defaults.sampling(is_thinking=is_thinking),
            eos_ids=self._text.eos_ids,
            vocab_size=self.model.config.vocab_size,
        )
        sequence = self._engine.start(Request(prompt_ids=prompt_ids, sampling=params))
        return Answer(sequence, self.tokenizer.detokenizer(is_continuation=True), parser, stop_strings(options))


@contextmanager
def _stopping(packer: BackgroundPacker | None) -> Iterator[None]:
    """Stop packing where what goes on beside it fails."""
    try:
        yield
    except BaseException:
        if packer is not None:
            packer.stop()
        raise


def _drain(stream: Stream) -> Result:
    for _ in stream:
        pass
    return stream.result


_NO_VECTORS = (
    "this processor lacks AVX2, FMA or F16C (and is none with NEON): running on the scalar kernels, which are much slower "
    "than those for newer processors"
)


def _choose_ops(isa: str | None, n_threads: int | None) -> tuple[Ops, str | None]:
    """The native operations, or the NumPy ones with the reason why answers will be slow."""
    if n_threads is not None and (not isinstance(n_threads, int) or not 1 <= n_threads <= MAX_THREADS):
        raise BadRequest(f"n_threads is {n_threads!r}; expected a whole number from 1 to {MAX_THREADS}", param="n_threads")
    if isa == "numpy":
        return _reference_ops(), "running on the NumPy kernels, as asked for: they are much slower than the native ones"
    if isa is None and (reason := native_missing_reason()) is not None:
        return _reference_ops(), f"running on the NumPy kernels, which are much slower than the native ones: {reason}"
    names = available_isas()
    if isa not in (None, *names):
        choices = ", ".join((*names, "numpy"))
        raise BadRequest(
            f"instruction set {isa!r} is not available here; choose one of {choices}, or leave it out", param="isa"
        )
    slow_reason = None if isa else _NO_VECTORS if names[-1] == "scalar" else isa_warning()
    return native_ops(isa=isa or names[-1], n_threads=n_threads or usable_cores()), slow_reason


def _reference_ops() -> Ops:
    from samovar.kernels.reference import ReferenceOps  # start-up waits for imports, and native operations need none of it

    return ReferenceOps()


def _check_choices(kv_type: object, weights: object, max_context: object) -> None:
    """What a type checker would see, for those who have none."""
    if kv_type is not None and kv_type not in tuple(KV_DTYPES):
        raise BadRequest(f"kv_type is {kv_type!r}; expected {', '.join(KV_DTYPES)} or None", param="kv_type")
    if weights not in get_args(WeightForm):
        raise BadRequest(f"weights is {weights!r}; expected {' or '.join(get_args(WeightForm))}", param="weights")
    if max_context is not None and (isinstance(max_context, bool) or not isinstance(max_context, int)):
        raise BadRequest(f"max_context is {max_context!r}; expected a whole number of tokens or None", param="max_context")


def kv_type_for(weights: str) -> KvType:
    """Keys and values as precise as the weights deserve: f16 beside quantised weights, as llama.cpp has it."""
    by_weights: dict[str, KvType] = {"F32": "f32", "BF16": "bf16"}
    return by_weights.get(weights, "f16")
