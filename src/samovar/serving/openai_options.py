"""What OpenAI's chat and completions requests have in common: sampling fields, structured answers, usage, finish reasons."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from samovar.engine.request import Logprob
from samovar.errors import BadRequest
from samovar.llm.options import Options
from samovar.llm.result import Result
from samovar.serving.body import Fields, Unsupported
from samovar.text.tokenizer import Tokenizer

COMMON_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "metadata": Unsupported("answers are not stored; use /v1/responses", ({},)),
    "service_tier": Unsupported("there is one tier here", ("auto", "default")),
    "best_of": Unsupported("ask for n answers and choose among them", (1,)),
    "use_beam_search": Unsupported("answers are sampled", (False,)),
    "length_penalty": Unsupported("it belongs to beam search", (1, 1.0)),
    "truncate_prompt_tokens": Unsupported("prompts are never cut"),
    "skip_special_tokens": Unsupported("control tokens are never shown", (True,)),
    "spaces_between_special_tokens": Unsupported("control tokens are never shown", (True,)),
    "include_stop_str_in_output": Unsupported("a stop string is told as stop_reason", (False,)),
    "bad_words": Unsupported("use logit_bias or a grammar", ([],)),
    "allowed_token_ids": Unsupported("use a grammar"),
}


class StreamOptions(Fields, kw_only=True, frozen=True):
    """`stream_options`."""

    include_usage: bool | None = None
    continuous_usage_stats: Literal[False] | None = None
    include_obfuscation: Literal[False] | None = None


class StructuredOutputs(Fields, kw_only=True, frozen=True):
    """`structured_outputs`, as vLLM has it."""

    json: dict[str, Any] | str | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class CommonFields(Fields, kw_only=True, frozen=True):
    """Fields of both routes."""

    model: str | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    prompt_logprobs: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    priority: int | None = None
    timeout_s: float | None = None
    cache_salt: str | None = None
    # These ask for nothing: who the end user is, and which prompts begin alike, which the cache finds by their tokens.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


def common_options(fields: CommonFields) -> Options:
    """The options of a call. Raises BadRequest for fields that contradict each other."""
    if fields.stream_options is not None and not fields.stream:
        raise BadRequest("stream_options is given, and stream is off; expected stream: true with it", param="stream_options")
    if fields.prompt_logprobs is not None and fields.stream:
        raise BadRequest("prompt_logprobs is given, which a stream has no place for; leave stream out", param="prompt_logprobs")
    options: Options = {
        "n": fields.n,
        "temperature": fields.temperature,
        "top_p": fields.top_p,
        "top_k": None if fields.top_k in (-1, 0) else fields.top_k,
        "min_p": fields.min_p,
        "presence_penalty": fields.presence_penalty,
        "frequency_penalty": fields.frequency_penalty,
        "repetition_penalty": fields.repetition_penalty,
        "logit_bias": _logit_bias(fields.logit_bias),
        "seed": fields.seed,
        "stop": fields.stop or None,
        "stop_token_ids": fields.stop_token_ids,
        "max_tokens": fields.max_tokens,
        "min_tokens": fields.min_tokens,
        "ignore_eos": fields.ignore_eos,
        "prompt_logprobs": fields.prompt_logprobs,
        "priority": fields.priority,
        "deadline_s": fields.timeout_s,
    }
    for name, grammar in _grammars(fields):
        if given := {key: value for key, value in grammar.items() if value not in (None, False)}:
            if already := options.keys() & {"json_schema", "json_object", "regex", "choices", "ebnf", "lark"}:
                raise BadRequest(f"{name} is given beside another field that says what to match ({min(already)})", param=name)
            options.update(given)  # type: ignore[typeddict-item]
    return options


def option_names(fields: CommonFields) -> dict[str, str]:
    """The fields that options come from, where they are called otherwise: see `body.naming`."""
    grammars = {option: name for name, grammar in _grammars(fields) for option in grammar if grammar[option] is not None}
    return {"deadline_s": "timeout_s", **grammars}


def response_format(given: Mapping[str, Any], param: str = "response_format") -> dict[str, Any]:
    """`response_format` as options. Raises BadRequest for what it does not know."""
    kind = given.get("type")
    if kind == "text" and len(given) == 1:
        return {}
    if kind == "json_object" and len(given) == 1:
        return {"json_object": True}
    if kind == "json_schema" and given.keys() <= {"type", "json_schema"}:
        named = given.get("json_schema")
        if not isinstance(named, dict) or not isinstance(named.get("schema"), dict):
            raise BadRequest(f"{param}.json_schema.schema is missing; expected a JSON schema", param=f"{param}.json_schema")
        if unknown := sorted(named.keys() - {"name", "description", "schema", "strict"}):
            raise BadRequest(f"{param}.json_schema.{unknown[0]} is no field that is known here", param=param)
        return {"json_schema": named["schema"]}
    raise BadRequest(
        f"{param} is {given!r}; expected type text, json_object, or json_schema with json_schema: {{name, schema}}", param=param
    )


def finish_reason(result: Result) -> str:
    """In OpenAI's words: what was cut short by a deadline or as a loop counts as too long."""
    if result.tool_calls and result.finish_reason == "stop":
        return "tool_calls"
    return {"stop": "stop", "length": "length", "deadline": "length", "loop": "length"}.get(result.finish_reason, "stop")


