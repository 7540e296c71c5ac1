"""Models by name: when they are opened, closed, and opened again."""

import asyncio
import time

import pytest
from starlette.testclient import TestClient

from samovar.errors import EngineFailed
from samovar.serving import operations
from samovar.serving.app import build_app
from samovar.serving.registry import Offered, Registry
from samovar.serving.server import Server
from tests.llm.remote_processes import until


class FakeLLM:
    """Remembers that it was closed."""

    def __init__(self):
        self.has_failed = self.is_closed = False

    def close(self):
        self.is_closed = True


@pytest.fixture
def opened():
    return []


@pytest.fixture
def registry(opened):
    def open_model():
        opened.append(FakeLLM())
        return opened[-1]

    return Registry({"small": Offered(name="small", open_model=open_model, keep_alive_s=0.0)})


async def use(registry):
    async with registry.use("small") as model:
        return model.llm


def test_a_model_that_is_down_for_good_is_opened_again_by_who_asks_next(registry, opened):
    async def run():
        first = await use(registry)
        first.has_failed = True
        return first, await use(registry), await use(registry)

    first, second, third = asyncio.run(run())
    assert first.is_closed
    assert second is third is opened[1]


def test_a_closed_registry_opens_nothing_more(registry, opened):
    async def run():
        await use(registry)
        await registry.close()
        with pytest.raises(EngineFailed, match="shutting down"):
            await use(registry)

    asyncio.run(run())
    assert [llm.is_closed for llm in opened] == [True]


def test_a_server_closes_models_whose_time_is_up_and_the_others_at_its_end(registry, opened, monkeypatch):
    monkeypatch.setattr(operations, "_IDLE_CHECK_S", 0.01)
    registry.models["kept"] = Offered(name="kept", open_model=FakeLLM, keep_alive_s=None, llm=FakeLLM())
    kept = registry.models["kept"].llm
    asyncio.run(use(registry))
    with TestClient(build_app(Server(registry=registry))):
        until(lambda: opened[0].is_closed, 5)
        assert registry.models["small"].llm is None
        assert not kept.is_closed
    assert kept.is_closed


def test_those_who_wait_for_a_model_that_does_not_open_share_its_failure():
    opened = []

    def open_model():
        opened.append(1)
        time.sleep(0.05)
        raise EngineFailed("it broke down")

    registry = Registry({"small": Offered(name="small", open_model=open_model, keep_alive_s=None)})

    async def run():
        together = await asyncio.gather(*(use(registry) for _ in range(20)), return_exceptions=True)
        n_opened = len(opened)
        with pytest.raises(EngineFailed):
            await use(registry)
        return together, n_opened

    together, n_opened = asyncio.run(run())
    assert [str(error) for error in together] == ["it broke down"] * 20
    assert (n_opened, len(opened)) == (1, 2), "whoever asks later tries again"
