"""Bytes on their way into a folder: any order of cuts ends in the right file, and notes are not believed blindly."""

import json
import random
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from samovar.errors import DownloadError
from samovar.formats.growing_file import GrowingFile
from samovar.formats.http_fetch import Body
from samovar.formats.remote import RemoteFile
from samovar.formats.transfer import Transfer, TransferSettings
from tests.formats.hub_stub import HubStub, hub_stub, sha256
from tests.matrices import slow_but

SETTINGS = TransferSettings(n_streams=3, segment_bytes=4_000, n_tries=4, first_wait_s=0.0)
DATA = random.Random(5).randbytes(30_001)


@pytest.fixture(scope="module")
def server() -> Iterator[HubStub]:
    with hub_stub() as stub:
        stub.plain["/plain/x"] = DATA
        yield stub


@pytest.fixture(autouse=True)
def well_behaved(server: HubStub) -> None:
    server.wrong = type(server.wrong)()
    server.asked.clear()


def remote(server: HubStub, data: bytes = DATA) -> RemoteFile:
    return RemoteFile(
        path="x", local_path="sub/x", url=f"{server.url}/plain/x", size_bytes=len(data), sha256=sha256(data), validator=None
    )


def run(server: HubStub, folder: Path, settings: TransferSettings = SETTINGS) -> bytes:
    hashes = Transfer([remote(server)], folder / "files", folder / "notes", settings).run(lambda *_: None)
    assert hashes == {"sub/x": sha256(DATA)}
    return (folder / "files" / "sub" / "x").read_bytes()


@pytest.mark.parametrize("seed", slow_but(range(4), range(12)))
@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_any_order_of_cuts_and_refusals_ends_in_the_right_bytes(
    server: HubStub, tmp_path: Path, seed: int, ignores_ranges: bool
) -> None:
    chance = random.Random(seed)
    server.wrong.ignores_ranges = ignores_ranges
    for _ in range(20):
        server.wrong.cuts = [chance.choice([0, 1, 500, 3_999, 4_000, 29_000]) for _ in range(chance.randrange(8))]
        server.wrong.statuses = [chance.choice([429, 500, 503]) for _ in range(chance.randrange(4))]
        try:
            assert run(server, tmp_path) == DATA
        except DownloadError as error:
            assert "tried 4 times" in str(error)  # noqa: PT017 - the next run goes on from there
            assert not (tmp_path / "files" / "sub" / "x").exists()
            continue
        break
    server.wrong.cuts, server.wrong.statuses = [], []
    assert run(server, tmp_path) == DATA


def broken_off(server: HubStub, folder: Path) -> Path:
    """A file of which a part has come; returns its note."""
    server.wrong.cuts = [3_000]
    one_try = TransferSettings(n_streams=1, segment_bytes=4_000, n_tries=1, first_wait_s=0.0)
    with pytest.raises(DownloadError):
        Transfer([remote(server)], folder / "files", folder / "notes", one_try).run(lambda *_: None)
    server.wrong.cuts = []
    server.asked.clear()
    return folder / "notes" / "sub--x.json"


def test_a_run_goes_on_at_the_byte_that_the_note_tells(server: HubStub, tmp_path: Path) -> None:
    note = json.loads(broken_off(server, tmp_path).read_text())
    assert note["segments"][0] == [0, 4_000, 3_000, zlib.crc32(DATA[:3_000])]
    assert run(server, tmp_path) == DATA
    assert "bytes=3000-3999" in {asked.headers["range"] for asked in server.asked}


def _segments(change: list[list[int]]) -> dict[str, object]:
    return {"segments": change}


@pytest.mark.parametrize(
    "spoil",
    [
        b"",
        b"{",
        b"[]",
        b'{"identity": 5}',
        {"identity": "of other bytes"},
        _segments([]),
        _segments([[0, 30_001, 30_001, 0]]),  # more than the file holds
        _segments([[0, 30_001, -1, 0]]),
        _segments([[0, 10_000, 0, 0], [20_000, 30_001, 0, 0]]),  # a gap
        _segments([[0, 20_000, 0, 0], [10_000, 30_001, 0, 0]]),  # an overlap
        _segments([[0, 60_000, 0, 0]]),
        _segments([[0, -1, 0, 0], [-1, 30_001, 0, 0]]),
        _segments([[0, 4_000, 3_000]]),  # without a checksum
    ],
)
def test_a_spoilt_note_is_not_believed(server: HubStub, tmp_path: Path, spoil: bytes | dict[str, object]) -> None:
    note = broken_off(server, tmp_path)
    note.write_bytes(spoil if isinstance(spoil, bytes) else json.dumps(json.loads(note.read_text()) | spoil).encode())
    assert run(server, tmp_path) == DATA
    assert {asked.headers["range"] for asked in server.asked} == {
        f"bytes={a}-{min(a + 3_999, 30_000)}" for a in range(0, 30_001, 4_000)
    }


def test_a_finished_file_is_not_fetched_again_and_a_changed_one_is(server: HubStub, tmp_path: Path) -> None:
    run(server, tmp_path)
    server.asked.clear()
    run(server, tmp_path)
    assert not server.asked
    (tmp_path / "files" / "sub" / "x").write_bytes(DATA[:-1])
    assert run(server, tmp_path) == DATA


