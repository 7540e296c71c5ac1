"""The models that a server offers: opened at their first use, closed when nobody has used them for a while."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from samovar.errors import BadRequest, EngineFailed, ModelNotFound, OutOfMemory, SamovarError
from samovar.llm import LLM
from samovar.llm.model_card import ModelCard

Opener = Callable[[], LLM]
Fetch = Callable[[str, Callable[[int, int, str], None]], "Offered"]  # name, told of bytes done, of all, and of what


class UnknownModel(ModelNotFound):
    """A request names a model that the server does not offer."""


@dataclass(slots=True, kw_only=True)
class Offered:
    """A model under its name. `open_model` opens it; `read_card` says what it is without that, where it can;
    `keep_alive_s` is how long it stays open unused, None for ever."""

    name: str
    open_model: Opener
    keep_alive_s: float | None
    read_card: Callable[[], ModelCard] | None = None
    created_s: int = field(default_factory=lambda: int(time.time()))
    llm: LLM | None = None
    adapters: dict[str, str] = field(default_factory=dict)  # name to folder
    n_users: int = 0
    n_failed: int = 0  # times that opening it failed, the last time by `failure`
    failure: SamovarError | None = None
    used_s: float = 0.0
    asked_keep_alive_s: float | None = None
    has_asked_keep_alive: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def expires_s(self) -> float | None:
        """When it will be closed (time.monotonic), if nobody uses it until then; None for never."""
        stays_s = self.asked_keep_alive_s if self.has_asked_keep_alive else self.keep_alive_s
        return None if stays_s is None or self.llm is None else self.used_s + stays_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model in use by one request; `adapter` where the request named one."""

    name: str
    llm: LLM
    adapter: str | None


class Growing(Protocol):
    """An answer, or several to one request, as far as written."""

    @property
    def n_tokens(self) -> int:
        """How many tokens there are so far."""
        ...


class Registry:
    """Models by name; `growing` are the answers that they are writing. All methods belong to the server's event loop; opening
    and closing happen in threads."""

    def __init__(self, models: Mapping[str, Offered]) -> None:
        self.models, self._is_closed = dict(models), False
        self.growing = set[Growing]()

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[Opened]:
        """The model or adapter called `name` (None: the first one), open for as long as the context lasts.

        Raises UnknownModel, or what opening the model raises.
        """
        offered, adapter = self.find(name)
        offered.n_users += 1
        try:
            llm = await self._opened(offered)
            yield Opened(name=adapter or offered.name, llm=llm, adapter=adapter)
        finally:
            offered.n_users -= 1
            offered.used_s = time.monotonic()

    def find(self, name: str | None) -> tuple[Offered, str | None]:
        """A model by its own name or by that of one of its adapters. Raises UnknownModel."""
        if name is None:
            return next(iter(self.models.values())), None
        for tried in (name, name.removesuffix(":latest")):
            if tried in self.models:
                return self.models[tried], None
            for offered in self.models.values():
                if tried in offered.adapters:
                    return offered, tried
        raise UnknownModel(f"the model {name!r} is not offered here; these are: {', '.join(self.names())}")

    def names(self) -> list[str]:
        """Models and adapters."""
        return [*self.models, *(a for offered in self.models.values() for a in offered.adapters)]

    def keep_alive(self, name: str | None, seconds: float | None) -> None:
        """How long a model stays open after its last use, from this request on; None for ever."""
        offered, _ = self.find(name)
        offered.asked_keep_alive_s, offered.has_asked_keep_alive = seconds, True
        offered.used_s = time.monotonic()

    async def load_adapter(self, name: str, folder: str, model: str | None) -> None:
        """Load a LoRA adapter, which requests then name as their model. Raises BadRequest for a name in use."""
        if name in self.names():
            raise BadRequest(f"{name!r} is the name of a model or an adapter already", param="lora_name")
        async with self.use(model) as opened:
            await asyncio.to_thread(opened.llm.load_adapter, name, folder)
            self.models[opened.name].adapters[name] = folder

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises UnknownModel, or BadRequest while requests use it."""
        offered, adapter = self.find(name)
        if adapter is None:
            raise BadRequest(f"{name!r} is a model; expected the name of an adapter", param="lora_name")
        if offered.llm is not None:
            await asyncio.to_thread(offered.llm.unload_adapter, adapter)
        del offered.adapters[adapter]

    async def close_idle(self) -> None:
        """Close the models whose time is up."""
        now = time.monotonic()
        for offered in self.models.values():
            if offered.expires_s is not None and now >= offered.expires_s:
                await self._close(offered)

    async def close(self) -> None:
        """Close all models for good. Requests that are open end with EngineFailed."""
        self._is_closed = True
        for offered in self.models.values():
            await self._close(offered, is_final=True)

    async def _opened(self, offered: Offered) -> LLM:
        n_failed = offered.n_failed
        async with offered.lock:
            if offered.failure is not None and offered.n_failed > n_failed:  # of the one that this one waited for
                raise offered.failure
            if self._is_closed:
                raise EngineFailed("the server is shutting down; send the request again")
            if offered.llm is not None and offered.llm.has_failed:  # for good; whoever asks next gets a new one
                llm, offered.llm = offered.llm, None
                await asyncio.to_thread(llm.close)
            if offered.llm is None:
                try:
                    offered.llm = await self._open(offered)
                except SamovarError as error:
                    offered.failure, offered.n_failed = error, offered.n_failed + 1
                    raise
                for name, folder in offered.adapters.items():
                    await asyncio.to_thread(offered.llm.load_adapter, name, folder)
            return offered.llm

    async def _open(self, offered: Offered) -> LLM:
        """Open a model; where memory is short, after closing the one that was unused for longest."""
        while True:
            try:
                return await asyncio.to_thread(offered.open_model)
            except OutOfMemory:
                idle = [m for m in self.models.values() if m.llm is not None and not m.n_users]
                if not idle:
                    raise
                await self._close(min(idle, key=lambda m: m.used_s))

    async def _close(self, offered: Offered, *, is_final: bool = False) -> None:
        async with offered.lock:
            if offered.llm is not None and (is_final or not offered.n_users):
                llm, offered.llm, offered.has_asked_keep_alive = offered.llm, None, False
                await asyncio.to_thread(llm.close)
