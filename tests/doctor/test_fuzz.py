"""Whatever a file holds, the doctor ends with a report."""

import json
import random
from dataclasses import replace

import pytest

from samovar.doctor.examine import examine, examine_subject
from samovar.doctor.subject import look_at
from tests.doctor.claimed import folder_model, gguf_model, no_model, opened_once
from tests.models.tiny_checkpoints import VARIANTS, random_model, write_folder
from tests.models.tiny_gguf import write_gguf

STRANGE = (
    None, True, False, 0, -1, 1, 3.5, float("nan"), float("inf"), 10**30, "", "x", "\x1b[2J", "9" * 1000, [], [1], ["a"], {},
    {"a": 1}, [[]], 2**63,
)  # fmt: skip
RNG = random.Random(3)


def check(subject):
    found = examine_subject(subject, open_model=no_model, open_tokenizer=opened_once)
    assert all(f.found for f in found.findings)
    return found


@pytest.mark.slow
def test_strange_values_in_any_key_of_gguf_metadata_end_in_a_report():
    made = replace(gguf_model("Qwen3-30B-A3B"), template=None)
    for key in made.metadata:
        if not key.startswith("tokenizer.ggml.") or key.endswith(("_id", "pre", "add_bos_token")):
            for value in RNG.sample(STRANGE, 6):
                check(replace(made, metadata={**made.metadata, key: value}))


@pytest.mark.slow
def test_strange_values_in_any_key_of_a_config_end_in_a_report():
    made = replace(folder_model("Qwen3-0.6B"), template=None)
    for key in [*made.config, "rope_scaling", "rope_parameters", "sliding_window", "dtype", "_name_or_path"]:
        for value in RNG.sample(STRANGE, 6):
            check(replace(made, config={**made.config, key: value}))
    for value in STRANGE:
        check(replace(made, generation_config={"eos_token_id": value, "temperature": value}))


def test_a_config_that_asks_for_millions_of_layers_costs_nothing():
    made = folder_model("Qwen3-0.6B")
    check(replace(made, config={**made.config, "num_hidden_layers": 10_000_000}))


def test_flipped_bytes_of_a_file_end_in_a_report(tmp_path):
    source = write_gguf(random_model(VARIANTS["qwen3-untied"]), tmp_path / "tiny.gguf", "Q8_0").read_bytes()
    path = tmp_path / "Qwen3-0.6B-Q8_0.gguf"
    rng = random.Random(11)
    for _ in range(25):
        content = bytearray(source)
        for _ in range(rng.choice((1, 3, 20))):
            content[rng.randrange(min(len(content), 20_000))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice((len(content), rng.randrange(1, len(content))))])
        assert examine(path, open_model=no_model).findings


@pytest.mark.slow
def test_folders_with_strange_files_end_in_a_report(tmp_path):
    folder = write_folder(random_model(VARIANTS["qwen3-untied"]), tmp_path / "Qwen3-0.6B")
    contents = (b"", b"{", b"[]", b"null", b"\xff", json.dumps({"a": [1] * 50}).encode(), b"[" * 100_000)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"):
        whole = (folder / name).read_bytes() if (folder / name).exists() else None
        for content in contents:
            (folder / name).write_bytes(content)
            assert look_at(folder).path == folder
            assert examine(folder, open_model=no_model).findings
        (folder / name).unlink()
        assert examine(folder, open_model=no_model).findings
        if whole is not None:
            (folder / name).write_bytes(whole)
