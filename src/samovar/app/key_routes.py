"""API keys over HTTP, for admins: the same file that `samovar keys` works on."""

import asyncio
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar.app.app import App, AppTable
from samovar.app.message_rows import NotFound
from samovar.app.users import require_admin
from samovar.serving.body import Fields, read_body
from samovar.serving.keys import Key, KeyFile
from samovar.serving.replies import json_reply


class KeyFields(Fields, kw_only=True, frozen=True):
    """A key to be made; None is no limit, or no end."""

    name: str
    is_admin: bool = False
    days: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_streams: int | None = None


class ShownKey(msgspec.Struct, kw_only=True, frozen=True):
    """What is shown of a key."""

    id: str
    name: str
    created_ms: int
    expires_ms: int | None
    is_admin: bool
    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_streams: int | None


@dataclass(frozen=True, slots=True)
class KeyRoutes:
    """The routes over a file of keys."""

    file: KeyFile

    def table(self) -> AppTable:
        """All routes."""
        return (
            ("GET", "/keys", self.list_keys),
            ("POST", "/keys", self.make_key),
            ("DELETE", "/keys/{name}", self.revoke_key),
        )

    async def list_keys(self, _: App, request: Request) -> Response:
        """All keys, without what opens anything."""
        require_admin(request)
        return json_reply({"keys": [_shown(key) for key in await asyncio.to_thread(self.file.read)]})

    async def make_key(self, _: App, request: Request) -> Response:
        """Make a key, whose text is shown this once."""
        require_admin(request)
        options = msgspec.structs.asdict(read_body(KeyFields, await request.body(), {}))
        name = options.pop("name")
        return json_reply({"key": await asyncio.to_thread(lambda: self.file.create(name, **options))}, 201)

    async def revoke_key(self, _: App, request: Request) -> Response:
        """Forget a key."""
        require_admin(request)
        name = request.path_params["name"]
        if all(name not in (key.name, key.id) for key in await asyncio.to_thread(self.file.read)):
            raise NotFound("key", name)
        await asyncio.to_thread(self.file.revoke, name)
        return json_reply({})


def _shown(key: Key) -> ShownKey:
    return ShownKey(
        id=key.id,
        name=key.name,
        created_ms=key.created_s * 1000,
        expires_ms=None if key.expires_s is None else key.expires_s * 1000,
        is_admin=key.is_admin,
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        max_streams=key.max_streams,
    )
