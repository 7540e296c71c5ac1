"""What Ollama's requests have in common: `options`, `format`, `think`, `keep_alive`, `logprobs`."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from starlette.requests import Request

from samovar.errors import BadRequest
from samovar.llm.options import ChatOptions
from samovar.serving.body import Fields, Unsupported, read_fields
from samovar.serving.caller import Forbidden
from samovar.serving.registry import Registry
from samovar.serving.server import caller_of
from samovar.serving.thinking_words import EFFORTS, ThinkingAsk, read_thinking

_AT_START: Final = "it is set when the server starts, for all requests"
_NO_GPU: Final = "models run on the CPU here"
UNSUPPORTED_OPTIONS: Final[Mapping[str, Unsupported]] = {
    "repeat_last_n": Unsupported("penalties look at the whole text", (-1,)),
    "penalize_newline": Unsupported("newlines count like other tokens", (True,)),
    "mirostat": Unsupported("use temperature, top_k, top_p or min_p", (0,)),
    "mirostat_tau": Unsupported("there is no mirostat", (5.0, 5)),
    "mirostat_eta": Unsupported("there is no mirostat", (0.1,)),
    "tfs_z": Unsupported("use top_p or min_p", (1.0, 1)),
    "typical_p": Unsupported("use top_p or min_p", (1.0, 1)),
    "num_batch": Unsupported("prompts are cut as the load of the server has it"),
    "num_gpu": Unsupported(_NO_GPU, (0, -1)),
    "main_gpu": Unsupported(_NO_GPU, (0,)),
    "low_vram": Unsupported(_NO_GPU, (False,)),
    "num_thread": Unsupported(_AT_START, (0,)),
    "numa": Unsupported(_AT_START, (False,)),
    "f16_kv": Unsupported(_AT_START),
    "draft_num_predict": Unsupported(_AT_START),
    "use_mmap": Unsupported("weights are always mapped", (True,)),
    "use_mlock": Unsupported("weights are mapped, and not locked", (False,)),
    "logits_all": Unsupported("use logprobs", (False,)),
    "vocab_only": Unsupported("models are loaded whole", (False,)),
    "embedding_only": Unsupported("use /api/embed", (False,)),
}
_DURATION: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FOR_EVER_S: Final = 100 * 365 * 86_400.0  # longer than any server runs

Penalty = Annotated[float, msgspec.Meta(gt=0, le=100)]


class OptionFields(Fields, kw_only=True, frozen=True):
    """`options`. `num_keep` is honoured whatever it is: all of a prompt is kept."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    num_predict: int | None = None
    num_ctx: Annotated[int, msgspec.Meta(ge=1)] | None = None
    num_keep: int | None = None
    repeat_penalty: Penalty | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class RunFields(Fields, kw_only=True, frozen=True):
    """Fields of both routes that write text."""

    model: str
    stream: bool | None = None
    options: dict[str, Any] | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    keep_alive: float | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


def read_options(options: Mapping[str, Any] | None) -> OptionFields:
    """`options`, each one known. Raises BadRequest naming one that is not, or cannot be honoured."""
    return read_fields(OptionFields, dict(options or {}), UNSUPPORTED_OPTIONS)


def run_options(fields: RunFields, given: OptionFields) -> ChatOptions:
    """The options of a call. Raises BadRequest for fields that contradict each other, or are out of range."""
    if fields.top_logprobs and not fields.logprobs:
        raise BadRequest("top_logprobs is given, and logprobs is off; expected logprobs: true with it", param="top_logprobs")
    n_predict = given.num_predict
    if n_predict is not None and n_predict < 1 and n_predict not in (-1, -2):
        raise BadRequest(
            f"num_predict is {n_predict}; expected 1 or more tokens, or -1 for as many as the context holds",
            param="num_predict",
        )
    return {
        "temperature": given.temperature,
        "top_k": None if given.top_k is None else max(0, given.top_k),  # 0 and below are all tokens
        "top_p": given.top_p,
        "min_p": given.min_p,
        "seed": None if given.seed == -1 else given.seed,
        "stop": given.stop or None,
        "max_tokens": None if n_predict is None or n_predict < 0 else n_predict,
        "repetition_penalty": given.repeat_penalty,
        "presence_penalty": given.presence_penalty,
        "frequency_penalty": given.frequency_penalty,
        "logprobs": (fields.top_logprobs or 0) if fields.logprobs else None,
        **_grammar(fields.format),
    }


def thinking_ask(think: bool | str | None) -> ThinkingAsk:
    """`think`: on, off, or with an effort. Raises BadRequest."""
    if isinstance(think, str) and think not in EFFORTS:
        raise BadRequest(f"think is {think!r}; expected true, false, low, medium or high", param="think")
    return read_thinking({"think": think})


def keep_alive_s(value: float | str | None) -> float | None:
    """Seconds that a model stays open after its last use, infinite for ever; None where nothing is said.

    Numbers are seconds, texts Go's durations ("1h30m") or numbers; below 0 is for ever. Raises BadRequest.
    """
    if value is None:
        return None
    seconds = _seconds(value) if isinstance(value, str) else value
    return math.inf if seconds < 0 or seconds > _FOR_EVER_S else seconds


def check_keep_alive(request: Request, seconds: float | None) -> None:
    """Raises Forbidden where a caller without an admin's key would close a model that others use, or keep it for ever."""
    if seconds is not None and (seconds == 0 or math.isinf(seconds)) and not caller_of(request).is_admin:
        raise Forbidden("keep_alive: to close a model, or to keep it open for ever, takes an admin's key")


def keep_alive(registry: Registry, model: str, seconds: float | None) -> None:
    """Have a model stay open as `keep_alive_s` says."""
    if seconds is not None:
        registry.keep_alive(model, None if math.isinf(seconds) else seconds)


def _seconds(text: str) -> float:
    sign, amount = (-1, text[1:]) if text.startswith("-") else (1, text)
    parts = list(_DURATION.finditer(amount))
    if amount and "".join(part.group() for part in parts) == amount:
        return sign * sum(float(part[1]) * _UNITS_S[part[2]] for part in parts)
    if re.fullmatch(r"\d{1,18}", amount, re.ASCII):
        return sign * float(amount)
    raise BadRequest(
        f'keep_alive is {text!r}; expected seconds, or a duration such as "5m" or "1h30m", below 0 for ever', param="keep_alive"
    )


def _grammar(form: str | dict[str, Any] | None) -> ChatOptions:
    if isinstance(form, dict):
        return {"json_schema": form}
    if form not in (None, "", "json"):
        raise BadRequest(f'format is {form!r}; expected "json" or a JSON schema', param="format")
    return {"json_object": True} if form else {}
