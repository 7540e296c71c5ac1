"""The app behind a running server, and a client that speaks as its page does."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import uvicorn
from argon2 import PasswordHasher

from samovar.app.access import Access
from samovar.app.app import App
from samovar.app.dashboard import Dashboard
from samovar.app.database import Database
from samovar.app.more_routes import more_routes
from samovar.app.mount import mounted
from samovar.app.passwords import Passwords
from samovar.serving.app import build_app
from samovar.serving.connection import BoundedConnection
from samovar.serving.guard import Guard
from samovar.serving.keys import KeyFile, Keys
from samovar.serving.registry import Offered, Registry
from samovar.serving.server import Server

HEADER = {"X-Samovar-App": "1"}
PASSWORD = "a tea cup, two spoons"


@dataclass(frozen=True)
class Page:
    """What a page does. `client` knows the server and sends the app's header."""

    client: httpx.Client
    app: App
    others: list[httpx.Client] = field(default_factory=list)

    def browser(self, **headers):
        """Another client, below /app/api, without the first one's cookies; it is closed with the page."""
        base = str(self.client.base_url).rstrip("/")
        self.others.append(httpx.Client(base_url=f"{base}/app/api", headers={**HEADER, **headers}, timeout=30))
        return self.others[-1]

    def logged_in(self, name, password=PASSWORD):
        """Another client, in a session of its own."""
        client = self.browser()
        reply = client.post("/login", json={"name": name, "password": password})
        assert reply.status_code == 200, reply.text
        return client

    def with_accounts(self):
        """Make an admin, whose session this page is in from then on, and a user: a client of each, and the user's id."""
        code = asyncio.run(self.app.callers.code_to_print())
        assert self.post("/setup", name="Ada", password=PASSWORD, code=code or "").status_code == 201
        made = self.post("/users", name="bob", password=PASSWORD)
        assert made.status_code == 201, made.text
        return self.logged_in("ada"), self.logged_in("bob"), made.json()["id"]

    def get(self, path, **query):
        return self.client.get(f"/app/api{path}", params=query)

    def post(self, path, **body):
        return self.client.post(f"/app/api{path}", json=body)

    def patch(self, path, **body):
        return self.client.patch(f"/app/api{path}", json=body)

    def delete(self, path):
        return self.client.delete(f"/app/api{path}")

    def new_chat(self, **fields):
        """A chat whose title is its user's own, so that no title is asked for."""
        return self.post("/chats", **{"title": "A chat", **fields}).json()

    def ask(self, chat, content="Hello", parent=None, **fields):
        """The answer that is begun to a message."""
        reply = self.post(f"/chats/{chat['id']}/messages", parent_id=parent, content=content, **fields)
        assert reply.status_code == 200, reply.text
        return reply.json()["answer"]

    def messages(self, chat, **query):
        return self.get(f"/chats/{chat['id']}/messages", **query).json()

    def events(self, path):
        """The events of a stream until its end, as (name, data)."""
        with self.client.stream("GET", f"/app/api{path}") as reply:
            assert reply.headers["content-type"].startswith("text/event-stream"), reply.read()
            yield from read_events(reply)

    def ended(self, answer):
        """An answer once it is over."""
        *_, (name, message) = self.events(f"/messages/{answer['id']}/events")
        assert name == "done"
        return message

    def write(self, work):
        """Change rows by hand."""
        return asyncio.run(self.app.database.write(work))

    def read(self, query, *given):
        """Rows as they are in the database."""
        return asyncio.run(self.app.database.read(lambda file: [dict(row) for row in file.execute(query, given)]))


def read_events(reply):
    name = "message"
    for line in reply.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def folded_text(events):
    """What a page shows that appends all pieces, checking each one's place: (content, thoughts)."""
    content = thoughts = None
    for name, data in events:
        if name == "state":
            content, thoughts = data["content"], data["thoughts"] or ""
        elif name == "delta":
            assert (n_utf16(content), n_utf16(thoughts)) == (data["at_content"], data["at_thoughts"])
            content, thoughts = content + data.get("content", ""), thoughts + data.get("thoughts", "")
    return content, thoughts


def n_utf16(text):
    return len(text.encode("utf-16-le")) // 2


def wait_for(is_true, seconds=20):
    end = time.monotonic() + seconds
    while not (found := is_true()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)
    return found


@contextmanager
def served_app(llms, folder, *, page_folder=None, guard=None, is_private=True) -> Iterator[Page]:
    """Serve open models by name behind the app, with its life from start to end."""
    offered = {name: Offered(name=name, open_model=lambda: None, keep_alive_s=None, llm=llm) for name, llm in llms.items()}
    server = Server(registry=KeepingOpen(offered))
    database, key_file = Database(folder / "app"), KeyFile(folder / "keys.json")
    keys = Keys(key_file)
    guard = guard or Guard(keys=keys, needs_key=not is_private)
    access = Access(database, keys=keys, is_private=is_private)
    app = App(server=server, database=database, callers=access)
    quick = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    routes = more_routes(access, key_file, Dashboard(), quick)
    part = mounted(app, **({} if page_folder is None else {"folder": page_folder}), more=routes)
    config = uvicorn.Config(
        build_app(server, guard, part),
        http=BoundedConnection,
        host="127.0.0.1",
        port=0,
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        thread.join(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=HEADER) as client:
            page = Page(client, app)
            yield page
            for other in page.others:
                other.close()
    finally:
        server.drain.begin()
        running.should_exit = True
        thread.join(20)


class KeepingOpen(Registry):
    """Models that other tests go on to use."""

    async def close(self):
        pass
