"""What the end-to-end tests share: the app as `make web` built it, real servers behind it, and Debian's chromium.

The browser knows no address but this machine's. Each test has a page of its own, which at its end must have asked nothing of
another server, and written no error to its console. Of a test that fails, build/screenshots/ shows what the page looked like.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages import missing
from tests.real_models import SMOLLM2, real_model
from tests.serving.processes import Running, running

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
FIGURES = ROOT / "build" / "web-figures.json"
STATIC = ROOT / "src" / "samovar" / "app" / "static"
FLAGS = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these take a browser, and seconds; what they wait for is soon there on a machine that does nothing else."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="package")
def browser():
    """Debian's chromium, without a window. Closed before tests elsewhere run: its driver keeps an event loop in this thread."""
    if (chromium := shutil.which("chromium")) is None:
        missing("chromium is not there; Debian's package of this name has it: apt install chromium")
    if not (STATIC / "index.html").is_file():
        missing("the app is not built; make web builds it")
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        missing("playwright is not there; make test installs it")
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=FLAGS, chromium_sandbox=False)
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, browser) -> Iterator[Running]:
    """A server with the small real model and chats of its own, which the tests share."""
    with running(tmp_path_factory.mktemp("app"), f"smollm2={real_model(SMOLLM2)}") as server:
        server.client.headers["X-Samovar-App"] = "1"
        yield server


@pytest.fixture
def visit(browser, request: pytest.FixtureRequest):
    """A function that opens a page of a browser that was never here, at a server's address. Options are those of a context.

    The page's `troubles` lists errors it wrote and requests to other servers. `allows` are patterns of those that may be.
    """
    from tests.web.visits import Visits

    visits = Visits(browser, SCREENSHOTS / f"failed-{request.node.name}.png")
    yield visits.open
    visits.close(has_failed=request.node.stash.get(_HAS_FAILED, False))


@pytest.fixture
def page(visit, server: Running):
    """The app, just opened."""
    return visit(server.url)


@pytest.fixture
def note_figure():
    """A function that keeps a measured figure in build/web-figures.json, and prints it."""

    def note(name: str, value: object) -> None:
        FIGURES.parent.mkdir(exist_ok=True)
        known = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {}
        FIGURES.write_text(json.dumps(known | {name: value}, indent=2) + "\n")
        print(f"{name}: {value}")

    return note


_HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Remember for the fixtures' ends that the test failed."""
    report = yield
    if call.when == "call":
        item.stash[_HAS_FAILED] = report.failed
    return report
