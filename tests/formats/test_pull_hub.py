"""Pulling from hubs: through the real client libraries, from a stub on loopback that cuts, lies and refuses."""

import errno
import functools
import hashlib
import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest

from samovar.errors import DownloadError, ModelNotFound, StoreError, UnsupportedModel
from samovar.formats import hub_huggingface, hub_modelscope, pull_lock
from samovar.formats.gguf_writer import TensorPlan, write_gguf
from samovar.formats.hub import pull, resolve
from samovar.formats.pull_hub import Plan, PullOptions
from samovar.formats.pull_record import read_record
from samovar.formats.transfer import TransferSettings
from samovar.tensors.dtypes import TENSOR_TYPES
from tests.formats.hub_stub import COMMIT, HubStub, Repo, git_sha1, hub_stub

SEGMENT = 10_000
QUICK = TransferSettings(n_streams=3, segment_bytes=SEGMENT, n_tries=3, first_wait_s=0.001)
REPO = "Qwen/Qwen3-0.6B-GGUF"
FILE = "Qwen3-0.6B-Q8_0.gguf"
F32 = next(kind for kind in TENSOR_TYPES if kind.name == "F32")


def gguf_bytes(folder: Path, n_values: int = 16_000, **metadata: str) -> bytes:
    """A GGUF file with one tensor of random values."""
    values = np.random.default_rng(n_values).standard_normal(n_values).astype(np.float32)
    plan = TensorPlan(name="token_embd.weight", type=F32, shape=(n_values,), fill=lambda: values.view(np.uint8))
    write_gguf(folder / "made.gguf", {"general.architecture": "qwen3", **metadata}, [plan])
    return (folder / "made.gguf").read_bytes()


