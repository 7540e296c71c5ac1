"""A server that runs for a test, on a port of its own, and a model behind it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn

from samovar.serving.app import build_app
from samovar.serving.connection import BoundedConnection
from samovar.serving.registry import Offered, Registry
from samovar.serving.server import Server


@dataclass(frozen=True)
class Served:
    """Where the server is, its state, and a client that knows the way. `llms` are the models by name."""

    url: str
    server: Server
    client: httpx.Client

    def post(self, path, **body):
        """The reply to a JSON body, whole."""
        return self.client.post(path, json=body)

    def events(self, path, **body):
        """The data of a stream's events, as text, and the names of those that have one."""
        with self.client.stream("POST", path, json=body) as reply:
            assert reply.headers["content-type"].startswith("text/event-stream"), reply.read()
            return [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: ")]


@contextmanager
def served(llms, *, guard=None, **options) -> Iterator[Served]:
    """Serve open models by name; they stay open afterwards. `guard` and `options` go to `build_app` and `Server`."""
    offered = {name: Offered(name=name, open_model=lambda: None, keep_alive_s=None, llm=llm) for name, llm in llms.items()}
    state = Server(registry=Registry(offered), **options)
    config = uvicorn.Config(
        build_app(state, guard), http=BoundedConnection, host="127.0.0.1", port=0, log_config=None, lifespan="off"
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        thread.join(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            yield Served(url, state, client)
    finally:
        running.should_exit = True
        thread.join(20)


@contextmanager
def given_away(records) -> Iterator[None]:
    """All records belong to another caller for a while."""

    def give(owner, to):
        with records._lock:
            records._file.execute("UPDATE records SET owner = ? WHERE owner = ?", (to, owner))

    give("local", "other")
    try:
        yield
    finally:
        give("other", "local")
