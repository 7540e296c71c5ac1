"""Rules that hold for every test: no network beyond loopback, nothing read from the user's own settings, and the machine to
itself for one that is marked `alone`, whatever other workers do."""

import fcntl
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.packages import missing
from tests.real_models import QWEN_CODER, SMOLLM2, real_model

_LOOPBACK = ("127.", "::1", "localhost")

_DOOR, _ROOM = Path(__file__), Path(__file__).with_name("__init__.py")  # files of the checkout that workers lock

# Witnesses compute models of a few kB while workers share the machine: a team of threads would take four times as long for
# waiting as for computing. PyTorch reads this when it is imported, which conftest.py files further down do.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")


class NetworkBlocked(RuntimeError):
    """A test reached for a machine other than this one."""


def _refuse_other_machines(event: str, args: tuple[object, ...]) -> None:
    """Audit hook: raises before the system is asked. It sees every socket of the process, whatever library opened it."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) and address else "localhost"  # a str or None is a Unix socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0] or "localhost"
    else:
        return
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if not name.startswith(_LOOPBACK):
        raise NetworkBlocked(f"{event} to {name!r}: tests may only reach loopback addresses")


def pytest_configure(config: pytest.Config) -> None:
    """Close the network for this process, and for the children that honour these variables."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", PIP_NO_INDEX="1", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ.pop("SAMOVAR_ISA", None)
    sys.addaudithook(_refuse_other_machines)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported here stays to the end: no time is spent on looking for garbage in it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open() as file:
        fcntl.flock(file, how)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Tests share the room, one that is marked `alone` has it to itself. Who waits for it holds the door, so that nobody else
    comes in; the time limit of a test starts inside."""
    alone = item.get_closest_marker("alone") is not None
    with ExitStack() as room:
        with _locked(_DOOR, fcntl.LOCK_EX):
            room.enter_context(_locked(_ROOM, fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def empty_store() -> Iterator[None]:
    """A store of the tests' own: what they cache goes there. Real models come from `tests.real_models.STORE`."""
    with tempfile.TemporaryDirectory(prefix="samovar-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMOVAR_HOME", folder)
        yield


@pytest.fixture(scope="session")
def require():
    """A function to call with a reason when something a test needs is not there: a skip here, a failure under CI=true."""
    return missing


@pytest.fixture
def smollm2():
    """Path of the real SmolLM2-135M weights."""
    return real_model(SMOLLM2)


@pytest.fixture
def qwen_coder():
    """Path of the real Qwen2.5-Coder-0.5B weights."""
    return real_model(QWEN_CODER)
