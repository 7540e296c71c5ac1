"""What `samovar app` does beyond `samovar serve`: it finds a model, says where the app is, and opens it."""

import os
import shutil
import threading
import webbrowser

import pytest

from samovar.cli import app
from tests.cli.fakes import samovar

URL = "http://127.0.0.1:8000"


@pytest.fixture
def served(monkeypatch):
    """The models of each server that is started; it listens at once, and ends."""
    models = []

    def serve(args, streams, on_listen):
        models.append(args.model)
        on_listen(URL)
        return 0

    monkeypatch.setattr(app, "serve", serve)
    return models


@pytest.fixture
def opened(monkeypatch):
    """The addresses that a browser was opened with, and whether it opens."""
    addresses, is_opened = [], threading.Event()

    def open_browser(address):
        addresses.append(address)
        is_opened.set()
        return True

    monkeypatch.setattr(webbrowser, "open", open_browser)
    monkeypatch.setattr(app, "has_browser", lambda *_: True)
    return lambda: is_opened.wait(5) and addresses


def test_the_browser_opens_at_the_address_that_is_printed(served, opened):
    ended = samovar("app", "some.gguf")
    assert (ended.code, ended.out) == (0, f"{URL}/\n")
    assert opened() == [f"{URL}/"]
    assert served == [["some.gguf"]]


def test_no_browser_opens_where_none_is_wanted_or_could_show_itself(served, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("a browser was opened"))
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert samovar("app", "some.gguf", "--no-browser").out == f"{URL}/\n"
    monkeypatch.setattr("sys.platform", "linux")
    ended = samovar("app", "some.gguf")
    assert ended.out == f"{URL}/\n"
    assert "no browser can be opened from here; open the address in one" in ended.err


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ""}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({"BROWSER": "code --open"}, "linux", True),
        ({}, "darwin", True),
    ],
)
def test_a_browser_needs_a_display_where_others_would_take_the_terminal(environ, platform, expected):
    assert app.has_browser(environ, platform) is expected


@pytest.mark.parametrize("answer", [False, webbrowser.Error("none"), OSError("none")])
def test_a_browser_that_does_not_open_is_told(served, monkeypatch, answer):
    said = threading.Event()

    def fail(_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(webbrowser, "open", fail)
    monkeypatch.setattr(app, "has_browser", lambda *_: True)
    monkeypatch.setattr(app.threading, "Thread", lambda target, args, daemon: InPlace(target, args, said))
    assert "the browser did not open; open the address in one" in samovar("app", "some.gguf").err
    assert said.is_set()


class InPlace:
    """A thread that runs when it is started."""

    def __init__(self, target, args, said):
        self._target, self._args, self._said = target, args, said

    def start(self):
        self._target(*self._args)
        self._said.set()


def put(store, model, name, changed_s):
    """A copy of a model in the store."""
    path = store / "models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, path)
    os.utime(path, (changed_s, changed_s))
    return path


def test_without_a_model_the_newest_that_writes_text_is_served(served, store, tiny_model, tiny_embedder):
    put(store, tiny_model, "old.gguf", 1000)
    newer = put(store, tiny_model, "newer.gguf", 2000)
    put(store, tiny_embedder, "embedder.gguf", 3000)
    (store / "models" / "damaged.gguf").write_bytes(b"GGUF, and no more")
    ended = samovar("app", "--no-browser")
    assert served == [[f"newer={newer}"]]
    assert "no model is named: newer is the newest in the store" in ended.err


def test_an_empty_store_says_what_to_pull(served):
    ended = samovar("app", "--no-browser")
    assert (ended.code, served) == (1, [])
    assert "get one with: samovar pull qwen3:0.6b" in ended.err


def test_the_command_explains_itself_and_has_the_options_of_serve():
    ended = samovar("app", "--help")
    assert "samovar app qwen3:0.6b" in ended.out.split("examples:")[1]
    assert all(option in ended.out for option in ("--no-browser", "--port", "--tls-cert", "--threads", "--max-streams"))
    assert "--port is 70000" in samovar("app", "x.gguf", "--port", "70000").err
    assert "use samovar serve" in samovar("app", "x.gguf", "--no-app").err