def finish_details(result: Result) -> dict[str, object]:
    """What OpenAI has no words for, as far as there is something to tell, beside the finish reason."""
    told = {
        "stop_reason": result.stop or (result.finish_reason if result.finish_reason in ("deadline", "loop") else None),
        "thinking_stopped": result.thinking_stopped,
        "cache_miss_reason": result.cache_miss_reason,
        "yarn_factor": result.usage.yarn_factor if result.usage.yarn_factor > 1 else None,
    }
    return {name: value for name, value in told.items() if value is not None}


def usage(results: Sequence[Result], n: int | None = None) -> dict[str, object]:
    """Tokens of all answers to one prompt, or of `n` to each of several."""
    firsts = results[:: n or len(results)]
    n_prompt, n_completion = sum(r.usage.n_prompt for r in firsts), sum(r.usage.n_completion for r in results)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": sum(r.usage.n_cached for r in firsts)},
        "completion_tokens_details": {
            "reasoning_tokens": sum(r.usage.n_thinking for r in results),
            "accepted_prediction_tokens": sum(r.usage.n_accepted for r in results),
            "rejected_prediction_tokens": sum(r.usage.n_drafted - r.usage.n_accepted for r in results),
        },
    }


def token_logprob(tokenizer: Tokenizer, token_id: int, value: float) -> dict[str, object]:
    """One token of a chat's logprobs."""
    raw = tokenizer.token_bytes(token_id)
    return {"token": raw.decode("utf-8", "replace"), "logprob": value, "bytes": list(raw)}


def chat_logprobs(tokenizer: Tokenizer, ids: Sequence[int], logprobs: Sequence[Logprob | None]) -> dict[str, object]:
    """`choices[].logprobs` of a chat: those of the answer's tokens, without those that were put there and not chosen."""
    content = [
        token_logprob(tokenizer, token_id, entry.value)
        | {"top_logprobs": [token_logprob(tokenizer, i, value) for i, value in entry.top]}
        for token_id, entry in zip(ids, logprobs, strict=True)
        if entry is not None
    ]
    return {"content": content, "refusal": None}


def prompt_logprobs(tokenizer: Tokenizer, ids: Sequence[int], entries: Sequence[Logprob]) -> list[object]:
    """vLLM's form: for each token of the prompt what was likely at its place, by id, the token itself first; None for the
    first. The rank of a token that is not among the likeliest is not known, and None."""

    def entry(of: Logprob, token_id: int, value: float) -> dict[str, object]:
        rank = next((rank for rank, (top_id, _) in enumerate(of.top, 1) if top_id == token_id), None)
        return {"logprob": value, "rank": rank, "decoded_token": tokenizer.token_text(token_id)}

    return [
        None,
        *(
            {str(i): entry(of, i, value) for i, value in ((token_id, of.value), *of.top)}
            for token_id, of in zip(ids[1:], entries, strict=True)
        ),
    ]


def _logit_bias(given: Mapping[str, float] | None) -> dict[int, float] | None:
    if given is None:
        return None
    if wrong := [key for key in given if not key.isascii() or not key.isdigit()]:
        raise BadRequest(f"logit_bias has the key {wrong[0]!r}; expected token ids", param="logit_bias")
    return {int(key): value for key, value in given.items()}


def _grammars(fields: CommonFields) -> list[tuple[str, dict[str, Any]]]:
    """Every field that says what to match, as options."""
    outputs = fields.structured_outputs or StructuredOutputs()
    return [
        ("response_format", response_format(fields.response_format) if fields.response_format is not None else {}),
        (
            "structured_outputs",
            {
                "json_schema": outputs.json,
                "json_object": outputs.json_object,
                "regex": outputs.regex,
                "choices": outputs.choice,
                "ebnf": outputs.grammar,
            },
        ),
        ("guided_json", {"json_schema": fields.guided_json}),
        ("guided_regex", {"regex": fields.guided_regex}),
        ("guided_choice", {"choices": fields.guided_choice}),
        ("guided_grammar", {"ebnf": fields.guided_grammar}),
    ]


def with_seed(results: Sequence[Result]) -> dict[str, int]:
    """The seed of the first answer, with which the same request gives the same answers again."""
    return {"seed": results[0].seed}
