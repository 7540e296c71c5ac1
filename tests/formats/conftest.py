"""A stub hub, and options that lead the client libraries to it."""

import functools
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from samovar.formats import hub_huggingface, hub_modelscope
from samovar.formats.pull_hub import PullOptions
from tests.formats.hub_models import FILE, QUICK, REPO, gguf_bytes
from tests.formats.hub_stub import HubStub, Repo, hub_stub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    """The stub with one GGUF repository; the client library is let out of the offline mode that tests run in."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope"))
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    with hub_stub() as stub:
        stub.repos[REPO] = Repo({FILE: gguf_bytes(tmp_path), "README.md": b"# Qwen3", "LICENSE": b"Apache"})
        yield stub


@pytest.fixture
def options(hub: HubStub) -> PullOptions:
    waits: list[float] = []
    return PullOptions(
        transfer=QUICK,
        listers={
            "huggingface": functools.partial(hub_huggingface.list_repo, endpoint=hub.url, sleep=waits.append),
            "modelscope": functools.partial(hub_modelscope.list_repo, endpoint=hub.url),
        },
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"
