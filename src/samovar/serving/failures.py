"""What goes wrong, as clients are told: a failure in no dialect's words, and its form in OpenAI's."""

from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from samovar.errors import (
    BadRequest,
    DownloadError,
    EngineFailed,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
    PromptTooLong,
    SamovarError,
)
from samovar.serving.bodies import BodyTooLarge, BodyTooSlow, TooBusy
from samovar.serving.caller import Forbidden, NoKey
from samovar.serving.drain import ShuttingDown
from samovar.serving.limits import LimitReached
from samovar.serving.records import NoSuchRecord
from samovar.serving.replies import json_reply

INTERNAL: Final = "an internal error happened; the server's log says more under this request's id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong, in no dialect's words. `kind` is OpenAI's error type; `retry_s` is when to try again."""

    status: int
    kind: str
    message: str
    param: str | None = None
    code: str | None = None
    retry_s: float | None = None


class Refused(SamovarError):
    """An error that says itself how clients are told of it: by a status, and by a code for programs."""

    def __init__(self, message: str, *, status: int, code: str, retry_s: float | None = None) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.failure = Failure(status=status, kind=kind, message=message, code=code, retry_s=retry_s)


def failure_of(error: Exception) -> Failure:
    """What to tell a client about an error. Bugs of our own are not told in detail."""
    if not isinstance(error, SamovarError):
        return Failure(status=500, kind="server_error", message=INTERNAL, code="internal_error")
    if isinstance(error, Refused):
        return error.failure
    message = str(error)
    if (found := _at_the_gate(error)) is not None:
        return found
    if isinstance(error, PromptTooLong):
        return Failure(
            status=400, kind="invalid_request_error", message=message, param=error.param, code="context_length_exceeded"
        )
    if isinstance(error, BadRequest):
        return Failure(status=400, kind="invalid_request_error", message=message, param=error.param, code="invalid_value")
    if isinstance(error, ModelNotFound):
        return Failure(status=404, kind="invalid_request_error", message=message, param="model", code="model_not_found")
    if isinstance(error, NoSuchRecord):
        return Failure(status=404, kind="invalid_request_error", message=message, code="not_found")
    if isinstance(error, LimitReached):
        return Failure(status=429, kind="rate_limit_error", message=message, code="rate_limit_exceeded", retry_s=error.retry_s)
    if isinstance(error, Overloaded):
        return Failure(status=503, kind="server_error", message=message, code="overloaded", retry_s=error.wait_s)
    if isinstance(error, OutOfMemory):
        return Failure(status=503, kind="server_error", message=message, code="out_of_memory")
    if isinstance(error, DownloadError):
        return Failure(status=502, kind="server_error", message=message, code="download_failed")
    code = "engine_failed" if isinstance(error, EngineFailed) else "server_error"
    return Failure(status=500, kind="server_error", message=message, code=code)


def _at_the_gate(error: SamovarError) -> Failure | None:
    """What to tell a client that has not come in."""
    message = str(error)
    if isinstance(error, NoKey):
        return Failure(status=401, kind="authentication_error", message=message, code="invalid_api_key")
    if isinstance(error, Forbidden):
        return Failure(status=403, kind="permission_error", message=message, code="forbidden")
    if isinstance(error, BodyTooLarge):
        return Failure(status=413, kind="invalid_request_error", message=message, code="request_too_large")
    if isinstance(error, BodyTooSlow):
        return Failure(status=408, kind="invalid_request_error", message=message, code="request_timeout")
    if isinstance(error, TooBusy):
        return Failure(status=503, kind="server_error", message=message, code="overloaded", retry_s=error.wait_s)
    if isinstance(error, ShuttingDown):
        return Failure(status=503, kind="server_error", message=message, code="shutting_down", retry_s=5.0)
    return None


def error_body(failure: Failure) -> dict[str, object]:
    """OpenAI's error object."""
    return {
        "error": {"message": failure.message, "type": failure.kind, "param": failure.param, "code": failure.code},
    }


def openai_error(failure: Failure, _: str) -> Response:
    """A reply with OpenAI's error object."""
    return json_reply(error_body(failure), failure.status, retry_headers(failure))


def retry_headers(failure: Failure) -> dict[str, str]:
    """When to try again, where it makes sense."""
    return {} if failure.retry_s is None else {"Retry-After": str(max(1, round(failure.retry_s)))}
