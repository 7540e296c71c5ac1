"""Pulling from plain addresses."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from samovar.errors import DownloadError, ModelNotFound
from samovar.formats.hub import pull, resolve
from samovar.formats.pull_hub import PullOptions
from samovar.formats.pull_record import PullRecord, read_record
from tests.formats.hub_models import FILE, QUICK, REPO, SEGMENT, gguf_bytes, silent
from tests.formats.hub_stub import HubStub


def test_an_address_is_pulled_in_parallel_and_found_by_its_name(
    hub: HubStub, options: PullOptions, store: Path, tmp_path: Path
) -> None:
    hub.plain["/plain/My Model-q4.gguf"] = data = gguf_bytes(tmp_path, **{"general.license": "mit"})
    url = f"{hub.url}/plain/My%20Model-q4.gguf"
    plans: list[tuple[PullRecord, int, int]] = []
    path = pull(f"{url}?signature=abc", store, silent, options=replace(options, on_plan=lambda *plan: plans.append(plan)))
    assert path.read_bytes() == data
    assert len(hub.bytes_asked()) == 1 + -(-len(data) // SEGMENT)
    assert plans[0][1:] == (1, len(data))
    for name in ("My Model-q4", url, f"{url}?signature=other"):
        assert resolve(name, store) == path
    record = read_record(path.parent)
    assert record is not None
    assert (record.source, record.licence, record.files[0].checked) == ("url", "mit", "size")
    assert "signature" not in (path.parent / "samovar.json").read_text()


def test_an_address_is_held_against_the_given_sha256(hub: HubStub, options: PullOptions, store: Path, tmp_path: Path) -> None:
    hub.plain["/plain/x.gguf"] = data = gguf_bytes(tmp_path)
    with pytest.raises(DownloadError, match=f"and {'0' * 64} was promised"):
        pull(f"{hub.url}/plain/x.gguf", store, silent, options=replace(options, sha256="0" * 64))
    right = hashlib.sha256(data).hexdigest()
    path = pull(f"{hub.url}/plain/x.gguf", store, silent, options=replace(options, sha256=right.upper()))
    record = read_record(path.parent)
    assert record is not None
    assert (record.files[0].sha256, record.files[0].checked) == (right, "sha256")
    with pytest.raises(DownloadError, match="64 hexadecimal digits"):
        pull(f"{hub.url}/plain/y.gguf", store, silent, options=replace(options, sha256="abc"))


def test_a_file_without_a_stated_size_comes_whole(hub: HubStub, options: PullOptions, store: Path, tmp_path: Path) -> None:
    hub.plain["/plain/x.gguf"] = data = gguf_bytes(tmp_path)
    hub.wrong.ignores_ranges = hub.wrong.is_chunked = True
    assert pull(f"{hub.url}/plain/x.gguf", store, silent, options=options).read_bytes() == data


def test_a_file_that_changes_between_two_pulls_is_not_mixed(
    hub: HubStub, options: PullOptions, store: Path, tmp_path: Path
) -> None:
    hub.plain["/plain/x.gguf"] = gguf_bytes(tmp_path, 16_000)
    hub.wrong.cuts = [1, 15_000, *[0] * 40]
    with pytest.raises(DownloadError, match="tried 3 times"):
        pull(f"{hub.url}/plain/x.gguf", store, silent, options=replace(options, transfer=replace(QUICK, n_streams=1)))
    hub.wrong.cuts = []
    values = gguf_bytes(tmp_path, 16_000, **{"general.name": "a"})
    hub.plain["/plain/x.gguf"] = values
    assert pull(f"{hub.url}/plain/x.gguf", store, silent, options=options).read_bytes() == values


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.org/x.gguf", "http is not encrypted"),
        ("ftp://example.org/x.gguf", "ftp is not spoken here"),
        ("https://example.org/x.safetensors", "a .gguf file is expected"),
        ("https://example.org/x-00001-of-00002.gguf", "one part of several"),
        ("https://user:secret@example.org/x.gguf", "a password in it is not taken"),
        ("https://", "no address"),
    ],
)
def test_addresses_that_are_not_fetched_say_why(store: Path, options: PullOptions, url: str, said: str) -> None:
    with pytest.raises((DownloadError, ModelNotFound), match=said):
        pull(url, store, silent, options=options)


def test_a_redirect_in_a_circle_is_named(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.wrong.redirects_to = f"{hub.url}/{REPO}/resolve/main/{FILE}"
    with pytest.raises(DownloadError, match="redirects in a circle"):
        pull("qwen3:0.6b", store, silent, options=options)


def test_an_address_that_does_not_exist_is_named(hub: HubStub, options: PullOptions, store: Path) -> None:
    with pytest.raises(DownloadError, match="answers 404, there is no such file"):
        pull(f"{hub.url}/plain/none.gguf", store, silent, options=options)