@pytest.mark.parametrize("damage", ["a byte", "the end is lost"])
def test_what_the_disk_damaged_between_two_runs_is_all_that_is_fetched_again(
    server: HubStub, tmp_path: Path, damage: str
) -> None:
    server.wrong.cuts = [1 << 20] * 6 + [1_000]  # in the seventh segment
    one_try = TransferSettings(n_streams=1, segment_bytes=4_000, n_tries=1, first_wait_s=0.0)
    with pytest.raises(DownloadError):
        Transfer([remote(server)], tmp_path / "files", tmp_path / "notes", one_try).run(lambda *_: None)
    server.wrong.cuts = []
    server.asked.clear()
    part = tmp_path / "files" / "sub" / "x.part"
    data = bytearray(part.read_bytes())
    assert len(data) == 25_000
    if damage == "a byte":
        data[9_999] ^= 4
    part.write_bytes(data if damage == "a byte" else data[:24_900] + bytes(100))
    told: list[str] = []
    assert run(server, tmp_path, replace(SETTINGS, on_retry=told.append)) == DATA
    again = "bytes=8000-11999" if damage == "a byte" else "bytes=24000-27999"
    rest = {"bytes=25000-27999"} if damage == "a byte" else set()
    assert {asked.headers["range"] for asked in server.asked} == {again, "bytes=28000-30000"} | rest
    assert "damaged on this disk; fetching these again" in told[0]


def test_a_whole_file_that_the_disk_damaged_before_its_model_was_whole_is_fetched_again(
    server: HubStub, tmp_path: Path
) -> None:
    run(server, tmp_path)
    path = tmp_path / "files" / "sub" / "x"
    path.write_bytes(bytes([DATA[0] ^ 1]) + DATA[1:])
    assert run(server, tmp_path) == DATA


def test_what_the_disk_damages_during_a_run_is_found_by_the_hash_and_fetched_again(server: HubStub, tmp_path: Path) -> None:
    told: list[str] = []
    transfer = Transfer(
        [remote(server)], tmp_path / "files", tmp_path / "notes", replace(SETTINGS, n_streams=1, on_retry=told.append)
    )
    part = tmp_path / "files" / "sub" / "x.part"

    def damage(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(5_000)
            file.write(bytes([DATA[5_000] ^ 1]))

    file = transfer._files[0]
    claim, is_first = file.claim_check, [True]

    def claim_check() -> bool:
        claims = claim()
        if claims and is_first.pop():
            damage(part)
            is_first.append(False)
        return claims

    file.claim_check = claim_check  # type: ignore[method-assign]
    assert transfer.run(lambda *_: None) == {"sub/x": sha256(DATA)}
    assert (tmp_path / "files" / "sub" / "x").read_bytes() == DATA
    assert told == ["x: 0.0 MB of what had come are damaged on this disk; fetching these again"]
    assert [asked.headers["range"] for asked in server.asked].count("bytes=4000-7999") == 2


def test_an_empty_file_is_a_file(server: HubStub, tmp_path: Path) -> None:
    file = RemoteFile(path="e", local_path="e", url=f"{server.url}/plain/e", size_bytes=0, sha256=sha256(b""))
    Transfer([file], tmp_path / "files", tmp_path / "notes", SETTINGS).run(lambda *_: None)
    assert (tmp_path / "files" / "e").read_bytes() == b""


def test_a_source_that_says_nothing_of_the_content_leaves_no_note(tmp_path: Path) -> None:
    file = GrowingFile(RemoteFile(path="x", local_path="x", url="u", size_bytes=5), tmp_path / "f", tmp_path / "n", 4)
    file.part.write_bytes(b"12")
    file.note()
    assert not list((tmp_path / "n").iterdir())


@pytest.mark.parametrize(
    ("n_failed", "asked", "expected"),
    [(1, 0.0, 1.0), (2, 0.0, 2.0), (4, 0.0, 8.0), (9, 0.0, 60.0), (1, 7.0, 7.0), (1, 9e9, 60.0)],
)
def test_waits_double_and_follow_the_server_within_reason(n_failed: int, asked: float, expected: float) -> None:
    assert TransferSettings().wait_s(n_failed, asked) == expected


def test_what_an_earlier_pull_left_of_a_longer_file_does_not_stay_behind_a_shorter_one(server: HubStub, tmp_path: Path) -> None:
    part = tmp_path / "files" / "sub" / "x.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * (len(DATA) + 1_000))
    assert run(server, tmp_path) == DATA


def test_bytes_that_somebody_adds_are_named_by_their_number_and_not_by_a_hash(server: HubStub, tmp_path: Path) -> None:
    file = GrowingFile(remote(server), tmp_path / "files", tmp_path / "notes", len(DATA))
    body = Body(start=0, total_bytes=len(DATA), validator=None, is_partial=False, chunks=iter([DATA]))
    file.write(file.first_open, body, threading.Event())
    with file.part.open("ab") as part:
        part.write(b"more")
    with pytest.raises(DownloadError, match="x: 30005 bytes came, and 30001 were promised; they were thrown away"):
        file.check_and_finish(threading.Event())
    assert not file.part.exists()
