"""`samovar list`, `show` and `rm`: what they print of models that were pulled or put there, and what is gone afterwards."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from samovar.cli.main import run
from samovar.formats.catalogue import CATALOGUE
from samovar.formats.hub import default_cache
from samovar.formats.pull_lock import pull_lock
from samovar.formats.pull_record import PullRecord, RecordedFile, record_path, write_record
from tests.cli.fakes import samovar, streams

NAME = "qwen3:0.6b"


@pytest.fixture
def pulled(store: Path, tiny_model: Path) -> Path:
    """A tiny model in the store as a pull leaves it."""
    folder = store / "models" / "Qwen--tiny"
    folder.mkdir(parents=True)
    path = folder / "tiny.gguf"
    path.write_bytes(tiny_model.read_bytes())
    files = (RecordedFile(path="tiny.gguf", size_bytes=path.stat().st_size, sha256="ab" * 32, checked="sha256"),)
    record = PullRecord(
        names=(NAME, "Qwen/tiny:Q8_0"),
        source="huggingface",
        origin="https://huggingface.co/Qwen/tiny",
        revision="0123456789abcdef",
        licence="apache-2.0",
        pulled_at="2026-05-01T10:00:00+00:00",
        files=files,
    )
    write_record(record, record_path(folder))
    return path


@pytest.fixture
def by_hand(store: Path, tiny_model: Path) -> Path:
    path = store / "models" / "mine.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tiny_model.read_bytes())
    return path


def test_an_empty_store_says_how_to_fill_it(store: Path) -> None:
    ended = samovar("list")
    assert (ended.code, ended.out) == (0, "")
    assert "samovar pull" in ended.err
    assert json.loads(samovar("list", "--json").out) == {"models": []}


def test_models_are_listed_with_size_type_licence_date_and_path(pulled: Path, by_hand: Path) -> None:
    header, first, second = samovar("list").out.splitlines()
    assert header.split() == ["NAME", "SIZE", "TYPE", "LICENCE", "PULLED", "PATH"]
    assert first.split()[0] == NAME
    assert first.split()[3:] == ["Q8_0", "apache-2.0", "2026-05-01", str(pulled)]
    assert second.split()[0] == "mine"
    listed = json.loads(samovar("list", "--json").out)["models"]
    assert [m["name"] for m in listed] == [NAME, "mine"]
    assert listed[0]["names"] == [NAME, "Qwen/tiny:Q8_0"]
    assert listed[1]["size_bytes"] == by_hand.stat().st_size
    assert listed[1]["source"] is None


def test_a_damaged_model_is_listed_as_one(by_hand: Path) -> None:
    by_hand.write_bytes(b"GGUF")
    assert "damaged" in samovar("list").out
    by_hand.write_bytes(b"\x80\x02pickle")
    assert "unsupported" in samovar("list").out


def test_unfinished_pulls_are_told_of_and_removed(store: Path) -> None:
    work = store / "tmp" / "a--b" / "files"
    work.mkdir(parents=True)
    (work / "x.gguf.part").write_bytes(bytes(5_000_000))
    assert "unfinished pulls hold 5.0 MB" in samovar("list").err
    assert samovar("rm", "--unfinished").out == "5.0 MB freed\n"
    assert not work.exists()


def test_every_known_name_is_listed_with_its_repository() -> None:
    rows = dict(line.split(maxsplit=1) for line in samovar("list", "--known").out.splitlines())
    assert rows["qwen3:30b-a3b-q4_k_m"] == "Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M"
    assert rows["qwen3-coder:30b"] == "Qwen/Qwen3-Coder-30B-A3B-Instruct"
    assert rows["qwen3:4b-instruct-2507"] == "Qwen/Qwen3-4B-Instruct-2507"
    assert rows["qwen3-reranker:0.6b"] == "Qwen/Qwen3-Reranker-0.6B"
    assert rows["smollm2:135m"] == "package index"
    assert len(json.loads(samovar("list", "--known", "--json").out)["known"]) == len(rows) - 1


@pytest.mark.parametrize("name", [NAME, "Qwen/tiny", "hf:Qwen/tiny:q8_0", "Qwen--tiny", "https://huggingface.co/Qwen/tiny"])
def test_what_is_known_of_a_model_is_shown(pulled: Path, name: str) -> None:
    shown = samovar("show", name)
    assert shown.code == 0, shown.err
    rows = dict(line.split(maxsplit=1) for line in shown.out.splitlines() if line[0] != " " and len(line.split()) > 1)
    assert rows["architecture"] == "qwen3"
    assert rows["licence"] == "apache-2.0"
    assert rows["source"] == "https://huggingface.co/Qwen/tiny"
    assert rows["revision"] == "0123456789abcdef"
    assert rows["sha256"] == f"{'ab' * 32} tiny.gguf (as the source states)"
    assert rows["sampling"].startswith("temperature")
    assert rows["quantisation"].startswith("Q8_0")
    assert "  | " in shown.out


def test_show_for_scripts_and_the_template_alone(pulled: Path) -> None:
    report = json.loads(samovar("show", NAME, "--json").out)
    assert report["record"]["files"][0]["sha256"] == "ab" * 32
    assert report["sampling"]["temperature"] > 0
    assert samovar("show", NAME, "--template").out == report["template"].rstrip("\n") + "\n"


def test_show_without_a_record(by_hand: Path) -> None:
    assert "source         not recorded" in samovar("show", "mine").out


@pytest.mark.parametrize("command", ["show", "inspect", "tokenize"])
def test_commands_take_the_names_of_what_was_pulled(pulled: Path, command: str) -> None:
    assert samovar(command, NAME, *(["hello"] if command == "tokenize" else [])).code == 0


def test_removing_takes_the_files_and_what_the_cache_keeps(pulled: Path, by_hand: Path) -> None:
    cache = default_cache()
    cache.write("weights", "0123456789abcdef", {"source": str(pulled)}, {"x": bytes(1 << 20)})
    cache.write("weights", "f" * 16, {"source": str(by_hand)}, {"x": bytes(1 << 20)})
    ended = samovar("rm", NAME, "--yes")
    assert ended.code == 0, ended.err
    assert not pulled.parent.exists()
    assert by_hand.exists()
    assert [entry.header.meta["source"] for entry in default_cache().entries() if entry.header] == [str(by_hand)]


def test_a_model_that_was_put_there_is_removed_by_its_name(pulled: Path, by_hand: Path) -> None:
    assert samovar("rm", "mine", "--yes").code == 0
    assert not by_hand.exists()
    assert pulled.exists()


def test_nothing_is_removed_where_nobody_can_be_asked(pulled: Path) -> None:
    ended = samovar("rm", NAME)
    assert ended.code == 1
    assert "give --yes" in ended.err
    assert pulled.exists()


@pytest.mark.parametrize(("answer", "is_gone"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_a_person_is_asked_first(pulled: Path, answer: str, is_gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given = streams(None, is_terminal=True)
    assert given.stdin is not None
    monkeypatch.setattr(given.stdin, "readline", lambda: answer)
    monkeypatch.setattr(given.stderr, "isatty", lambda: True)
    assert run(["rm", NAME], given) == (0 if is_gone else 1)
    assert pulled.exists() is not is_gone


@pytest.mark.parametrize("name", ["nonsense", "../models/mine.gguf", "/etc/passwd", ".", ".."])
def test_only_models_of_the_store_are_removed(by_hand: Path, name: str) -> None:
    ended = samovar("rm", name, "--yes")
    assert ended.code == 1
    assert "no model of that name is in the store" in ended.err
    assert by_hand.exists()


def test_a_link_in_the_store_is_removed_and_not_what_it_leads_to(store: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "tiny.gguf").write_bytes(tiny_model.read_bytes())
    (store / "models").mkdir(parents=True)
    (store / "models" / "linked").symlink_to(tmp_path / "elsewhere")
    assert samovar("rm", "linked", "--yes").code == 0
    assert (tmp_path / "elsewhere" / "tiny.gguf").exists()
    assert not (store / "models" / "linked").exists()


def test_rm_without_a_name_is_wrong_usage() -> None:
    assert samovar("rm").code == 2


def test_a_damaged_record_is_named_by_show_and_does_not_hide_the_model(pulled: Path) -> None:
    (pulled.parent / "samovar.json").write_text("{")
    assert "Qwen--tiny" in samovar("list").out
    ended = samovar("show", "Qwen--tiny")
    assert ended.code == 1
    assert "no record of a pull" in ended.err


def test_the_record_is_no_part_of_the_size(pulled: Path) -> None:
    assert json.loads(samovar("list", "--json").out)["models"][0]["size_bytes"] == pulled.stat().st_size


def test_removing_says_which_other_names_go(pulled: Path) -> None:
    assert "also called Qwen/tiny:Q8_0: those names go with it" in samovar("rm", NAME, "--yes").err


def test_locks_that_nobody_holds_are_removed_with_what_is_unfinished(store: Path) -> None:
    (store / "tmp").mkdir(parents=True)
    free, held = store / "tmp" / "free.lock", store / "tmp" / "held.lock"
    free.touch()
    with pull_lock(held, lambda: None):
        assert samovar("rm", "--unfinished").code == 0
        assert (free.exists(), held.exists()) == (False, True)


def test_a_catalogue_model_without_a_record_has_the_catalogue_s_licence(
    store: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = CATALOGUE["smollm2:135m"]
    entry = replace(entry, parts=(replace(entry.parts[0], size_bytes=tiny_model.stat().st_size),))
    monkeypatch.setitem(CATALOGUE, "smollm2:135m", entry)
    path = store / "models" / entry.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(tiny_model.read_bytes())
    assert json.loads(samovar("list", "--json").out)["models"][0]["licence"] == "apache-2.0"
    assert "licence        apache-2.0" in samovar("show", "smollm2:135m").out