def safetensors_bytes(name: str, n_values: int) -> bytes:
    data = np.arange(n_values, dtype=np.float32).tobytes()
    header = json.dumps({name: {"dtype": "F32", "shape": [n_values], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


def folder_files() -> dict[str, bytes]:
    """A repository as Qwen's are: two shards, what belongs to them, and what must not be fetched."""
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    return {
        "README.md": b"x" * 3000,
        "LICENSE": b"Apache",
        "config.json": b'{"model_type": "qwen3", "auto_map": {"AutoModel": "modeling.Evil"}}',
        "generation_config.json": b"{}",
        "tokenizer.json": b"{}" + b" " * 5000,
        "tokenizer_config.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        "model-00001-of-00002.safetensors": safetensors_bytes("a", 9_000),
        "model-00002-of-00002.safetensors": safetensors_bytes("b", 4_000),
        "pytorch_model.bin": b"pickle" * 1000,
        "modeling.py": b"import os",
        "original/consolidated.safetensors": b"?" * 5000,
        "onnx/model.onnx": b"?" * 5000,
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    """The stub with one GGUF repository; the client library is let out of the offline mode that tests run in."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope"))
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    with hub_stub() as stub:
        stub.repos[REPO] = Repo({FILE: gguf_bytes(tmp_path), "README.md": b"# Qwen3", "LICENSE": b"Apache"})
        yield stub


@pytest.fixture
def options(hub: HubStub) -> PullOptions:
    waits: list[float] = []
    return PullOptions(
        transfer=QUICK,
        listers={
            "huggingface": functools.partial(hub_huggingface.list_repo, endpoint=hub.url, sleep=waits.append),
            "modelscope": functools.partial(hub_modelscope.list_repo, endpoint=hub.url),
        },
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def silent(done_bytes: int, total_bytes: int, what: str) -> None:
    """Reports nothing."""


def fetched(hub: HubStub) -> set[str]:
    """Names of the files that were asked for with GET."""
    return {a.path.rpartition("/")[2] for a in hub.asked if a.method == "GET" and "/resolve/" in a.path}


def nothing_looks_whole(store: Path) -> bool:
    return not list((store / "models").rglob("*")) if (store / "models").exists() else True


# -- what is fetched, and under which names it is found


def test_a_family_name_leads_to_the_official_repository_and_its_file(hub: HubStub, options: PullOptions, store: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = pull("qwen3:0.6b", store, lambda done, total, what: seen.append((done, total)), options=options)
    assert path.name == FILE
    assert path.read_bytes() == hub.repos[REPO].files[FILE]
    for name in ("qwen3:0.6b", "Qwen3:0.6B-Q8_0", REPO, f"hf:{REPO}", f"{REPO}:q8_0", f"https://huggingface.co/{REPO}"):
        assert resolve(name, store) == path
    assert seen[-1] == (path.stat().st_size,) * 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not [p for p in (store / "tmp").rglob("*") if p.suffix != ".lock"]


def test_the_record_holds_source_revision_hashes_licence_and_date(hub: HubStub, options: PullOptions, store: Path) -> None:
    record = read_record(pull("qwen3:0.6b", store, silent, options=options).parent)
    assert record is not None
    data = hub.repos[REPO].files[FILE]
    assert (record.source, record.origin, record.revision) == ("huggingface", f"{hub.url}/{REPO}", COMMIT)
    assert record.licence == "apache-2.0"
    assert record.pulled_at.startswith("20")
    assert [(f.path, f.size_bytes, f.sha256, f.checked) for f in record.files] == [
        (FILE, len(data), hashlib.sha256(data).hexdigest(), "sha256")
    ]


@pytest.mark.parametrize("prefix", ["", "ms:"])
def test_a_folder_comes_with_all_it_needs_and_nothing_else(
    hub: HubStub, options: PullOptions, store: Path, prefix: str
) -> None:
    files = hub.repos["Qwen/Qwen3-0.6B"] = Repo(folder_files())
    path = pull(f"{prefix}Qwen/Qwen3-0.6B", store, silent, options=options)
    unwanted = {
        "README.md",
        "LICENSE",
        "pytorch_model.bin",
        "modeling.py",
        "original/consolidated.safetensors",
        "onnx/model.onnx",
    }
    expected = {name: data for name, data in files.files.items() if name not in unwanted}
    found = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    assert found.pop("samovar.json")
    assert found == expected
    assert resolve("qwen3:0.6b-bf16", store) == path
    record = read_record(path)
    assert record is not None
    by_name = {f.path: f.checked for f in record.files}
    assert by_name["model-00001-of-00002.safetensors"] == "sha256"
    assert by_name["config.json"] == ("sha256" if prefix else "git-sha1")


def test_a_model_that_is_there_needs_no_network(hub: HubStub, options: PullOptions, store: Path) -> None:
    path = pull("qwen3:0.6b", store, silent, options=options)
    hub.asked.clear()
    assert pull("qwen3:0.6b", store, silent, options=replace(options, is_offline=True)) == path
    assert not hub.asked


def test_a_second_name_of_a_model_that_is_there_fetches_no_bytes(hub: HubStub, options: PullOptions, store: Path) -> None:
    path = pull(f"{REPO}:{FILE}", store, silent, options=options)
    hub.asked.clear()
    assert pull(f"hf:{REPO}", store, silent, options=options) == path
    assert not hub.bytes_asked()
    assert resolve(REPO, store) == path


def test_an_update_asks_the_hub_and_fetches_what_has_changed(
    hub: HubStub, options: PullOptions, store: Path, tmp_path: Path
) -> None:
    path = pull("qwen3:0.6b", store, silent, options=options)
    hub.repos[REPO].files[FILE] = gguf_bytes(tmp_path, 12_000)
    assert pull("qwen3:0.6b", store, silent, options=options).stat().st_size > 60_000
    assert pull("qwen3:0.6b", store, silent, options=replace(options, is_update=True)) == path
    assert path.read_bytes() == hub.repos[REPO].files[FILE]


def test_a_damaged_model_is_pulled_again(hub: HubStub, options: PullOptions, store: Path) -> None:
    path = pull("qwen3:0.6b", store, silent, options=options)
    path.write_bytes(b"short")
    assert pull("qwen3:0.6b", store, silent, options=options).read_bytes() == hub.repos[REPO].files[FILE]


def test_offline_names_the_model_that_is_not_there(hub: HubStub, options: PullOptions, store: Path) -> None:
    with pytest.raises(ModelNotFound, match="qwen3:0.6b is not on this machine, and --offline forbids"):
        pull("qwen3:0.6b", store, silent, options=replace(options, is_offline=True))
    assert not hub.asked


def test_the_library_s_own_offline_mode_is_named(
    hub: HubStub, options: PullOptions, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE forbids"):
        pull("qwen3:0.6b", store, silent, options=options)


def test_a_quantisation_that_is_absent_is_answered_with_those_there(
    hub: HubStub, options: PullOptions, store: Path, tmp_path: Path
) -> None:
    data = gguf_bytes(tmp_path, 100)
    hub.repos["Qwen/Qwen3-4B-GGUF"] = Repo({f"Qwen3-4B-{kind}.gguf": data for kind in ("Q4_K_M", "Q6_K")})
    with pytest.raises(ModelNotFound, match=r"holds no Q8_0; it holds: .*GGUF:Q4_K_M, Qwen/Qwen3-4B-GGUF:Q6_K"):
        pull("qwen3:4b-q8_0", store, silent, options=options)
    assert pull("Qwen/Qwen3-4B-GGUF", store, silent, options=options).name == "Qwen3-4B-Q4_K_M.gguf"
    assert pull("qwen3:4b-q6_k", store, silent, options=options).name == "Qwen3-4B-Q6_K.gguf"


def test_all_parts_of_a_split_model_come(hub: HubStub, options: PullOptions, store: Path, tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "s.gguf", "qwen3", split_max_tensors=1)
    for name in ("token_embd.weight", "output.weight"):
        writer.add_tensor(name, np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = {f"Q4_K_M/{p.name.replace('s-', 'Qwen3-235B-A22B-Q4_K_M-', 1)}": p.read_bytes() for p in tmp_path.glob("s-*.gguf")}
    assert len(parts) == 2
    hub.repos["Qwen/Qwen3-235B-A22B-GGUF"] = Repo(parts)
    path = pull("qwen3:235b", store, silent, options=options)
    assert sorted(p.name for p in path.glob("*.gguf")) == sorted(name.rpartition("/")[2] for name in parts)
    del hub.repos["Qwen/Qwen3-235B-A22B-GGUF"].files[next(iter(parts))]
    with pytest.raises(ModelNotFound, match="holds no model"):
        pull("Qwen/Qwen3-235B-A22B-GGUF", store, silent, options=replace(options, is_update=True))


def test_a_revision_is_pinned_and_lies_beside_the_default_one(hub: HubStub, options: PullOptions, store: Path) -> None:
    pinned = pull(f"{REPO}@v1", store, silent, options=options)
    default = pull(REPO, store, silent, options=options)
    assert pinned != default
    assert resolve(f"{REPO}@v1", store) == pinned
    assert f"/{REPO}/resolve/{COMMIT}/{FILE}" in {asked.path for asked in hub.asked}
    with pytest.raises(ModelNotFound, match="no revision 'v9'"):
        pull(f"{REPO}@v9", store, silent, options=options)


def test_modelscope_has_the_twin_of_each_name(hub: HubStub, options: PullOptions, store: Path) -> None:
    path = pull("qwen3:0.6b", store, silent, options=replace(options, hub="modelscope"))
    assert path.read_bytes() == hub.repos[REPO].files[FILE]
    record = read_record(path.parent)
    assert record is not None
    assert (record.source, record.licence, record.files[0].checked) == ("modelscope", "apache-2.0", "sha256")
    assert resolve(f"ms:{REPO}", store) == path
    assert any(asked.path == f"/api/v1/models/{REPO}/repo" for asked in hub.asked)


# -- what goes wrong on the way


def test_cut_connections_are_taken_up_where_they_ended(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.wrong.cuts = [100, 3_000, 5, 700, 9_999, 1]
    path = pull("qwen3:0.6b", store, silent, options=options)
    assert path.read_bytes() == hub.repos[REPO].files[FILE]
    starts = [asked.headers["range"] for asked in hub.bytes_asked()]
    assert any(not int(r.removeprefix("bytes=").partition("-")[0]) % SEGMENT == 0 for r in starts)


def test_a_pull_that_broke_off_goes_on_with_what_is_missing(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.wrong.statuses = [206_000, *[503] * 50][1:]
    hub.wrong.cuts = [SEGMENT // 2]
    hub.wrong.statuses = []
    seen = 0

    def interrupt(done: int, total: int, what: str) -> None:
        nonlocal seen
        seen = done
        if done >= SEGMENT // 2:
            hub.wrong.statuses = [503] * 100
            raise KeyboardInterrupt

    hub.wrong.cuts = [SEGMENT // 2] * 3
    hub.wrong.statuses = []
    with pytest.raises(KeyboardInterrupt):
        pull("qwen3:0.6b", store, interrupt, options=replace(options, transfer=replace(QUICK, n_streams=1, first_wait_s=0.2)))
    assert nothing_looks_whole(store)
    hub.wrong.statuses, hub.wrong.cuts = [], []
    hub.asked.clear()
    path = pull("qwen3:0.6b", store, silent, options=options)
    assert path.read_bytes() == hub.repos[REPO].files[FILE]
    starts = sorted(int(a.headers["range"].removeprefix("bytes=").partition("-")[0]) for a in hub.bytes_asked())
    assert starts[0] >= SEGMENT // 2


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
    with pytest.raises(DownloadError, match="cannot be reached .*HF_ENDPOINT.*samovar pull ms:"):
        pull("qwen3:0.6b", store, silent, options=options)
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
    with pytest.raises(DownloadError, match="names a file .*; a plain name"):
        pull("evil/model", store, silent, options=options)
    assert not fetched(hub)


@pytest.mark.parametrize(
    "shard", ["../../../evil.safetensors", "pytorch_model.bin", "sub/model.safetensors", "absent.safetensors"]
)
def test_an_index_that_leads_elsewhere_is_refused(hub: HubStub, options: PullOptions, store: Path, shard: str) -> None:
    files = folder_files() | {"model.safetensors.index.json": json.dumps({"weight_map": {"a": shard}}).encode()}
    hub.repos["evil/model"] = Repo(files)
    with pytest.raises(DownloadError, match="names|not there"):
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
    with pytest.raises(DownloadError, match="no sound model, and was thrown away: .*a web page"):
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


# -- two at once


def test_a_second_pull_waits_for_the_first_and_fetches_nothing(hub: HubStub, options: PullOptions, store: Path) -> None:
    hub.wrong.gate, waiting = threading.Event(), threading.Event()
    first = threading.Thread(target=pull, args=("qwen3:0.6b", store, silent), kwargs={"options": options})
    second = threading.Thread(
        target=pull,
        args=(f"{REPO}:Q8_0", store, lambda done, total, what: waiting.set() if what.startswith("waiting") else None),
        kwargs={"options": options},
    )
    first.start()
    while not hub.bytes_asked():
        waiting.wait(0.01)
    second.start()
    assert waiting.wait(10)
    n_asked = len(hub.bytes_asked())
    assert n_asked <= QUICK.n_streams
    hub.wrong.gate.set()
    first.join(20)
    second.join(20)
    assert resolve("qwen3:0.6b", store).read_bytes() == hub.repos[REPO].files[FILE]
    assert len(hub.bytes_asked()) == -(-len(hub.repos[REPO].files[FILE]) // SEGMENT)


# -- addresses


def test_an_address_is_pulled_in_parallel_and_found_by_its_name(
    hub: HubStub, options: PullOptions, store: Path, tmp_path: Path
) -> None:
    hub.plain["/plain/My Model-q4.gguf"] = data = gguf_bytes(tmp_path, **{"general.license": "mit"})
    url = f"{hub.url}/plain/My%20Model-q4.gguf"
    plans: list[Plan] = []
    path = pull(f"{url}?signature=abc", store, silent, options=replace(options, on_plan=plans.append))
    assert path.read_bytes() == data
    assert len(hub.bytes_asked()) == 1 + -(-len(data) // SEGMENT)
    assert plans[0].size_bytes == len(data)
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
