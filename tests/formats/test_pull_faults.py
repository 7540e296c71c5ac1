"""Pulling from hubs that cut, lie, refuse and attack, and onto disks that refuse: nothing half-written looks whole."""

import errno
import hashlib
import json
import os
import resource
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from samovar.errors import DownloadError, ModelNotFound, StoreError, UnsupportedModel
from samovar.formats import pull_lock
from samovar.formats.hub import pull
from samovar.formats.pull_hub import PullOptions
from samovar.formats.pull_record import read_record
from tests.formats.hub_models import FILE, QUICK, REPO, SEGMENT, fetched, folder_files, gguf_bytes, nothing_looks_whole, silent
from tests.formats.hub_stub import HubStub, Repo, git_sha1

# -- what goes wrong on the way


def test_cut_connections_are_taken_up_where_they_ended(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.wrong.cuts = [100, 3_000, 5, 700, 9_999, 1]
    path = pull("qwen3:0.6b", store, silent, options=options)
    assert path.read_bytes() == hub.repos[REPO].files[FILE]
    starts = [asked.headers["range"] for asked in hub.bytes_asked()]
    assert any(int(r.removeprefix("bytes=").partition("-")[0]) % SEGMENT != 0 for r in starts)


def test_a_pull_that_broke_off_goes_on_with_what_is_missing(hub: HubStub, options: PullOptions, store: Path) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if done >= SEGMENT // 2:
            raise KeyboardInterrupt

    hub.wrong.cuts = [SEGMENT // 2]
    patient = replace(options, transfer=replace(QUICK, n_streams=1, first_wait_s=5.0))
    with pytest.raises(KeyboardInterrupt):
        pull("qwen3:0.6b", store, interrupt, options=patient)
    assert nothing_looks_whole(store)
    hub.asked.clear()
    path = pull("qwen3:0.6b", store, silent, options=options)
    assert path.read_bytes() == hub.repos[REPO].files[FILE]
    starts = sorted(int(a.headers["range"].removeprefix("bytes=").partition("-")[0]) for a in hub.bytes_asked())
    assert starts[0] == SEGMENT // 2


def test_a_server_that_ignores_ranges_is_read_from_the_start(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.wrong.ignores_ranges = True
    hub.wrong.cuts = [25_000, 30_000]
    path = pull("qwen3:0.6b", store, silent, options=options)
    assert path.read_bytes() == hub.repos[REPO].files[FILE]


@pytest.mark.parametrize("name", ["qwen3:0.6b", f"ms:{REPO}"])
def test_wrong_bytes_are_thrown_away_and_the_next_pull_is_right(
    hub: HubStub, options: PullOptions, store: Path, name: str
) -> None:
    hub.wrong.corrupts = {FILE}
    sha256 = hashlib.sha256(hub.repos[REPO].files[FILE]).hexdigest()
    with pytest.raises(
        DownloadError, match=f"{FILE}: what came has the hash .*, and {sha256} was promised; it was thrown away"
    ):
        pull(name, store, silent, options=options)
    assert nothing_looks_whole(store)
    assert not list((store / "tmp").rglob("*.part"))
    hub.wrong.corrupts = set()
    assert pull(name, store, silent, options=options).read_bytes() == hub.repos[REPO].files[FILE]


def test_small_files_are_held_against_git_s_hash(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.repos["Qwen/Qwen3-0.6B"] = Repo(folder_files())
    hub.wrong.corrupts = {"generation_config.json"}
    with pytest.raises(DownloadError, match=f"and {git_sha1(b'{}')} was promised"):
        pull("qwen3:0.6b-bf16", store, silent, options=options)
    assert nothing_looks_whole(store)


@pytest.mark.parametrize("told", [100, 1_000_000])
@pytest.mark.parametrize("name", ["qwen3:0.6b", f"ms:{REPO}"])
def test_a_hub_that_lies_about_a_size_is_not_believed(
    hub: HubStub, options: PullOptions, store: Path, told: int, name: str
) -> None:
    hub.wrong.told_sizes = {FILE: told}
    with pytest.raises(
        DownloadError, match=f"{told} bytes were promised, and the server has {len(hub.repos[REPO].files[FILE])}"
    ):
        pull(name, store, silent, options=options)
    assert nothing_looks_whole(store)


@pytest.mark.parametrize("name", ["qwen3:0.6b", f"ms:{REPO}"])
def test_a_size_beyond_the_file_s_end_is_said_to_be_wrong_when_the_end_is_met(
    hub: HubStub, options: PullOptions, store: Path, name: str
) -> None:
    size = len(hub.repos[REPO].files[FILE])
    hub.wrong.told_sizes, hub.wrong.sticks_to_sizes = {FILE: size + 1_000}, True
    with pytest.raises(DownloadError, match=f"{size + 1_000} bytes were promised, and the server has {size}; do not trust it"):
        pull(name, store, silent, options=options)
    hub.wrong.headers = {"Content-Range": "bytes */*"}  # it does not say where its end is
    with pytest.raises(DownloadError, match=rf"there are no bytes from {size} on, though {size + 1_000} bytes were promised;"):
        pull(name, store, silent, options=options)
    assert nothing_looks_whole(store)


def test_more_bytes_than_promised_are_refused_where_the_server_hides_the_size(
    hub: HubStub, options: PullOptions, store: Path
) -> None:
    hub.wrong.ignores_ranges = hub.wrong.is_chunked = True
    hub.wrong.sent = {FILE: hub.repos[REPO].files[FILE] + b"more"}
    with pytest.raises(DownloadError, match="sends more than the"):
        pull("qwen3:0.6b", store, silent, options=options)
    assert nothing_looks_whole(store)


def test_a_file_that_ends_too_early_for_ever_is_named(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.wrong.ignores_ranges = hub.wrong.is_chunked = True
    hub.wrong.sent = {FILE: hub.repos[REPO].files[FILE][:5_000]}
    with pytest.raises(DownloadError, match=r"the connection ended at byte 5000 of 64\d\d\d; tried 3 times"):
        pull("qwen3:0.6b", store, silent, options=options)
    assert nothing_looks_whole(store)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(hub: HubStub, options: PullOptions, store: Path, status: int) -> None:
    hub.wrong.api_statuses, hub.wrong.statuses = [status, status], [status, status]
    assert pull("qwen3:0.6b", store, silent, options=options).read_bytes() == hub.repos[REPO].files[FILE]


def test_a_server_that_stays_busy_is_named(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.wrong.api_statuses = [429] * 4
    with pytest.raises(DownloadError, match="answers 429: too many requests; try again later"):
        pull("qwen3:0.6b", store, silent, options=options)
    hub.wrong.statuses = [503] * 20
    with pytest.raises(DownloadError, match="answers 503; tried 3 times; what has come is kept"):
        pull("qwen3:0.6b", store, silent, options=options)


def test_the_token_goes_to_the_hub_and_to_no_other_host(
    hub: HubStub, options: PullOptions, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[REPO].needs_token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull("qwen3:0.6b", store, silent, options=options)
    resolves = [asked for asked in hub.asked if "/resolve/" in asked.path]
    assert {asked.headers.get("authorization") for asked in resolves} == {"Bearer hf_secret"}
    assert hub.bytes_asked()
    assert {asked.headers.get("authorization") for asked in hub.bytes_asked()} == {None}
    assert all(asked.host.startswith("localhost") for asked in hub.bytes_asked())


def test_modelscope_s_token_goes_to_the_hub_and_to_no_other_host(
    hub: HubStub, options: PullOptions, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[REPO].needs_token = "ms-secret"
    with pytest.raises(DownloadError, match="denies access; set MODELSCOPE_API_TOKEN"):
        pull(f"ms:{REPO}", store, silent, options=options)
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-secret")
    pull(f"ms:{REPO}", store, silent, options=options)
    assert hub.bytes_asked()
    assert not any("ms-secret" in str(asked.headers) for asked in hub.bytes_asked())


def test_a_gated_repository_says_what_to_do(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.repos[REPO].needs_token, hub.repos[REPO].is_gated = "hf_secret", True
    with pytest.raises(DownloadError, match=f"403, access denied; accept its terms at {hub.url}/{REPO}, and set HF_TOKEN"):
        pull("qwen3:0.6b", store, silent, options=options)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-9B", "ms:Qwen/Qwen3-9B"])
def test_a_repository_that_does_not_exist_is_named(hub: HubStub, options: PullOptions, store: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match="no such repository") as caught:
        pull(name, store, silent, options=options)
    assert "did you mean" in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_named(options: PullOptions, store: Path, hub: HubStub) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(DownloadError, match=r"cannot be reached .*HF_ENDPOINT.*samovar pull ms:"):
        pull("qwen3:0.6b", store, silent, options=options)
    with pytest.raises(DownloadError, match="cannot be reached; check the network, or set MODELSCOPE_ENDPOINT") as caught:
        pull(f"ms:{REPO}", store, silent, options=options)
    assert str(caught.value).isascii()
    hub.server = type(hub.server)(("127.0.0.1", 0), hub.server.RequestHandlerClass)
    threading.Thread(target=hub.server.serve_forever, daemon=True).start()


def test_a_mirror_that_lists_names_alone_is_asked_for_sizes(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.wrong.lists_names_only = True
    record = read_record(pull("qwen3:0.6b", store, silent, options=options).parent)
    assert record is not None
    assert record.files[0].checked == "sha256"


# -- what a repository must not do


def test_a_repository_of_pickles_is_refused(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.repos["old/model"] = Repo({"config.json": b"{}", "pytorch_model.bin": b"x" * 5000})
    with pytest.raises(UnsupportedModel, match=r"pickle only \(pytorch_model.bin\)"):
        pull("old/model", store, silent, options=options)
    assert not fetched(hub)


@pytest.mark.parametrize("path", ["../../evil.gguf", "/etc/evil.gguf", "a/../../evil.gguf", "a\\..\\evil.gguf", ".evil.gguf"])
def test_a_file_name_that_leads_elsewhere_is_refused(
    hub: HubStub, options: PullOptions, store: Path, tmp_path: Path, path: str
) -> None:
    hub.repos["evil/model"] = Repo({path: gguf_bytes(tmp_path)})
    with pytest.raises(DownloadError, match=r"names a file .*; a plain name"):
        pull("evil/model", store, silent, options=options)
    assert not fetched(hub)


@pytest.mark.parametrize(
    "shard", ["../../../evil.safetensors", "pytorch_model.bin", "sub/model.safetensors", "absent.safetensors"]
)
def test_an_index_that_leads_elsewhere_is_refused(hub: HubStub, options: PullOptions, store: Path, shard: str) -> None:
    files = folder_files() | {"model.safetensors.index.json": json.dumps({"weight_map": {"a": shard}}).encode()}
    hub.repos["evil/model"] = Repo(files)
    with pytest.raises(DownloadError, match=r"names|not there"):
        pull("evil/model", store, silent, options=options)
    assert fetched(hub) == {"model.safetensors.index.json"}


def test_a_link_that_lies_in_wait_is_not_followed(hub: HubStub, options: PullOptions, store: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    work = store / "tmp" / "Qwen--Qwen3-0.6B-GGUF--Qwen3-0.6B-Q8_0" / "files"
    work.mkdir(parents=True)
    (work / f"{FILE}.part").symlink_to(precious)
    assert pull("qwen3:0.6b", store, silent, options=options).read_bytes() == hub.repos[REPO].files[FILE]
    assert precious.read_text() == "mine"


def test_a_web_page_in_place_of_a_model_is_thrown_away(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.plain["/plain/x.gguf"] = b"<html>Please log in to the network"
    with pytest.raises(DownloadError, match=r"no sound model, and was thrown away: .*a web page"):
        pull(f"{hub.url}/plain/x.gguf", store, silent, options=options)
    assert nothing_looks_whole(store)
    assert not list((store / "tmp").rglob("*.gguf"))


# -- the disk


def test_a_disk_that_is_too_small_is_seen_before_anything_large_is_fetched(
    hub: HubStub, options: PullOptions, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = pull_lock.shutil.disk_usage("/")._replace(free=20_000)
    monkeypatch.setattr(pull_lock.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"17 MB are needed .*SAMOVAR_HOME"):
        pull("qwen3:0.6b", store, silent, options=options)
    assert not hub.bytes_asked()


def test_a_disk_that_fills_up_keeps_what_came_and_says_so(hub: HubStub, options: PullOptions, store: Path) -> None:
    """A limit on the size of files stands in for the disk: the system refuses the write in mid-file."""
    before, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"the file is larger than files may be here .*SAMOVAR_HOME"):
            pull("qwen3:0.6b", store, silent, options=options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, action)
    assert nothing_looks_whole(store)
    assert pull("qwen3:0.6b", store, silent, options=options).read_bytes() == hub.repos[REPO].files[FILE]


@pytest.mark.slow
def test_a_really_full_disk_is_named(
    hub: HubStub, options: PullOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        monkeypatch.setattr("samovar.formats.pull_hub.check_space", lambda *_: None)
        with pytest.raises(StoreError, match="no space is left"):
            pull("qwen3:0.6b", disk, silent, options=options)
        assert nothing_looks_whole(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_the_disk_refuses_is_said_in_plain_words(
    hub: HubStub, options: PullOptions, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(StoreError, match="no space is left; free some"):
        pull("qwen3:0.6b", store, silent, options=options)
