"""Every storage type of GGUF and every scheme of quantised folders loads, in one list, and computes what its weights say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.gguf import read_gguf
from samovar.formats.gguf_writer import TensorPlan, write_gguf
from samovar.kernels.native import native_missing_reason
from samovar.llm import LLM
from samovar.llm.random_model import Shape
from samovar.tensors.dtypes import TENSOR_TYPES, TYPE_BY_NAME
from tests.cli.fakes import samovar
from tests.formats.quantised_parts import METHODS
from tests.matrices import slow_but
from tests.models.test_quantised_folders import quantised_folder
from tests.models.typed_gguf import EXPERTS, SHAPE, write_twin, write_typed

GGUF_TYPES = tuple(t.name for t in TENSOR_TYPES)
# As issue and specification name them; a type or scheme that is dropped must not leave the list in silence.
NAMED = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
    *("MXFP4", "NVFP4", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0"),
    *(
        "awq-g32",
        "awq-g128",
        "gptq-4",
        "gptq-4-ordered",
        "gptq-8",
        "fp8-blocks",
        "fp8-channel",
        "packed-4-group",
        "int-8-channel",
    ),
)
IDS = [int(i) for i in np.random.default_rng(5).integers(0, 500, 24)]
native = pytest.mark.skipif(native_missing_reason() is not None, reason="the native kernels are not built")
# Of the root mean square of the logits: what inputs that are rounded to 8 bits in every layer may cost.
TOLERANCE = 0.03


def test_every_type_and_scheme_that_is_asked_for_is_in_the_list() -> None:
    assert set(NAMED) <= {*GGUF_TYPES, *METHODS}


@pytest.mark.parametrize("name", slow_but(GGUF_TYPES, [*GGUF_TYPES, *METHODS]))
def test_it_loads_and_answers(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf" if name in GGUF_TYPES else tmp_path / "folder"
    if name in GGUF_TYPES:
        write_typed(path, SHAPE, TYPE_BY_NAME[name])
    else:  # whose logits tests.models.test_quantised_folders holds against `transformers`
        path.mkdir()
        quantised_folder(path, METHODS[name])
    llm = LLM(path, cache=False)
    assert np.isfinite(llm.logits([3, 5, 7, 9])).all()
    assert len(llm.generate("ab", max_tokens=3, temperature=0, ignore_eos=True).token_ids) == 3


def relative_error(ours_TV: np.ndarray, theirs_TV: np.ndarray) -> float:
    assert ours_TV.shape == theirs_TV.shape
    difference = ours_TV.astype(np.float64) - theirs_TV
    return float(np.sqrt((difference**2).mean() / (theirs_TV.astype(np.float64) ** 2).mean()))


@native
@pytest.mark.slow
@pytest.mark.parametrize("shape", [SHAPE, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("name", GGUF_TYPES)
def test_logits_are_those_of_the_same_weights_in_float32(name: str, shape: Shape, tmp_path: Path) -> None:
    path, twin = tmp_path / "model.gguf", tmp_path / "twin.gguf"
    write_typed(path, shape, TYPE_BY_NAME[name])
    write_twin(path, twin)
    wanted = LLM(twin, cache=False, kv_type="f32").logits(IDS)
    assert relative_error(LLM(path, cache=False, kv_type="f32").logits(IDS), wanted) <= TOLERANCE
    assert relative_error(LLM(path, cache=False, kv_type="f32", isa="numpy").logits(IDS[:6]), wanted[:6]) <= 1e-5


@native
@pytest.mark.parametrize("name", ["IQ1_M", "IQ2_XS", "IQ3_S", "TQ1_0", "Q1_0"])
def test_a_prompt_in_one_go_and_cut_short_has_the_same_logits(name: str, tmp_path: Path) -> None:
    write_typed(tmp_path / "model.gguf", SHAPE, TYPE_BY_NAME[name])
    llm = LLM(tmp_path / "model.gguf", cache=False, n_threads=2)
    whole = llm.logits(IDS)
    for n in (1, 2, 17):
        assert np.array_equal(llm.logits(IDS[:n]), whole[:n])


@pytest.mark.parametrize("name", GGUF_TYPES)
def test_inspect_names_the_type(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_typed(path, replace(SHAPE, n_layers=1), TYPE_BY_NAME[name])
    lines = samovar("inspect", str(path)).out.splitlines()
    (row,) = [line.split() for line in lines if line.startswith(f"{name} ")]
    assert row[-1] == f"{TYPE_BY_NAME[name].bits_per_weight:.2f}"


@pytest.mark.parametrize("name", ["IQ2_XS", "TQ1_0", "Q1_0"])
def test_rows_that_hold_no_whole_blocks_and_files_cut_short_are_refused(name: str, tmp_path: Path) -> None:
    type_, path = TYPE_BY_NAME[name], tmp_path / "model.gguf"
    data = np.zeros(type_.block_bytes, np.uint8)
    plan = TensorPlan(name="w", type=type_, shape=(1, type_.block_elements), fill=lambda: [data])
    write_gguf(path, {"general.architecture": "qwen3"}, [plan])
    whole = path.read_bytes()
    assert read_gguf(path).tensors["w"].type is type_
    path.write_bytes(whole[:-32])
    with pytest.raises(FormatError, match=r"model\.gguf: the file is cut short: tensor 'w'"):
        read_gguf(path)
    at = whole.index(b"w\2\0\0\0") + 5
    path.write_bytes(whole[:at] + (type_.block_elements - 1).to_bytes(8, "little") + whole[at + 8 :])
    with pytest.raises(FormatError, match=f"model.gguf.*'w'.*{type_.block_elements}"):
        read_gguf(path)


@pytest.mark.parametrize(("ggml_id", "name"), [(9, "Q8_1"), (15, "Q8_K"), (28, "F64"), (31, "Q4_0_4_4"), (43, "unknown")])
def test_types_that_are_no_weights_are_refused_by_name(ggml_id: int, name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    type_ = replace(TYPE_BY_NAME["F32"], ggml_id=ggml_id)
    plan = TensorPlan(name="w", type=type_, shape=(1, 8), fill=lambda: [np.zeros(32, np.uint8)])
    write_gguf(path, {"general.architecture": "qwen3"}, [plan])
    with pytest.raises(UnsupportedModel, match=rf"type {ggml_id} \({name}\), which is not read; readable: .*IQ2_XS"):
        read_gguf(path)


@native
def test_a_scale_that_is_no_number_is_refused_when_the_model_is_used(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_typed(path, SHAPE, TYPE_BY_NAME["IQ2_XS"])
    tensor = read_gguf(path).tensors["blk.1.ffn_up.weight"]
    raw, block = bytearray(path.read_bytes()), tensor.data.tobytes()[74 * 3 :]
    at = raw.index(block[:74])
    raw[at : at + 2] = b"\x00\x7c"  # an infinity
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=r"model\.gguf: tensor 'blk.1.ffn_up.weight' \(IQ2_XS\) has a scale that is infinite"):
        LLM(path, cache=False).logits([1])
