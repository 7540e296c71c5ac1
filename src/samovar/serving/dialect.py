"""A dialect: routes with a form of errors of their own. And what another package adds to a server's own dialects."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Scope

from samovar.serving.caller import Caller
from samovar.serving.failures import Failure
from samovar.serving.server import Server, Table

Life = Callable[[Server], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Routes below a prefix, and the form that errors have there."""

    prefix: str
    routes: Table
    error_reply: Callable[[Failure, str], Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """What is served beside the server's own dialects, behind the same gate.

    Below `prefix` it is `find_caller` that says who sends a request, and API keys are of no use; it raises a SamovarError for
    whoever may not come in. Anybody may have the `open_paths`, a path that ends in `/` with all below it. `upload_paths` take
    bodies as large as files may be. `lives` go on from the server's start to its end.
    """

    prefix: str
    dialects: Sequence[Dialect]
    find_caller: Callable[[Scope], Awaitable[Caller]]
    open_paths: Sequence[str] = ()
    upload_paths: frozenset[str] = frozenset()
    lives: Sequence[Life] = ()

    def is_open(self, path: str) -> bool:
        """Whether anybody may have what is at a path."""
        return any(path == one or (len(one) > 1 and one.endswith("/") and path.startswith(one)) for one in self.open_paths)

    def is_own(self, path: str) -> bool:
        """Whether it says itself who its callers are."""
        return path.startswith(f"{self.prefix}/")
