"""Who sends a request, and what that one may do."""

from dataclasses import dataclass

from samovar.errors import SamovarError


class NoKey(SamovarError):
    """A key is needed, and none that is valid came with the request."""


class Forbidden(SamovarError):
    """What a request asks for is not for its caller, or not for a page of that origin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The holder of a key, or whoever is on this machine where none is asked for. `id` names no secret.

    Prompts of different callers share nothing in the cache, and what one stores no other can read. None is no limit.
    """

    id: str
    name: str
    is_admin: bool = False
    max_requests_per_minute: int | None = None
    max_tokens_per_minute: int | None = None
    max_streams: int | None = None


LOCAL = Caller(id="local", name="local", is_admin=True)
ANYONE = Caller(id="anyone", name="anyone")
