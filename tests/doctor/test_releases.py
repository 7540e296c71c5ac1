"""The table of releases, and by which names a file is taken for which of them."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from samovar.doctor.check_layout import expected_tensors
from samovar.doctor.check_release import check_release
from samovar.doctor.finding import Status
from samovar.doctor.known_templates import KNOWN_TEMPLATES
from samovar.doctor.release_names import read_name
from samovar.doctor.releases import RELEASES
from samovar.doctor.subject import _folder_names
from samovar.doctor.token_tables import TOKEN_TABLES
from samovar.errors import BadRequest
from samovar.formats.catalogue import CATALOGUE
from tests.doctor.claimed import folder_model, gguf_model, lines, release, report_on, with_metadata

# in thousand millions, as published or computed from the published sizes
PARAMETERS = {
    "Qwen3-0.6B": 0.596, "Qwen3-1.7B": 1.721, "Qwen3-4B": 4.022, "Qwen3-8B": 8.191, "Qwen3-14B": 14.768, "Qwen3-32B": 32.762,
    "Qwen3-30B-A3B": 30.53, "Qwen3-235B-A22B": 235.09, "Qwen3-Coder-480B-A35B-Instruct": 480.2, "SmolLM2-135M-Instruct": 0.1345,
    "Qwen3-Next-80B-A3B-Instruct": 79.67, "Qwen2.5-Coder-0.5B-Instruct": 0.494, "Qwen2.5-Coder-1.5B-Instruct": 1.544,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_sizes_of_a_release_add_up_to_its_parameters(name):
    figures = release(name).figures
    shapes = expected_tensors(figures, is_gguf=True)
    count = sum(math.prod(shape) for shape in shapes.values())
    if not figures["tie_word_embeddings"]:
        count += figures["vocab_size"] * figures["hidden_size"]
    assert count / 1e9 == pytest.approx(PARAMETERS[name], rel=2e-3)


def test_every_release_points_at_data_that_are_there():
    assert len({r.name for r in RELEASES}) == len(RELEASES)
    for r in RELEASES:
        assert r.tokenizer in TOKEN_TABLES, r.name
        assert r.template is None or r.template in KNOWN_TEMPLATES, r.name
        assert set(r.stop_ids) <= TOKEN_TABLES[r.tokenizer].special, r.name


def test_the_files_of_the_catalogue_are_known_by_their_hashes():
    known = {sha256: size for r in RELEASES for sha256, size in r.files.items()}
    assert known == {entry.sha256: entry.size_bytes for entry in CATALOGUE.values()}


NAMES = {
    "Qwen3-0.6B": "Qwen3-0.6B",
    "Qwen3 0.6B": "Qwen3-0.6B",
    "qwen3:0.6b": "Qwen3-0.6B",
    "Qwen 3 8B": "Qwen3-8B",
    "Qwen/Qwen3-8B-FP8": "Qwen3-8B",
    "Qwen3-8B-00001-of-00004.gguf": "Qwen3-8B",
    "Qwen3-30B-A3B-Instruct-2507-UD-Q4_K_XL.gguf": "Qwen3-30B-A3B-Instruct-2507",
    "Qwen3-30B-A3B-GPTQ-Int4": "Qwen3-30B-A3B",
    "Qwen3-0.6B-Base": "Qwen3-0.6B-Base",
    "Qwen3-Embedding-0.6B-Q8_0.gguf": "Qwen3-Embedding-0.6B",
    "qwen3_reranker_4b": "Qwen3-Reranker-4B",
    "Qwen3-Coder-480B-A35B-Instruct": "Qwen3-Coder-480B-A35B-Instruct",
    "Qwen3-Next-80B-A3B-Thinking": "Qwen3-Next-80B-A3B-Thinking",
    "Qwen2.5 Coder 0.5B Instruct AWQ": "Qwen2.5-Coder-0.5B-Instruct",
    "Smollm2 135M 8k Lc100K Mix1 Ep2": "SmolLM2-135M-Instruct",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_and_hubs_are_recognised_whole(name):
    found = read_name("a name", name, RELEASES)
    assert (found.release.name, found.others) == (NAMES[name], ())


@pytest.mark.parametrize(
    ("name", "others"), [("DeepSeek-R1-0528-Qwen3-8B", ("deepseek", "r1", "0528")), ("qwen3-4b-abliterated", ("abliterated",))]
)
def test_the_words_of_a_fine_tune_are_kept(name, others):
    assert read_name("a name", name, RELEASES).others == others


@pytest.mark.parametrize("name", ["Qwen3-5B", "Llama-3.2-1B", "model.gguf", "qwen", "", "Qwen3.5-4B", "Qwen2-0.5B", "30.6B"])
def test_other_names_are_no_release(name):
    assert read_name("a name", name, RELEASES) is None


def test_a_fine_tune_is_checked_as_its_base_with_a_warning():
    made = with_metadata(gguf_model("Qwen3-0.6B"), general__name="Qwen3 0.6B Pirate")
    claim = check_release(renamed(made, "Qwen3 0.6B Pirate"), RELEASES)
    assert claim.release.name == "Qwen3-0.6B"
    assert [f.status for f in claim.findings] == [Status.PASS, Status.UNKNOWN]
    assert "pirate" in claim.findings[1].found


def renamed(made, *names):
    return replace(made, names=tuple((f"name {i}", name) for i, name in enumerate(names)))


def test_names_that_contradict_each_other_are_caught():
    report = report_on(renamed(gguf_model("Qwen3-4B-Instruct-2507"), "Qwen3-4B-Instruct-2507", "Qwen3-Embedding-4B-Q8_0"))
    assert "release: names agree" in lines(report, Status.FAIL)


def test_a_shorter_name_is_no_contradiction():
    report = report_on(renamed(gguf_model("Qwen3-4B-Instruct-2507"), "Qwen3-4B", "Qwen3-4B-Instruct-2507-Q8_0"))
    assert report.release.name == "Qwen3-4B-Instruct-2507"
    assert lines(report, Status.FAIL) == set()


def test_a_name_that_the_sizes_contradict_is_caught_and_the_truth_named():
    report = report_on(renamed(gguf_model("Qwen3-1.7B"), "Qwen3-8B"))
    claim = next(f for f in report.findings if f.what == "claim")
    assert claim.status is Status.FAIL
    assert "Qwen3-1.7B" in claim.found
    assert {"config: layers", "config: width"} <= lines(report, Status.FAIL)


def test_a_nameless_file_is_checked_as_what_its_figures_fit():
    report = report_on(renamed(gguf_model("Qwen3-4B-Instruct-2507"), "model-Q8_0"))
    assert report.release.name == "Qwen3-4B-Instruct-2507"
    assert lines(report, Status.FAIL) == set()
    assert lines(report, Status.UNKNOWN) == {"release: claim"}


def test_a_model_of_another_family_cannot_be_judged():
    made = with_metadata(renamed(gguf_model("Qwen3-0.6B"), "Llama"), qwen3__block_count=5)
    report = report_on(made)
    assert report.release is None
    assert lines(report, Status.FAIL) == set()
    assert "release: claim" in lines(report, Status.UNKNOWN)


def test_the_release_can_be_named_by_the_user():
    assert report_on(renamed(gguf_model("Qwen3-0.6B"), "x"), asked="qwen3-0.6b").release.name == "Qwen3-0.6B"
    with pytest.raises(BadRequest, match="the nearest are"):
        report_on(gguf_model("Qwen3-0.6B"), asked="qwen4")


def test_a_folder_in_a_hubs_cache_bears_the_name_of_its_repository(tmp_path):
    folder = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "c1899de289a04d12100db370d81485cdf75e47ca"
    folder.mkdir(parents=True)
    assert _folder_names(folder, {}) == (("the folder's name", "Qwen/Qwen3-0.6B"),)
    assert _folder_names(Path("Qwen3-8B"), {"_name_or_path": "Qwen/Qwen3-8B"})[0] == ("_name_or_path", "Qwen/Qwen3-8B")


@pytest.mark.slow
def test_what_is_not_known_for_certain_settles_nothing():
    made = folder_model("Qwen3-0.6B")
    base = renamed(made, "Qwen3-0.6B-Base")
    report = report_on(replace(base, config={**base.config, "max_position_embeddings": 32_768}))
    assert lines(report, Status.FAIL) == set()
    assert lines(report, Status.UNKNOWN) == {"tokens: stop ids", "template: rendering"}
