"""What paid APIs charge, for comparison: a dated file of examples in the package, and beside the database the one that an admin
has changed, which may be edited by hand as well."""

import asyncio
import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar.app.app import App, AppTable
from samovar.app.users import require_admin, user_of
from samovar.errors import FormatError, StoreError
from samovar.serving.body import Fields, read_body
from samovar.serving.replies import json_reply

_FILE: Final = "prices.json"
Price = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]


class ModelPrice(Fields, kw_only=True, frozen=True):
    """A model's prices, for a million tokens each."""

    name: Text
    input: Price
    cached_input: Price
    output: Price


class Prices(Fields, kw_only=True, frozen=True):
    """The file. `note` is a sentence for whoever reads the prices; `watts` are what the machine takes while it writes."""

    date: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}(-\d{2})?$")]
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")]
    note: Annotated[str, msgspec.Meta(max_length=500)] = ""
    models: Annotated[list[ModelPrice], msgspec.Meta(max_length=200)]
    watts: Price | None = None
    price_per_kwh: Price | None = None


def read_prices(folder: Path) -> Prices:
    """The prices that were changed, or those of the package. Raises FormatError for a file that is damaged, StoreError."""
    path = folder / _FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Prices)
    except FileNotFoundError:
        return msgspec.json.decode(files("samovar.app").joinpath(_FILE).read_bytes(), type=Prices)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is no sound file of prices: {error}; mend it, or remove it to have the examples") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None


def write_prices(folder: Path, prices: Prices) -> None:
    """Keep prices, in one go. Raises StoreError."""
    path, unfinished = folder / _FILE, folder / f"{_FILE}.tmp"
    try:
        with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(prices), indent=2) + b"\n")
        unfinished.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; the prices are as they were") from None


async def get_prices(app: App, request: Request) -> Response:
    """The prices."""
    user_of(request)
    return json_reply(await asyncio.to_thread(read_prices, app.database.path.parent))


async def set_prices(app: App, request: Request) -> Response:
    """Other prices, for all users."""
    require_admin(request)
    prices = read_body(Prices, await request.body(), {})
    await asyncio.to_thread(write_prices, app.database.path.parent, prices)
    return json_reply(prices)


PRICE_ROUTES: Final[AppTable] = (("GET", "/prices", get_prices), ("PUT", "/prices", set_prices))
