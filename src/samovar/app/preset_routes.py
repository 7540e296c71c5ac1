"""Presets, which are a system prompt, a model and settings under a name; and preferences, which the page keeps as it likes."""

import sqlite3
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from samovar.app.app import App, AppTable
from samovar.app.database import new_id, now_ms
from samovar.app.message_rows import NotFound
from samovar.app.shapes import Settings, stored_settings, to_json
from samovar.app.users import user_of
from samovar.errors import BadRequest
from samovar.serving.body import Fields, read_body
from samovar.serving.replies import json_reply

_MAX_PRESETS: Final = 200
_MAX_PREFERENCES_BYTES: Final = 64 << 10
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
System = Annotated[str, msgspec.Meta(max_length=200_000)]


class Preset(msgspec.Struct, kw_only=True, frozen=True):
    """A preset as it goes over the wire."""

    id: str
    name: str
    system: str
    model: str | None
    settings: Settings


class NewPreset(Fields, kw_only=True, frozen=True):
    """A preset to be made."""

    name: Name
    system: System = ""
    model: str | None = None
    settings: Settings = Settings()


class PresetChange(Fields, kw_only=True, frozen=True):
    """What of a preset is to be changed; None takes the model away."""

    name: Name | UnsetType = UNSET
    system: System | UnsetType = UNSET
    model: str | UnsetType | None = UNSET
    settings: Settings | UnsetType = UNSET


def presets_of(file: sqlite3.Connection, user_id: str) -> list[Preset]:
    """A user's presets, by name."""
    query = "SELECT * FROM presets WHERE user_id = ? ORDER BY name COLLATE NOCASE, id"
    return [_preset(row) for row in file.execute(query, (user_id,))]


def insert_preset(file: sqlite3.Connection, user_id: str, preset: Preset) -> None:
    """Write a preset. Raises BadRequest where there are too many."""
    if file.execute("SELECT count(*) FROM presets WHERE user_id = ?", (user_id,)).fetchone()[0] >= _MAX_PRESETS:
        raise BadRequest(f"there are {_MAX_PRESETS} presets, as many as are kept; delete one first")
    file.execute(
        "INSERT INTO presets (id, user_id, name, system, model, settings_json, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (preset.id, user_id, preset.name, preset.system, preset.model, to_json(preset.settings), now_ms()),
    )


def preferences_of(file: sqlite3.Connection, user_id: str) -> bytes:
    """A user's preferences, as JSON text."""
    row = file.execute("SELECT value_json FROM preferences WHERE user_id = ?", (user_id,)).fetchone()
    return b"{}" if row is None else str(row[0]).encode()


def put_preferences(file: sqlite3.Connection, user_id: str, text: str) -> None:
    """Write a user's preferences."""
    file.execute("INSERT OR REPLACE INTO preferences (user_id, value_json) VALUES (?, ?)", (user_id, text))


def checked_preferences(body: bytes) -> str:
    """Preferences as JSON text. Raises BadRequest for what is no JSON object, or a large one."""
    if len(body) > _MAX_PREFERENCES_BYTES:
        raise BadRequest(f"the preferences have {len(body)} bytes; expected up to {_MAX_PREFERENCES_BYTES}")
    try:
        return to_json(msgspec.json.decode(body, type=dict[str, object]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the preferences are no JSON object: {error}") from None


async def list_presets(app: App, request: Request) -> Response:
    """One's presets."""
    user = user_of(request)
    return json_reply({"presets": await app.database.read(lambda file: presets_of(file, user.id))})


async def make_preset(app: App, request: Request) -> Response:
    """A preset under a name."""
    user, fields = user_of(request), read_body(NewPreset, await request.body(), {})
    fields.settings.check()
    preset = Preset(id=new_id(), name=fields.name, system=fields.system, model=fields.model, settings=fields.settings)
    await app.database.write(lambda file: insert_preset(file, user.id, preset))
    return json_reply(preset, 201)


async def change_preset(app: App, request: Request) -> Response:
    """The preset, with what is given changed."""
    user, preset_id = user_of(request), request.path_params["id"]
    fields = read_body(PresetChange, await request.body(), {})
    if isinstance(fields.settings, Settings):
        fields.settings.check()
    changes = {name: value for name, value in msgspec.structs.asdict(fields).items() if value is not UNSET}

    def write(file: sqlite3.Connection) -> Preset:
        row = file.execute("SELECT * FROM presets WHERE id = ? AND user_id = ?", (preset_id, user.id)).fetchone()
        if row is None:
            raise NotFound("preset", preset_id)
        preset = msgspec.structs.replace(_preset(row), **changes)
        file.execute(
            "UPDATE presets SET name = ?, system = ?, model = ?, settings_json = ? WHERE id = ?",
            (preset.name, preset.system, preset.model, to_json(preset.settings), preset_id),
        )
        return preset

    return json_reply(await app.database.write(write))


async def delete_preset(app: App, request: Request) -> Response:
    """Forget a preset."""
    user, preset_id = user_of(request), request.path_params["id"]
    query = "DELETE FROM presets WHERE id = ? AND user_id = ?"
    if not await app.database.write(lambda file: file.execute(query, (preset_id, user.id)).rowcount):
        raise NotFound("preset", preset_id)
    return json_reply({})


async def get_preferences(app: App, request: Request) -> Response:
    """One's preferences; an empty object at first."""
    user = user_of(request)
    text = await app.database.read(lambda file: preferences_of(file, user.id))
    return Response(text, media_type="application/json")


async def set_preferences(app: App, request: Request) -> Response:
    """Keep one's preferences, in the place of those before."""
    user, text = user_of(request), checked_preferences(await request.body())
    await app.database.write(lambda file: put_preferences(file, user.id, text))
    return Response(text, media_type="application/json")


def _preset(row: sqlite3.Row) -> Preset:
    return Preset(
        id=row["id"],
        name=row["name"],
        system=row["system"],
        model=row["model"],
        settings=stored_settings(row["settings_json"]),
    )


PRESET_ROUTES: Final[AppTable] = (
    ("GET", "/presets", list_presets),
    ("POST", "/presets", make_preset),
    ("PATCH", "/presets/{id}", change_preset),
    ("DELETE", "/presets/{id}", delete_preset),
    ("GET", "/preferences", get_preferences),
    ("PUT", "/preferences", set_preferences),
)
