"""What a caller may set per call, and where the rest comes from: the model's own defaults, then its family's."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypedDict, TypeVar, cast

from samovar.engine.request import MAX_SEED, Request, SamplingParams, Task, Thinking
from samovar.errors import BadRequest, FormatError
from samovar.llm.recipe import TextKind
from samovar.text.grammar_spec import GrammarSpec

T = TypeVar("T")
SAMPLING_FIELDS = tuple(
    f.name for f in fields(SamplingParams) if f.name not in ("stop_ids", "max_tokens", "min_tokens", "seed", "logit_bias")
)
MAX_STOPS: Final = 256
MAX_STOP_CHARS: Final = 16_384
_MAX_SAMPLES = 128
_PLAIN_DEFAULTS: Mapping[str, float] = {"temperature": 0.7, "top_p": 0.9}
_QWEN3 = ("qwen3", "qwen3_moe", "qwen3_next")
_QWEN3_THINKING: Mapping[str, float] = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
_QWEN3_FAST: Mapping[str, float] = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
_GGUF_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
    "general.sampling.penalty_present": "presence_penalty",
    "general.sampling.penalty_freq": "frequency_penalty",
}


_READ_ELSEWHERE = frozenset(
    {"bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "use_cache", "transformers_version", "_from_model_config"}
)


class Options(TypedDict, total=False):
    """Per-call options; see `SamplingParams` and `Request` for their meaning. None means: the default.

    `n` asks for several answers, with the seeds `seed`, `seed` + 1, ...; `ignore_eos` goes on after the model's own end.
    One of `json_schema` (a schema or its text), `json_object`, `regex`, `choices`, `lark` and `ebnf` (GBNF) says what the
    answer has to match (see `text.grammar_spec`); thoughts are free.
    """

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    max_tokens: int | None
    stop: str | list[str] | None
    stop_token_ids: list[int] | None
    min_tokens: int | None
    ignore_eos: bool | None
    n: int | None
    json_schema: Mapping[str, object] | str | None
    json_object: bool | None
    regex: str | None
    choices: list[str] | None
    lark: str | None
    ebnf: str | None
    logprobs: int | None
    prompt_logprobs: int | None
    priority: int | None
    deadline_s: float | None
    tenant: str | None
    adapter: str | None


class DialogueOptions(TypedDict, total=False):
    """What a chat takes beside the options of every call. None means: the default.

    `thinking` on or off needs a model that has the choice; the default is the template's. `thinking_budget` bounds the tokens
    of the thoughts (see `engine.thinking`). With `continue_final` the last message, an assistant's, is continued. `tools` are
    functions that the model may call, in OpenAI's form; `tool_choice` is "auto", "none", "required", or one or several of them
    by name. Without `parallel_tool_calls` an answer calls one at most. Calls that have to be made match their tool's schema, as
    do those of a tool that is `strict`. `template_options` are switches that the model's template reads (see
    `text.chat_template.OPTIONS`).
    """

    tools: Sequence[dict[str, object]] | None
    tool_choice: str | Mapping[str, object] | None
    parallel_tool_calls: bool | None
    thinking: bool | None
    thinking_budget: int | None
    continue_final: bool | None
    template_options: Mapping[str, object] | None


class ChatOptions(Options, DialogueOptions, total=False):
    """All options of a chat."""


class EmbedOptions(TypedDict, total=False):
    """What a caller may say of vectors.

    `kind` is "query" or "document", whose prompts differ; None is a query where there is an `instruction`, the task of the
    query, else a text that goes without a prompt. `dimensions` takes the first of them alone, for models that were trained for
    it. A text of more than `max_tokens`, or than model and context take, is refused, or cut at its end with `truncate`. A model
    whose files say nothing of vectors is refused, unless `any_model` is set: then the vector is the state after the last token.
    """

    kind: TextKind | None
    instruction: str | None
    dimensions: int | None
    truncate: bool
    max_tokens: int | None
    any_model: bool
    tenant: str
    adapter: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedAsk:
    """`EmbedOptions`, all of them."""

    kind: TextKind | None = None
    instruction: str | None = None
    dimensions: int | None = None
    truncate: bool = False
    max_tokens: int | None = None
    any_model: bool = False
    tenant: str = ""
    adapter: str | None = None


def embed_ask(options: EmbedOptions) -> EmbedAsk:
    """The options with their defaults. Raises BadRequest for an unknown one, and for a switch that is none."""
    if unknown := sorted(options.keys() - EmbedOptions.__annotations__.keys()):
        known = ", ".join(sorted(EmbedOptions.__annotations__))
        raise BadRequest(f"unknown options {unknown}; known are: {known}", param=unknown[0])
    ask = EmbedAsk(**options)
    for name, value in (("truncate", ask.truncate), ("any_model", ask.any_model)):
        if not isinstance(value, bool):
            raise BadRequest(f"{name} is {value!r}; expected True or False", param=name)
    return ask


def split_options(options: ChatOptions) -> tuple[DialogueOptions, Options]:
    """What concerns the conversation, and what concerns its answer."""
    ours = {name: value for name, value in options.items() if name in DialogueOptions.__annotations__}
    rest = {name: value for name, value in options.items() if name not in ours}
    return cast("DialogueOptions", ours), cast("Options", rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """A model's own sampling defaults, and its architecture, which decides where it has none. `is_coder` adds Qwen3-Coder's
    penalty."""

    own: Mapping[str, float]
    architecture: str
    is_coder: bool = False

    def sampling(self, *, is_thinking: bool) -> dict[str, float]:
        """The values used where the caller gives none."""
        is_qwen3 = self.architecture in _QWEN3
        is_hybrid_at_rest = is_qwen3 and not is_thinking and dict(self.own) == dict(_QWEN3_THINKING)
        if self.own and not is_hybrid_at_rest:  # a hybrid's generation_config.json speaks of its thinking mode alone
            return {"temperature": 1.0, "top_p": 1.0} | dict(self.own)
        if is_qwen3:
            coder = {"repetition_penalty": 1.05} if self.is_coder else {}
            return dict(_QWEN3_THINKING if is_thinking else _QWEN3_FAST) | coder
        return dict(_PLAIN_DEFAULTS)


def own_defaults(generation_config: Mapping[str, object], metadata: Mapping[str, object], where: str) -> dict[str, float]:
    """Sampling defaults out of a generation_config.json or GGUF metadata; `do_sample` false means greedy.

    In transformers' terms, what such a file leaves out stands at 1.0 (temperature, top_p) or off. Raises FormatError for a
    value out of range; `where` names the checkpoint.
    """
    found = {name: generation_config.get(name) for name in SAMPLING_FIELDS}
    found |= {name: _as_written(metadata[key]) for key, name in _GGUF_KEYS.items() if key in metadata}
    own = {name: value for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    if generation_config.get("do_sample") is False:
        own["temperature"] = 0.0
    try:
        SamplingParams(**own)  # type: ignore[arg-type]
    except BadRequest as error:
        raise FormatError(f"{where}: its sampling defaults are unsound: {error}") from error
    return own


def _as_written(value: object) -> object:
    """A number of a GGUF file as people wrote it: 32 bits make 0.6000000238 of 0.6."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def unread_hints(metadata: Mapping[str, object]) -> list[str]:
    """Keys of GGUF metadata that say something of sampling and that nothing here honours."""
    return sorted(
        key for key, value in metadata.items() if key.startswith("general.sampling.") and key not in _GGUF_KEYS and value
    )


