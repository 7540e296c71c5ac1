"""The cache: what is whole comes back, what is not is absent, and no failure of the disk reaches the caller."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from samovar.errors import StoreError
from samovar.formats import cache as cache_module
from samovar.formats import cache_file
from samovar.formats.cache import CacheStore

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"
SECTIONS = {"empty": b"", "small": b"samovar", "large": bytes(range(256)) * 40}


@pytest.fixture
def store(tmp_path):
    return CacheStore(tmp_path / "home" / "cache")


def write(store, key=KEY, meta=None, kind="weights"):
    assert store.write(kind, key, meta or {"a": [1, 2.5, None]}, SECTIONS) is not None
    (entry,) = [e for e in store.entries() if e.header.key == key]
    return entry.path


def test_what_was_written_is_mapped(store):
    write(store)
    found = store.open("weights", KEY)
    assert found.meta == {"a": [1, 2.5, None]}
    assert {name: bytes(data) for name, data in found.sections.items()} == SECTIONS
    for data in found.sections.values():
        assert data.ctypes.data % 4096 == 0
        assert not data.flags.writeable


def test_sections_written_one_by_one_in_any_order_and_in_parts(store):
    writer = store.create("weights", KEY, {}, {"a": 3, "b": 10_000})
    large = np.arange(10_000).astype(np.uint8)
    writer.write("b", large[:77], large[77:])
    assert store.open("weights", KEY) is None
    writer.write("a", np.array([7, 8, 9], np.uint8))
    assert writer.finish()
    found = store.open("weights", KEY)
    assert np.array_equal(found.sections["b"], large)
    assert list(found.sections["a"]) == [7, 8, 9]


def test_huge_pages_are_written_in_one_piece_wherever_sections_meet(store, monkeypatch):
    pieces, pwrite, huge = [], os.pwrite, cache_file.HUGE_PAGE
    monkeypatch.setattr(cache_module.os, "pwrite", lambda fd, data, at: pieces.append((at, len(data))) or pwrite(fd, data, at))
    sections = {name: np.full(3_000_000, value, np.uint8) for value, name in enumerate("abc", start=1)}
    found = store.write("weights", KEY, {}, sections)
    assert {(at, n) for at, n in pieces if at and at % huge == 0} >= {(huge, huge), (2 * huge, huge), (3 * huge, huge)}
    assert all(at // huge == (at + n - 1) // huge for at, n in pieces)
    assert all(np.array_equal(found.sections[name], data) for name, data in sections.items())
    assert all(found.is_sound(name) for name in sections)


def test_absent_entries_are_none(store):
    assert store.open("weights", KEY) is None
    path = write(store)
    assert store.open("weights", OTHER) is None
    assert store.open("tokenizer", KEY) is None
    path.rename(path.with_name(f"weights-{OTHER}.cache"))  # its header names another key
    assert store.open("weights", OTHER) is None


def test_a_file_cut_short_anywhere_is_absent(store):
    path = write(store)
    whole = path.read_bytes()
    for size in (0, 1, 8, 63, 64, 100, 4095, 4096, 8192, 12_000, len(whole) - 4096, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert store.open("weights", KEY) is None, size
    path.write_bytes(whole + b"\0")
    assert store.open("weights", KEY) is None
    path.write_bytes(whole)
    assert store.open("weights", KEY) is not None


def test_a_flipped_bit_in_header_or_sections_is_noticed(store):
    path = write(store)
    whole = bytearray(path.read_bytes())
    header_end = 64 + int.from_bytes(whole[16:24], "little")
    places = [*range(12), *range(16, 56), 64, header_end - 1, header_end // 2]
    for section in cache_file.read_cache_header(os.open(path, os.O_RDONLY)).sections.values():
        places += [section.offset, section.offset + section.size - 1] if section.size else []
    for place in places:
        damaged = whole.copy()
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        assert store.open("weights", KEY) is None, place


def test_sections_that_are_not_checked_at_once_are_checked_when_asked(store):
    path = write(store)
    section = cache_file.open_cache_file(path)
    offset = section.sections["large"].ctypes.data - section.sections["small"].ctypes.data
    with path.open("r+b") as file:
        at = path.read_bytes().index(b"samovar", 4096) + offset
        file.seek(at)
        file.write(b"\xff")
    found = store.open("weights", KEY, check_sections=False)
    assert found.is_sound("small")
    assert not found.is_sound("large")


def test_another_layout_version_is_absent_and_written_again(store, monkeypatch):
    write(store)
    monkeypatch.setattr(cache_file, "LAYOUT_VERSION", 2)
    assert store.open("weights", KEY) is None
    assert store.entries()[0].header is None
    write(store)
    assert store.open("weights", KEY) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"sections": {"x": [4096, -1, "00"]}},
        {"sections": {"x": [4096, 1 << 62, "00"]}},
        {"sections": {"x": [1 << 62, 1, "00"]}},
        {"sections": {"x": [-4096, 1, "00"]}},
        {"sections": {"x": [4097, 1, "00"]}},
        {"sections": {"x": [4096, 1]}},
        {"sections": [1]},
        {"surplus": 1},
        {"file_size": "big"},
    ],
)
def test_a_header_with_a_right_digest_and_wrong_numbers_is_absent(store, change):
    path = write(store)
    raw = path.read_bytes()
    size = int.from_bytes(raw[16:24], "little")
    fields = json.loads(raw[64 : 64 + size]) | change
    body = json.dumps(fields).encode()
    import hashlib

    preface = raw[:16] + len(body).to_bytes(8, "little") + hashlib.sha256(body).digest() + bytes(8)
    path.write_bytes((preface + body).ljust(4096, b"\0") + raw[4096:])
    assert store.open("weights", KEY) is None


def test_a_folder_in_place_of_a_file_is_absent_and_said_before_anything_is_packed(store):
    (store.folder / f"weights-{KEY}.cache" / "x").mkdir(parents=True)
    assert store.open("weights", KEY) is None
    assert store.create("weights", KEY, {}, {"a": 10}) is None
    assert f"cannot be written (weights-{KEY}.cache in it is a folder; move it away)" in store.problem
    assert not list(store.folder.glob("*.tmp"))


def test_the_problem_names_what_could_not_be_written_and_nothing_else(store):
    write(store, kind="header")
    assert store.problem is None
    for key in (KEY, OTHER):
        (store.folder / f"tokenizer-{key}.cache").mkdir()
        store.write("tokenizer", key, {}, SECTIONS)
    assert store.problem.endswith("; the next start will make these again: tokenizer")


def test_a_file_in_place_of_the_cache_folder_is_a_problem(tmp_path):
    (tmp_path / "cache").write_text("")
    store = CacheStore(tmp_path / "cache")
    assert store.open("weights", KEY) is None
    assert store.create("weights", KEY, {}, {}) is None
    assert f"{tmp_path / 'cache'}: the cache cannot be written (a file is where the folder has to be)" in store.problem
    for call in (store.entries, store.clear):
        with pytest.raises(StoreError, match="cache: a file is where a folder has to be; move it away"):
            call()


def test_a_folder_that_cannot_be_read_is_no_empty_cache(store, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(type(store.folder), "iterdir", refuse)
    with pytest.raises(PermissionError):
        store.entries()


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk_means_no_entry_and_one_sentence(store, monkeypatch, call):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module.os, call, refuse)
    assert store.write("weights", KEY, {}, SECTIONS) is None
    assert "no space is left" in store.problem
    assert list(store.folder.iterdir()) == []


def test_a_file_system_that_cannot_reserve_space_is_no_problem(store, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(cache_module.os, "posix_fallocate", refuse)
    write(store)
    assert store.problem is None


def test_the_folder_is_for_its_user_alone(store):
    path = write(store)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_new_entry_takes_the_place_of_older_ones_from_the_same_source(store):
    write(store, KEY, {"source": "/a"})
    write(store, "aa" * 8, {"source": "/b"})
    write(store, "bb" * 8, {"source": "/a"}, kind="tokenizer")
    write(store, OTHER, {"source": "/a"})
    assert {(e.header.kind, e.header.key) for e in store.entries()} == {
        ("weights", OTHER), ("weights", "aa" * 8), ("tokenizer", "bb" * 8),
    }  # fmt: skip


def test_clear_deletes_everything_and_a_mapped_entry_stays_readable(store):
    path = write(store)
    found, size = store.open("weights", KEY), path.stat().st_size
    assert store.clear() == size
    assert store.entries() == []
    assert bytes(found.sections["small"]) == b"samovar"


def test_abandoned_files_leave_nothing(store):
    writer = store.create("weights", KEY, {}, {"a": 10_000})
    writer.abandon()
    assert not writer.finish()
    assert list(store.folder.iterdir()) == []


@contextlib.contextmanager
def writing_process(store):
    """A process that is writing an entry made from /a; killed at the end."""
    program = f"""
