"""Pulling from plain addresses."""

import hashlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from samovar.errors import DownloadError, ModelNotFound
from samovar.formats.hub import pull, resolve
from samovar.formats.pull_hub import PullOptions
from samovar.formats.pull_record import PullRecord, read_record
from samovar.formats.transfer import TransferSettings
from tests.formats.hub_models import FILE, QUICK, REPO, SEGMENT, gguf_bytes, silent
from tests.formats.hub_stub import HubStub, hub_stub


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


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    """A stub that speaks TLS, whose certificate the environment names."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with hub_stub(tls) as stub:
        yield stub


def test_a_redirect_that_gives_up_encryption_is_refused(
    secure: HubStub, hub: HubStub, options: PullOptions, store: Path, tmp_path: Path
) -> None:
    hub.plain["/plain/x.gguf"] = secure.plain["/plain/x.gguf"] = data = gguf_bytes(tmp_path)
    secure.wrong.redirects_to = f"{hub.url}/plain"
    with pytest.raises(DownloadError, match=r"redirects to http://.*, which is not encrypted; refused"):
        pull(f"{secure.url}/moved/x.gguf", store, silent, options=options)
    assert not hub.asked
    secure.wrong.redirects_to = "/plain"
    assert pull(f"{secure.url}/moved/x.gguf", store, silent, options=options).read_bytes() == data


def test_a_redirect_from_this_machine_to_others_without_encryption_is_refused(
    hub: HubStub, options: PullOptions, store: Path
) -> None:
    hub.wrong.redirects_to = "http://192.0.2.2/plain"
    with pytest.raises(DownloadError, match=r"redirects to http://192\.0\.2\.2/plain/x\.gguf, which is not encrypted; refused"):
        pull(f"{hub.url}/moved/x.gguf", store, silent, options=options)


def test_a_server_that_cannot_prove_who_it_is_is_refused_at_once(
    secure: HubStub, options: PullOptions, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(DownloadError, match=r"cannot prove who it is .*SSL_CERT_FILE"):
        pull(f"{secure.url}/plain/x.gguf", store, silent, options=replace(options, transfer=TransferSettings()))
    assert not secure.asked


def test_a_server_that_is_not_there_is_named_at_once(hub: HubStub, options: PullOptions, store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DownloadError, match="check the address and the network"):
        pull(f"http://127.0.0.1:{port}/x.gguf", store, silent, options=replace(options, transfer=TransferSettings()))


@pytest.mark.parametrize("content", [b"\x80\x04" + bytes(1000), b"PK\x03\x04" + bytes(1000), b"tjgg" + bytes(1000)])
def test_pickles_and_what_is_no_model_are_thrown_away(hub: HubStub, options: PullOptions, store: Path, content: bytes) -> None:
    hub.plain["/plain/pytorch_model.gguf"] = content
    with pytest.raises(DownloadError, match="no sound model, and was thrown away"):
        pull(f"{hub.url}/plain/pytorch_model.gguf", store, silent, options=options)
    assert not list((store / "models").iterdir())
    assert not [path for path in (store / "tmp").rglob("*") if path.suffix != ".lock"]


def test_a_sound_file_of_a_version_that_is_not_read_is_kept(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.plain["/plain/later.gguf"] = data = b"GGUF" + (9).to_bytes(4, "little") + bytes(1000)
    assert pull(f"{hub.url}/plain/later.gguf", store, silent, options=options).read_bytes() == data


def test_another_address_is_another_model_though_name_and_size_agree(
    hub: HubStub, options: PullOptions, store: Path, tmp_path: Path
) -> None:
    hub.plain["/plain/ok/a.gguf"] = one = gguf_bytes(tmp_path, **{"general.name": "a"})
    hub.plain["/plain/alt/a.gguf"] = other = gguf_bytes(tmp_path, **{"general.name": "b"})
    assert len(one) == len(other)
    first = pull(f"{hub.url}/plain/ok/a.gguf", store, silent, options=options)
    second = pull(f"{hub.url}/plain/alt/a.gguf", store, silent, options=options)
    assert (first.read_bytes(), second.read_bytes()) == (one, other)
    record = read_record(second.parent)
    assert record is not None
    assert record.names[0].startswith("a-")
    assert resolve("a", store) == first
    assert resolve(record.names[0], store) == second


def test_another_address_of_the_stated_sha256_is_the_same_model(
    hub: HubStub, options: PullOptions, store: Path, tmp_path: Path
) -> None:
    hub.plain["/plain/ok/a.gguf"] = hub.plain["/plain/alt/a.gguf"] = data = gguf_bytes(tmp_path)
    first = pull(f"{hub.url}/plain/ok/a.gguf", store, silent, options=options)
    stated = replace(options, sha256=hashlib.sha256(data).hexdigest())
    assert pull(f"{hub.url}/plain/alt/a.gguf", store, silent, options=stated) == first
    for name in ("a", f"{hub.url}/plain/ok/a.gguf", f"{hub.url}/plain/alt/a.gguf"):
        assert resolve(name, store) == first


def test_an_update_of_an_address_keeps_the_name(hub: HubStub, options: PullOptions, store: Path, tmp_path: Path) -> None:
    hub.plain["/plain/a.gguf"] = gguf_bytes(tmp_path)
    path = pull(f"{hub.url}/plain/a.gguf", store, silent, options=options)
    hub.plain["/plain/a.gguf"] = data = gguf_bytes(tmp_path, 16_000)
    assert pull(f"{hub.url}/plain/a.gguf", store, silent, options=replace(options, is_update=True)) == path
    assert path.read_bytes() == data
    assert resolve("a", store) == path


def test_an_update_fetches_what_has_changed_though_its_size_has_not(
    hub: HubStub, options: PullOptions, store: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    update = replace(options, is_update=True, transfer=replace(QUICK, on_retry=told.append))
    url = f"{hub.url}/plain/a.gguf"
    for word in ("one", "two"):
        hub.plain["/plain/a.gguf"] = data = gguf_bytes(tmp_path, **{"general.name": word})
        path = pull(url, store, silent, options=update)
        assert path.read_bytes() == data
        hub.asked.clear()
        assert pull(url, store, silent, options=update) == path
        assert [asked.headers["range"] for asked in hub.asked] == ["bytes=0-0"]  # asked, and not fetched
    record = read_record(path.parent)
    assert record is not None
    assert record.files[0].validator == f'"{hashlib.sha256(data).hexdigest()}"'
    assert not told


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ({"ETag": 'W/"1"'}, {"ETag": 'W/"1"'}, "the server gives no ETag and no date"),
        ({"ETag": 'W/"1"'}, {"ETag": '"1"'}, "the last pull has noted no ETag and no date"),
    ],
)
def test_an_update_of_a_file_that_the_server_tells_nothing_of_fetches_it_again_and_says_why(
    hub: HubStub, options: PullOptions, store: Path, tmp_path: Path, first: dict[str, str], then: dict[str, str], said: str
) -> None:
    told: list[str] = []
    update = replace(options, is_update=True, transfer=replace(QUICK, on_retry=told.append))
    url = f"{hub.url}/plain/a.gguf"
    hub.wrong.headers = first
    hub.plain["/plain/a.gguf"] = gguf_bytes(tmp_path, **{"general.name": "one"})
    pull(url, store, silent, options=update)
    hub.wrong.headers = then
    hub.plain["/plain/a.gguf"] = data = gguf_bytes(tmp_path, **{"general.name": "two"})
    assert pull(url, store, silent, options=options).read_bytes() != data  # without --update: no network
    assert not told
    assert pull(url, store, silent, options=update).read_bytes() == data
    assert told == [f"{url}: {said} to tell by whether the file has changed; fetching it again"]


def test_the_date_of_a_file_tells_that_it_has_changed(hub: HubStub, options: PullOptions, store: Path, tmp_path: Path) -> None:
    update = replace(options, is_update=True)
    url = f"{hub.url}/plain/a.gguf"
    for day, is_new in (("01", True), ("01", False), ("02", True)):
        hub.wrong.headers = {"ETag": 'W/"1"', "Last-Modified": f"Thu, {day} Jan 2026 00:00:00 GMT"}
        hub.plain["/plain/a.gguf"] = data = gguf_bytes(tmp_path, **{"general.name": day})
        hub.asked.clear()
        assert pull(url, store, silent, options=update).read_bytes() == data
        assert (len(hub.asked) > 1) == is_new


def test_each_new_try_is_told(hub: HubStub, options: PullOptions, store: Path, tmp_path: Path) -> None:
    hub.plain["/plain/x.gguf"] = gguf_bytes(tmp_path)
    hub.wrong.statuses = [503]
    told: list[str] = []
    pull(f"{hub.url}/plain/x.gguf", store, silent, options=replace(options, transfer=replace(QUICK, on_retry=told.append)))
    assert len(told) == 1
    assert "503" in told[0]
    assert "trying again" in told[0]