def unread_defaults(generation_config: Mapping[str, object]) -> list[str]:
    """Keys of a generation_config.json that say something and that nothing here honours."""
    return sorted(
        key
        for key, value in generation_config.items()
        if value not in (None, False) and key not in SAMPLING_FIELDS and key not in _READ_ELSEWHERE
    )


def sampling_params(
    options: Options, defaults: Mapping[str, float], *, eos_ids: tuple[int, ...], vocab_size: int
) -> SamplingParams:
    """Options over defaults. Raises BadRequest for an unknown option or a value out of range."""
    if unknown := sorted(options.keys() - Options.__annotations__.keys()):
        known = ", ".join(sorted(Options.__annotations__))
        raise BadRequest(f"unknown options {unknown}; known are: {known}", param=unknown[0])
    given = {name: options[name] for name in SAMPLING_FIELDS if options.get(name) is not None}  # type: ignore[literal-required]
    seed = options.get("seed")
    stop_ids = _or_default(options.get("stop_token_ids"), [])
    if not isinstance(stop_ids, list | tuple) or any(
        isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < vocab_size for i in stop_ids
    ):
        raise BadRequest(f"stop_token_ids is {stop_ids!r}; expected ids from 0 to {vocab_size - 1}", param="stop_token_ids")
    if len(stop_ids) > MAX_STOPS:
        raise BadRequest(f"stop_token_ids has {len(stop_ids)} ids; expected at most {MAX_STOPS}", param="stop_token_ids")
    bias = _or_default(options.get("logit_bias"), {})
    if not isinstance(bias, Mapping):
        raise BadRequest(f"logit_bias is {bias!r}; expected a mapping of token ids to numbers", param="logit_bias")
    values = dict(defaults) | given
    if "top_k" in values and isinstance(values["top_k"], float) and values["top_k"].is_integer():
        values["top_k"] = int(values["top_k"])
    return SamplingParams(
        **values,
        logit_bias=tuple(bias.items()),
        seed=int.from_bytes(os.urandom(6)) if seed is None else seed,
        max_tokens=options.get("max_tokens"),
        min_tokens=_or_default(options.get("min_tokens"), 0),
        stop_ids=(*(() if options.get("ignore_eos") else eos_ids), *stop_ids),
    )


