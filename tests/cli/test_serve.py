"""What `samovar serve` says before it serves."""

import socket

import pytest

from samovar.cli import serve
from samovar.cli.greeting import greet
from samovar.cli.main import build_parser
from samovar.serving.keys import KeyFile
from tests.cli.fakes import samovar, streams


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--port", "70000"], "--port is 70000"),
        (["--tls-key", "key.pem"], "without --tls-cert"),
        (["--cors-origin", "*"], "name the origins"),
        (["--cors-origin", "https://chat.example.org/"], "expected an origin"),
        (["--cors-origin", "chat.example.org"], "expected an origin"),
        (["--trusted-proxy", "*"], "no *"),
        (["--trusted-proxy", "10.0.0.1,"], "no *"),
        (["--allow-host", ""], "no *"),
        (["--drain-timeout", "-1"], "--drain-timeout is -1"),
        (["--drain-timeout", "nan"], "--drain-timeout is nan"),
        (["--max-streams", "0"], "--max-streams is 0"),
        (["--max-waiting", "-1"], "--max-waiting is -1"),
        (["--max-body", "0"], "--max-body is 0"),
        (["--log-format", "xml"], "invalid choice"),
        (["--no-auth"], "unrecognized arguments"),
    ],
)
def test_options_out_of_range_are_wrong_usage(argv, said):
    ended = samovar("serve", *argv)
    assert ended.code == 2
    assert said in ended.err


@pytest.mark.parametrize(
    "argv", [["--host", "0.0.0.0"], ["--host", "::"], ["--allow-host", "chat.example.org"], ["--trusted-proxy", "10.0.0.1"],
             ["--require-key"]]
)  # fmt: skip
def test_a_server_without_the_app_that_others_may_reach_does_not_start_without_a_key(argv, store):
    ended = samovar("serve", "--port", "0", "--no-app", *argv)
    assert ended.code == 1
    assert "make one with: samovar keys create NAME" in ended.err
    KeyFile(store / "keys.json").create("bob")
    if "--host" not in argv:  # which a test may not
        ended = samovar("serve", "nowhere.gguf", "--port", "0", *argv)  # it goes on to the model
        assert "nowhere.gguf: no such file" in ended.err


def test_each_of_several_models_has_to_be_there_when_the_server_starts(store):
    ended = samovar("serve", "nowhere.gguf", "other=elsewhere.gguf", "--port", "0")
    assert ended.code == 1
    assert "nowhere.gguf: no such file" in ended.err


def guard(environ, *argv):
    args = build_parser("serve").parse_args(["serve", *argv])
    return serve._guard(args, streams(environ=environ))


def test_what_is_asked_of_a_request_follows_from_who_can_send_it(store):
    at_home = guard({})
    assert (at_home.needs_key, at_home.hosts) == (False, {"localhost", "127.0.0.1", "[::1]"})
    assert "127.0.0.2" in guard({}, "--host", "127.0.0.2").hosts
    assert not guard({}, "--host", "::1").needs_key
    own = {"SAMOVAR_API_KEY": "a-key-of-the-environment"}
    outside = guard(own, "--host", "0.0.0.0")
    assert (outside.needs_key, outside.hosts) == (True, None)
    assert guard(own, "--host", "0.0.0.0", "--allow-host", "Chat.Example").hosts >= {"chat.example"}
    behind = guard(own, "--allow-host", "chat.example", "--cors-origin", "https://a.example")
    assert behind.needs_key
    assert behind.origins == ("https://a.example",)
    assert guard(own).keys.are_there()  # and so is asked for


def test_without_a_key_only_the_app_is_served_beyond_this_machine(store):
    outside = guard({}, "--host", "0.0.0.0")
    assert (outside.needs_key, outside.keys.are_there()) == (True, False)
    for option in ("--no-app", "--require-key"):
        with pytest.raises(Exception, match="there is none; make one with"):
            guard({}, "--host", "0.0.0.0", option)


def test_the_greeting_names_the_machines_addresses_the_code_and_what_is_unsafe(store, monkeypatch):
    monkeypatch.setattr("samovar.cli.greeting._addresses", lambda _: ["192.168.1.5"])
    args, at = build_parser("serve").parse_args(["serve", "--host", "0.0.0.0"]), streams(environ={})
    url = "http://127.0.0.1:8000"
    greet(args, at, url, ["m"], serve._guard(args, at), "ABCD-EFGH")
    said = at.stderr.getvalue()
    assert "set-up     ABCD-EFGH\n" in said
    assert "or a proxy with TLS" in said
    assert "there is none yet; make one with: samovar keys create NAME" in said
    assert "http://192.168.1.5:8000 from other machines" in said


def test_a_key_of_the_environment_that_can_be_guessed_is_refused(store):
    with pytest.raises(Exception, match="20 or more"):
        guard({"SAMOVAR_API_KEY": "secret"})


def test_a_port_in_use_and_a_host_that_is_none_are_told_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = samovar("serve", "--port", str(port))
    assert ended.code == 1
    assert ended.err == (
        f"samovar: error: cannot listen at 127.0.0.1:{port}: Address already in use; choose another with --host or --port\n"
    )
    ended = samovar("serve", "--port", "0", "--host", "127.0.0.1.0.1")
    assert ended.code == 1
    assert "'127.0.0.1.0.1' leads nowhere" in ended.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a.gguf", "b/a.gguf"], "two models are named a"),
        (["a.gguf", "--adapter", "x"], "expected NAME=FOLDER"),
        (["a.gguf", "b.gguf", "--adapter", "x=folder"], "NAME@MODEL=FOLDER"),
        (["a.gguf", "--adapter", "x@c=folder"], "expected NAME=FOLDER"),
        (["a.gguf", "--adapter", "a=folder"], "names a twice"),
        (["a.gguf", "--adapter", "x=f", "--adapter", "x=g"], "names x twice"),
        (["a.gguf", "--chat-template-file", "/nowhere"], "/nowhere cannot be read"),
        (["a.gguf", "--tls-cert", __file__], "test_serve.py: [SSL"),
        (["a.gguf", "--tls-cert", "/nowhere"], "/nowhere: [Errno 2]"),
    ],
)
def test_names_that_mean_two_things_or_none_are_refused(argv, said):
    ended = samovar("serve", "--port", "0", *argv)
    assert ended.code == 1
    assert said in ended.err


def test_models_and_adapters_get_their_names():
    args = build_parser("serve").parse_args(
        [
            "serve",
            "m/first.gguf",
            "two=m/second.gguf",
            "--adapter",
            "x@two=folder",
            "--adapter",
            "y@first=other",
            "--keep-alive",
            "7",
        ]
    )
    offered = serve._offered(args, serve._check(args), streams())
    assert {name: dict(model.adapters) for name, model in offered.items()} == {"first": {"y": "other"}, "two": {"x": "folder"}}
    assert {model.keep_alive_s for model in offered.values()} == {7.0}


def test_a_single_model_stays_open_and_a_template_is_read(tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages }}")
    args = build_parser("serve").parse_args(["serve", "a.gguf", "--chat-template-file", str(file), "--max-streams", "3"])
    settings = serve._check(args)
    assert (settings.chat_template, settings.max_streams, settings.max_waiting) == ("{{ messages }}", 3, 1024)
    (only,) = serve._offered(args, settings, streams()).values()
    assert not args.any_model_scores
    assert only.keep_alive_s is None
