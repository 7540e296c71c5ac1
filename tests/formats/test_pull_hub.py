"""Pulling from hubs, through their real client libraries, from a stub on loopback: what comes, and what it is called."""

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest

from samovar.errors import DownloadError, ModelNotFound
from samovar.formats.hub import pull, resolve
from samovar.formats.pull_hub import PullOptions
from samovar.formats.pull_record import read_record
from tests.formats.hub_models import FILE, QUICK, REPO, SEGMENT, folder_files, gguf_bytes, silent
from tests.formats.hub_stub import COMMIT, HubStub, Repo


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
    with pytest.raises(ModelNotFound, match=r"qwen3:0.6b is not on this machine, and --offline forbids"):
        pull("qwen3:0.6b", store, silent, options=replace(options, is_offline=True))
    assert not hub.asked


def test_the_library_s_own_offline_mode_is_named(
    hub: HubStub, options: PullOptions, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE .* forbids"):
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


def test_a_repository_goes_by_the_case_that_the_hub_gives_it(hub: HubStub, options: PullOptions, store: Path) -> None:
    path = pull(REPO.lower(), store, silent, options=options)
    assert path.parent.name.startswith("Qwen--Qwen3-0.6B-GGUF--")
    assert resolve("qwen3:0.6b", store) == resolve(REPO, store) == resolve(REPO.lower(), store) == path
