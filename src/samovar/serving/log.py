"""Logs: a line for each request, as JSON or as text, with numbers and names and nothing of what was said."""

import json
import logging
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, Literal, TextIO

from samovar.serving.record import Record

LogFormat = Literal["text", "json"]
LOG: Final = logging.getLogger("samovar.serving")
REQUEST_ID: Final[ContextVar[str | None]] = ContextVar("samovar_request_id", default=None)  # of the request that is served
_QUIET: Final = ("/health", 200)  # whoever watches over the server asks every few seconds
_MAX_PATH_CHARS: Final = 200


def log_request(record: Record) -> None:
    """A line about a request that is over."""
    if (record.path, record.status) != _QUIET:
        LOG.info("request", extra={"fields": _fields(record)})


def start_log(stream: TextIO, form: LogFormat) -> None:
    """Send the server's log, and that of the HTTP library below it from warnings on, to a stream."""
    out = logging.StreamHandler(stream)
    out.setFormatter(_JsonLines() if form == "json" else _TextLines())
    for name, level in (("samovar", logging.INFO), ("uvicorn", logging.WARNING), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [out], False
        logger.setLevel(level)


def _fields(record: Record) -> Mapping[str, object]:
    first = record.first_token_s
    path = {} if record.route else {"path": record.path[:_MAX_PATH_CHARS]}
    return {
        "request_id": record.request_id,
        "caller": record.caller.name,
        "client": record.client,
        "method": record.method,
        "route": record.route or None,
        **path,
        "model": record.model or None,
        "status": record.status,
        "prompt_tokens": record.n_prompt,
        "cached_tokens": record.n_cached,
        "completion_tokens": record.n_completion,
        "reasoning_tokens": record.n_reasoning,
        "yarn_factor": record.yarn_factor,
        "first_token_s": None if first is None else round(first, 4),
        "duration_s": round(record.duration_s, 4),
        "client_gone": record.is_client_gone,
    }


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = record.__dict__.get("fields", {})
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **fields,
        }
        if "request_id" not in line and (request_id := REQUEST_ID.get()) is not None:
            line["request_id"] = request_id
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _TextLines(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback has lines of its own."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = record.__dict__.get("fields")
        if fields is not None:
            return f"{at} {_summary(fields)}"
        request_id = REQUEST_ID.get()
        where = f" [{request_id}]" if request_id is not None else ""
        text = f"{at} {record.levelname.lower()}: {ascii(record.getMessage())[1:-1]}{where}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _summary(fields: Mapping[str, object]) -> str:
    target = fields["route"] or ascii(fields["path"])[1:-1]
    parts = [f"{fields['method']} {target} {fields['status']} {fields['duration_s']} s"]
    if fields["model"] is not None:
        parts.append(f"{fields['model']}: {fields['prompt_tokens']} + {fields['completion_tokens']} tokens")
    if fields["first_token_s"] is not None:
        parts.append(f"first after {fields['first_token_s']} s")
    if fields["yarn_factor"] != 1:
        parts.append(f"YaRN factor {fields['yarn_factor']}")
    if fields["client_gone"]:
        parts.append("client gone")
    return ", ".join([*parts, str(fields["caller"]), str(fields["request_id"])])