import sys
from pathlib import Path
from samovar.formats.cache import CacheStore
store = CacheStore(Path({str(store.folder)!r}))
writer = store.create("weights", {KEY!r}, {{"source": "/a"}}, {{"a": 10_000}})
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        yield
        child.send_signal(signal.SIGKILL)
        child.wait()


def test_an_unfinished_file_is_listed_with_its_source_and_removed_only_when_its_process_is_gone(store):
    with writing_process(store):
        (entry,) = store.entries()
        assert (entry.state, entry.header.meta) == ("being written", {"source": "/a"})
        assert store.remove(entry) == store.clear() == 0
        assert entry.path.exists()
    (entry,) = store.entries()
    assert (entry.state, entry.header.meta) == ("unfinished", {"source": "/a"})
    assert store.remove(entry) == entry.size_bytes > 10_000
    assert store.entries() == []


def test_what_a_killed_process_leaves_is_removed_and_a_living_ones_is_not(store):
    with writing_process(store):
        write(store, OTHER)
        assert len(list(store.folder.glob("*.tmp"))) == 1
    assert store.open("weights", KEY) is None
    write(store, OTHER)
    assert not list(store.folder.glob("*.tmp"))


def test_writers_at_the_same_time_do_not_hurt_each_other(store):
    data = np.arange(1 << 16).astype(np.uint8)
    results = []

    def work():
        own = CacheStore(store.folder)
        for _ in range(20):
            writer = own.create("weights", KEY, {}, {"a": len(data)})
            writer.write("a", data)
            results.append(writer.finish() and own.open("weights", KEY) is not None)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 60
    assert np.array_equal(store.open("weights", KEY).sections["a"], data)


def test_clearing_takes_away_a_folder_in_an_entry_s_place(store):
    write(store)
    (entry,) = store.entries()
    entry.path.unlink()
    (entry.path / "inside").mkdir(parents=True)
    store.clear()
    assert store.entries() == []
