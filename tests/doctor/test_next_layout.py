"""The tensors that a file of Qwen3-Next has to hold, in either format, are those of checkpoints that `transformers` writes."""

from dataclasses import replace
from pathlib import Path

import pytest

from samovar.doctor.check_layout import check_layout
from samovar.doctor.finding import Status
from samovar.doctor.subject import Listed, look_at
from tests.doctor.claimed import release
from tests.models.tiny_checkpoints import VARIANTS, random_model, write_folder
from tests.models.tiny_gguf import write_gguf


@pytest.mark.parametrize("is_gguf", [True, False])
def test_a_sound_file_has_all_tensors_and_each_that_is_missing_or_strange_is_named(is_gguf: bool, tmp_path: Path) -> None:
    model, claimed = random_model(VARIANTS["qwen3-next"]), release("Qwen3-Next-80B-A3B-Instruct")
    subject = look_at(write_gguf(model, tmp_path / "m.gguf", "F16") if is_gguf else write_folder(model, tmp_path / "m"))
    (tensors,) = (line for line in check_layout(subject, claimed) if line.what == "tensors")
    assert tensors.status is Status.PASS
    predicting = {"mtp.fc.weight": Listed(shape=(4, 8), type="F16", bits=16.0)}
    taps = "blk.0.ssm_conv1d.weight" if is_gguf else "model.layers.0.linear_attn.conv1d.weight"
    for listed, status, named in (
        (dict(subject.listed) | predicting, Status.PASS, ""),
        ({name: entry for name, entry in subject.listed.items() if name != taps}, Status.FAIL, "conv1d"),
        (dict(subject.listed) | {taps: replace(subject.listed[taps], shape=(160, 5))}, Status.FAIL, "conv1d"),
    ):
        (line,) = (x for x in check_layout(replace(subject, listed=listed), claimed) if x.what == "tensors")
        assert line.status is status
        assert named in "".join(line.detail)
