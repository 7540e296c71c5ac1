"""Text in, text out: a model, its tokenizer and its chat template behind two verbs, chat and generate.

All requests of a model go on together, in the thread of its engine, whoever waits for which.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from samovar.engine.client import EngineClient
from samovar.engine.engine import Engine
from samovar.engine.request import SamplingParams, Task
from samovar.errors import BadRequest
from samovar.formats.hub import EMBEDDED_DEFAULT
from samovar.kernels import KvType, Ops, WeightForm
from samovar.llm.answer import Answer
from samovar.llm.dialogue import read_dialogue
from samovar.llm.fill_in import Repository, fill_in_prompt, fill_in_stop_ids
from samovar.llm.local_model import LocalModel, Progress
from samovar.llm.model_card import ModelCard
from samovar.llm.model_settings import LongContextMode, ModelSettings
from samovar.llm.model_text import Prompt, RenderSettings
from samovar.llm.options import (
    ChatOptions,
    DialogueOptions,
    EmbedOptions,
    Options,
    asked_grammar,
    embed_ask,
    requests,
    sampling_params,
    split_options,
    stop_strings,
    unread_defaults,
    unread_hints,
)
from samovar.llm.prepared import Prepared, run_all
from samovar.llm.recipe import EmbeddingRecipe
from samovar.llm.result import Result
from samovar.llm.setup import as_list, as_path, check_switches
from samovar.llm.speculation import SpeculationMode
from samovar.llm.stream import Stream
from samovar.models.blocks import Decoder
from samovar.models.config import DecoderConfig
from samovar.models.packing import BackgroundPacker
from samovar.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from samovar.llm.async_stream import AsyncStream
    from samovar.llm.engine_stats import EngineStats
    from samovar.llm.prepared_scores import PreparedScores
    from samovar.llm.remote_model import RemoteModel
    from samovar.llm.scoring import Likelihood

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
        chat_template: str | None = None,
        long_context: LongContextMode = "auto",
        process: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Load a GGUF file, a Hugging Face folder, or a name in the model store; None is the embedded default.

        `n_threads` defaults to the usable cores, `max_context` (tokens) to the most that the model takes and memory holds,
        `kv_type` to f32 for f32 weights, else bf16; int8 halves their memory. `isa` forces an instruction set, `numpy` the
        reference. `weights="int4"` rounds all linear layers but the output head to 4 bits (`kernels.int4`), a draft's too:
        smaller, quicker, less exact. `draft` is a smaller model with the same vocabulary, which guesses ahead; `speculation`
        says what may (see `SpeculationMode`). Neither changes an answer, only how soon it comes. `memory` (bytes) bounds
        weights, keys and values and what else there is; without it, keys and values take what a few full contexts need, at most
        half of the free memory. `max_streams` requests run together and `max_waiting` wait; more are refused. `prefix_cache`
        lets prompts that begin alike share what was computed. `chat_template` is Jinja source that is used in place of the
        model's own. `long_context` lets requests beyond the native length go on with YaRN, where the model is made for it. With
        `process` the model runs in a process of its own, which comes back by itself after a crash. Packed weights are kept in
        the store's cache and mapped at the next start, unless `cache` is False. Where they are not there, they are packed in
        the background, while the first prompt is computed as far as they have come. `progress(done_bytes, total_bytes, tensor)`
        is called from the thread that does so. Raises a SamovarError for whatever is wrong with the path, the file, or these
        values.
        """
        settings = ModelSettings(
            path=str(EMBEDDED_DEFAULT if path_or_name is None else path_or_name),
            n_threads=n_threads,
            max_context=max_context,
            kv_type=kv_type,
            weights=weights,
            isa=isa,
            draft=None if draft is None else str(draft),
            speculation=speculation,
            cache=cache,
            memory=memory,
            max_streams=max_streams,
            max_waiting=max_waiting,
            prefix_cache=prefix_cache,
            chat_template=chat_template,
            long_context=long_context,
        )
        check_switches(cache=cache, prefix_cache=prefix_cache, process=process)
        self._opened: LocalModel | RemoteModel
        self._local: LocalModel | None = None
        if process:
            from samovar.llm.remote_model import RemoteModel as Remote  # start-up waits for imports, and few ask for it

            self._opened = Remote(settings, progress)
        else:
            self._opened = self._local = LocalModel(settings, progress)
        self._client: EngineClient = self._opened.client
        self.path, self.max_context, self.kv_type = self._opened.path, self._opened.max_context, self._opened.kv_type
        self._text = self._opened.text
        self._defaults = self.card.defaults

    @property
    def config(self) -> DecoderConfig:
        """The model's sizes and switches."""
        return self._opened.config

    @property
    def card(self) -> ModelCard:
        """What the model is: its format, sizes, template and metadata."""
        return self._opened.card

    @property
    def model(self) -> Decoder:
        """The model, where it runs in this process."""
        return self._here.model

    @property
    def ops(self) -> Ops:
        """The operations that it runs on, where it runs in this process."""
        return self._here.ops

    @property
    def packer(self) -> BackgroundPacker | None:
        """What gets the weights ready, where the model runs in this process; None where they were ready at once."""
        return self._here.packer

    @property
    def slow_reason(self) -> str | None:
        """Why answers will be slow, where they will."""
        return self._opened.slow_reason

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._text.tokenizer

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know about how the model was loaded, a line each."""
        recipe, unread = self.card.recipe, unread_defaults(self._text.generation_config)
        unread += unread_hints(self._text.metadata)
        lines = recipe.warnings if isinstance(recipe, EmbeddingRecipe) else ()
        more = f"the model's sampling defaults ask for {', '.join(unread)}, which this version does not do"
        return (*self._opened.warnings, *lines, *((more,) if unread else ()))

    @property
    def has_failed(self) -> bool:
        """Whether its process is down for good, after one crash upon the other."""
        return self._opened.has_failed

    @property
    def _engine(self) -> Engine:
        return self._here.engine

    @property
    def _here(self) -> LocalModel:
        if self._local is None:
            raise BadRequest("this needs the model in the caller's own process; open it without process=True")
        return self._local

    def check_thinking(self, thinking: bool) -> None:
        """Raises BadRequest where the model's template has no way to switch thinking so."""
        self._text.render([{"role": "user", "content": "?"}], RenderSettings(thinking=thinking))

    @overload
    def chat(self, messages: str | list[Message], **options: Unpack[ChatOptions]) -> Result: ...
    @overload
    def chat(self, messages: list[str] | list[list[Message]], **options: Unpack[ChatOptions]) -> list[Result]: ...
    def chat(
        self, messages: str | list[Message] | list[str] | list[list[Message]], **options: Unpack[ChatOptions]
    ) -> Result | list[Result]:
        """Answer a conversation (OpenAI-style messages; a string is one user message), or each of a list of conversations.

        Raises BadRequest for messages, tools or options that cannot be served, PromptTooLong when the context does not hold
        them, Overloaded when too many requests wait. An answer of a list that fails says so in its result.
        """
        if _is_list_of_conversations(messages):
            return run_all(self._client, [self.prepare_chat(one, **options) for one in messages])
        return self.prepare_chat(cast("str | Sequence[Message]", messages), **options).run()

    def prepare_chat(self, messages: str | Sequence[Message], **options: Unpack[ChatOptions]) -> Prepared:
        """Check all about a chat, and render and encode it, before any of it is computed. Raises as `chat` does."""
        self.card.check_writes_text()
        dialogue_options, rest = split_options(options)
        dialogue = read_dialogue(self._text, messages, dialogue_options, self.config.architecture)
        prompt = dialogue.prompt
        thinks = prompt.is_thinking and (dialogue.thinking is None or dialogue.thinking.budget != 0)
        params, stop = dialogue.barred(self._params(rest, is_thinking=thinks)), stop_strings(rest)
        asked = asked_grammar(rest)
        answers = [
            Answer(
                request,
                self.tokenizer.detokenizer(is_continuation=True),
                dialogue.parser(),
                stop,
                dialogue.explain,
                dialogue.tool_parser(asked),
            )
            for request in requests(rest, prompt.ids, params, dialogue.thinking, grammar=dialogue.grammar(asked))
        ]
        return Prepared(
            self._client,
            answers,
            lambda answer: dialogue.prepare_next_turn(self._client, answer),
            thinking=thinks if prompt.can_think else None,
        )

    def render_chat(self, messages: str | Sequence[Message], **options: Unpack[DialogueOptions]) -> Prompt:
        """The prompt that a conversation becomes, as text and as token ids. Raises as `chat` does."""
        return read_dialogue(self._text, messages, options, self.config.architecture).prompt

    def stream_chat(self, messages: str | Sequence[Message], **options: Unpack[ChatOptions]) -> Stream:
        """As `chat` of one conversation, piece by piece: iterate for `Delta`s; `.result` is the whole."""
        return self.prepare_chat(messages, **options).stream()

    def astream_chat(self, messages: str | Sequence[Message], **options: Unpack[ChatOptions]) -> "AsyncStream":
        """As `stream_chat`, for `async for`; to be called where an event loop runs."""
        return self.prepare_chat(messages, **options).astream()

    @overload
    def generate(self, prompt: str, **options: Unpack[Options]) -> Result: ...
    @overload
    def generate(self, prompt: list[str], **options: Unpack[Options]) -> list[Result]: ...
    def generate(self, prompt: str | list[str], **options: Unpack[Options]) -> Result | list[Result]:
        """Continue a text, or several together, each exactly as it would be continued alone.

        Control tokens in the text are parsed, and a beginning-of-text token is added where the model wants one.
        """
        if isinstance(prompt, str):
            return self.prepare_generate(prompt, **options).run()
        if not isinstance(prompt, list) or not prompt:
            raise BadRequest(f"prompt is {prompt!r}; expected a text or a list of texts", param="prompt")
        return run_all(self._client, [self.prepare_generate(text, **options) for text in prompt])

    def prepare_generate(
        self,
        prompt: str | tuple[int, ...],
        *,
        suffix: str | None = None,
        repository: Repository | None = None,
        task: Task = "generate",
        **options: Unpack[Options],
    ) -> Prepared:
        """Check all about a text, or token ids, to continue, before any of it is computed. Raises as `generate` does.

        With a `suffix` the answer is what stands between the two, for models that were trained to fill in; `repository` is what
        they are told of other files. `task` "prefill" computes the prompt alone, for its `prompt_logprobs`.
        """
        self.card.check_writes_text()
        if not isinstance(prompt, str | tuple):
            raise BadRequest(f"prompt is {prompt!r}; expected a text", param="prompt")
        if repository is not None and not isinstance(repository, Repository):
            raise BadRequest(f"repository is a {type(repository).__name__}; expected a samovar.Repository", param="repository")
        if repository is not None and suffix is None:
            raise BadRequest(
                "repository is given without suffix; give both, with a suffix of '' at a file's end", param="suffix"
            )
        if suffix is not None:
            prompt_ids = fill_in_prompt(self.tokenizer, prompt, suffix, repository)
            ends = [] if options.get("ignore_eos") else fill_in_stop_ids(self.tokenizer)
            options["stop_token_ids"] = [*(options.get("stop_token_ids") or ()), *ends]
        else:
            prompt_ids = tuple(self.tokenizer.encode(prompt)) if isinstance(prompt, str) else prompt
        params, stop = self._params(options, is_thinking=False), stop_strings(options)
        answers = [
            Answer(request, self.tokenizer.detokenizer(is_continuation=True), None, stop, lambda _: None)
            for request in requests(options, prompt_ids, params, None, grammar=asked_grammar(options), task=task)
        ]
        return Prepared(self._client, answers)

    def fill_in(self, prefix: str, suffix: str, *, repository: Repository | None = None, **options: Unpack[Options]) -> Result:
        """What stands between two texts, from a model for code; `repository` tells it of other files.

        Control tokens in the texts are ordinary text. Raises BadRequest for a model that was not trained to fill in.
        """
        return self.prepare_generate(prefix, suffix=suffix, repository=repository, **options).run()

    def stream_fill_in(
        self, prefix: str, suffix: str, *, repository: Repository | None = None, **options: Unpack[Options]
    ) -> Stream:
        """As `fill_in`, piece by piece."""
        return self.prepare_generate(prefix, suffix=suffix, repository=repository, **options).stream()

    def stream_generate(self, prompt: str, **options: Unpack[Options]) -> Stream:
        """As `generate`, piece by piece."""
        return self.prepare_generate(prompt, **options).stream()

    def astream_generate(self, prompt: str, **options: Unpack[Options]) -> "AsyncStream":
        """As `stream_generate`, for `async for`; to be called where an event loop runs."""
        return self.prepare_generate(prompt, **options).astream()

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits [T, V] after every token, float32. Raises BadRequest or PromptTooLong as `generate` does."""
        self.card.check_writes_text()
        if not isinstance(token_ids, Iterable) or isinstance(token_ids, str):
            raise BadRequest(f"token_ids is {token_ids!r}; expected a list of ids", param="token_ids")
        ids = tuple(token_ids)
        return self._here.client.call(lambda engine: engine.logits(ids))

    def embed(self, texts: str | list[str], **options: Unpack[EmbedOptions]) -> NDArray[np.float32]:
        """A vector of length 1 for a text [D], or for each of a list [S, D], as the model's recipe makes it.

        `options` are those of `EmbedOptions`. Raises BadRequest, for a model without a recipe too, or PromptTooLong.
        """
        vectors_SD = self.prepare_embed(as_list(texts, "texts"), **options).run()
        return vectors_SD[0] if isinstance(texts, str) else vectors_SD

    def prepare_embed(
        self, texts: Sequence[str | tuple[int, ...]], **options: Unpack[EmbedOptions]
    ) -> "PreparedScores[NDArray[np.float32]]":
        """As `embed` of a list, of texts or token ids, before any of it is computed."""
        from samovar.llm.vectors import prepare_embed

        return prepare_embed(self._client, self.card, texts, embed_ask(options), max_context=self.max_context)

    def rerank(
        self,
        query: str,
        documents: list[str],
        *,
        instruction: str | None = None,
        any_model: bool = False,
        tenant: str = "",
    ) -> list[float]:
        """How well each document answers the query, 0 to 1: the probability of "yes" against "no" in Qwen3-Reranker's prompt.

        `instruction` says what the query is for (default: a web search). A model that is no reranker is refused, unless
        `any_model` is set. Raises BadRequest or PromptTooLong.
        """
        pairs = [(query, document) for document in as_list(documents, "documents")]
        return self.prepare_rerank(pairs, instruction=instruction, any_model=any_model, tenant=tenant).run()

    def prepare_rerank(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        instruction: str | None = None,
        any_model: bool = False,
        tenant: str = "",
        adapter: str | None = None,
    ) -> "PreparedScores[list[float]]":
        """As `rerank`, of pairs of a query and a document, before any of it is computed."""
        from samovar.llm.scoring import prepare_rerank, rerank_recipe

        check_switches(any_model=any_model)
        recipe = rerank_recipe(self.card, any_model=any_model)
        return prepare_rerank(
            self._client, self.tokenizer, pairs, recipe, instruction=instruction, tenant=tenant, adapter=adapter
        )

    def log_likelihoods(self, pairs: list[tuple[str, str]], *, tenant: str = "") -> "list[Likelihood]":
        """How likely each pair's second text is after its first. Raises BadRequest or PromptTooLong."""
        from samovar.llm.scoring import log_likelihoods

        self.card.check_writes_text()
        return log_likelihoods(self._client, self.tokenizer, pairs, tenant=tenant)

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Load a PEFT LoRA folder; requests use it by `adapter=name`. Raises ModelNotFound, FormatError or
        BadRequest."""
        if not isinstance(name, str) or not name or not name.isprintable():
            raise BadRequest(f"name is {name!r}; expected a text of one line", param="name")
        self._opened.load_adapter(name, as_path(path, "path"))

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises BadRequest for one that is not loaded, or that open requests use."""
        self._opened.unload_adapter(name)

    def save_prefixes(self, folder: str | Path) -> int:
        """Keep what was computed for prompts in a file in `folder`, for this model and its settings; the tokens that it holds.

        The file holds the prompts' tokens, readable by the file's owner alone. Raises StoreError where the disk refuses,
        UnsupportedModel for a model with recurrent states (`qwen3_next`), whose cache lasts as long as the process.
        """
        return self._opened.save_prefixes(as_path(folder, "folder"))

    def load_prefixes(self, folder: str | Path) -> int:
        """Take up what `save_prefixes` kept, as far as pages are free; the tokens. Raises StoreError, FormatError or
        UnsupportedModel."""
        return self._opened.load_prefixes(as_path(folder, "folder"))

    def stats(self, timeout_s: float | None = None) -> "EngineStats":
        """What the engine is about, in numbers. Raises EngineFailed for a process that is down, or silent for `timeout_s`."""
        return self._opened.stats(timeout_s)

    def settle(self) -> None:
        """Wait until all requests have ended and the next turns of conversations are prepared."""
        self._client.settle()

    def __enter__(self) -> "LLM":
        """For `with`, which closes the model."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop working, after the step that is running. Answers that are open end with EngineFailed."""
        self._client.close()
        if self._local is not None and self._local.packer is not None:
            self._local.packer.stop()

    def _params(self, options: Options, *, is_thinking: bool) -> SamplingParams:
        return sampling_params(
            options,
            self._defaults.sampling(is_thinking=is_thinking),
            eos_ids=self._text.eos_ids,
            vocab_size=self.config.vocab_size,
        )


def _is_list_of_conversations(
    messages: str | list[Message] | list[str] | list[list[Message]],
) -> TypeGuard[list[str] | list[list[Message]]]:
    return (
        isinstance(messages, Sequence)
        and not isinstance(messages, str)
        and bool(messages)
        and not any(isinstance(item, Mapping) for item in messages)
    )