def requests(
    options: Options,
    prompt_ids: tuple[int, ...],
    params: SamplingParams,
    thinking: Thinking | None,
    *,
    grammar: GrammarSpec | None,
    task: Task = "generate",
) -> list[Request]:
    """One request for each answer that is asked for. Raises BadRequest for a value out of range, and where a grammar says when
    an answer ends, and something else does too."""
    n = _or_default(options.get("n"), 1)
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= _MAX_SAMPLES:
        raise BadRequest(f"n is {n!r}; expected a whole number from 1 to {_MAX_SAMPLES}", param="n")
    ignore_eos = options.get("ignore_eos")
    if ignore_eos is not None and not isinstance(ignore_eos, bool):
        raise BadRequest(f"ignore_eos is {ignore_eos!r}; expected True or False", param="ignore_eos")
    if grammar is not None and options.get("min_tokens"):
        raise BadRequest(f"min_tokens is given, and {grammar.param} alone says when an answer may end", param="min_tokens")
    if grammar is not None and ignore_eos:
        raise BadRequest(f"ignore_eos is on, and an answer that matches {grammar.param} has to end", param="ignore_eos")
    first = Request(
        prompt_ids=prompt_ids,
        sampling=params,
        task=task,
        grammar=grammar,
        thinking=thinking,
        logprobs=options.get("logprobs"),
        prompt_logprobs=options.get("prompt_logprobs"),
        priority=_or_default(options.get("priority"), 0),
        deadline_s=options.get("deadline_s"),
        tenant=_or_default(options.get("tenant"), ""),
        adapter=options.get("adapter"),
        stops_loops=not ignore_eos,  # who wants so many tokens gets them
    )
    seeds = [(params.seed + i) & MAX_SEED for i in range(n)]
    return [replace(first, sampling=replace(params, seed=seed)) for seed in seeds]


def stop_strings(options: Options) -> tuple[str, ...]:
    """The stop strings of a call. Raises BadRequest for anything but non-empty strings."""
    stop = options.get("stop")
    strings = [stop] if isinstance(stop, str) else _or_default(stop, [])
    if not isinstance(strings, list | tuple) or any(not isinstance(s, str) or not s for s in strings):
        raise BadRequest(f"stop is {stop!r}; expected a string or a list of strings, none of them empty", param="stop")
    if len(strings) > MAX_STOPS or sum(map(len, strings)) > MAX_STOP_CHARS:  # each token is looked at for all of them
        raise BadRequest(
            f"stop has {len(strings)} texts; expected at most {MAX_STOPS}, of {MAX_STOP_CHARS} characters", param="stop"
        )
    return tuple(strings)


def asked_grammar(options: Options) -> GrammarSpec | None:
    """What an answer has to match. Raises BadRequest for two such options, and for an unsound one."""
    makers: dict[str, Callable[[Any], GrammarSpec]] = {
        "json_schema": lambda value: GrammarSpec.json_schema(value, param="json_schema"),
        "json_object": lambda _: GrammarSpec.json_object(param="json_object"),
        "regex": lambda value: GrammarSpec.regex(value, param="regex"),
        "choices": lambda value: GrammarSpec.choice(value, param="choices"),
        "lark": lambda value: GrammarSpec.lark(value, param="lark"),
        "ebnf": lambda value: GrammarSpec.ebnf(value, param="ebnf"),
    }
    if (is_object := options.get("json_object")) is not None and not isinstance(is_object, bool):
        raise BadRequest(f"json_object is {is_object!r}; expected True or False", param="json_object")
    given: dict[str, object] = {
        name: value
        for name in makers
        if (value := options.get(name)) is not None and not (name == "json_object" and value is False)
    }
    if not given:
        return None
    first, *others = given
    if others:
        raise BadRequest(f"{first} and {others[0]} are given; expected one of them", param=others[0])
    return makers[first](given[first])


def _or_default(value: T | None, default: T) -> T:
    return default if value is None else value
