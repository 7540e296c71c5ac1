"""Whatever a quantisation config or a part of a weight holds: it is read, or refused with an error that says so."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.mapped_file import MappedFile
from samovar.formats.quantized import read_quantised
from samovar.formats.safetensors import tensors_of
from tests.formats.quantised_parts import METHODS, Method

pytestmark = pytest.mark.slow
X = "model.layers.0.mlp.up_proj"
NAMES = ["awq-g32", "gptq-4-ordered", "gptq-3", "fp8-small-blocks", "fp8-tensor", "packed-4-group-asym", "int-8-channel"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SLOWLY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def parts_of(method: Method) -> dict[str, torch.Tensor]:
    w = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    return {f"{X}.{suffix}": t.contiguous() for suffix, t in method.quantise(w).tensors.items()}


def read(folder: Path, config: dict[str, object], parts: dict[str, torch.Tensor]) -> None:
    """Read and make all; only our own errors may be raised."""
    path = folder / "model.safetensors"
    save_file(parts, path)
    try:
        tensors, _ = read_quantised(config, tensors_of(MappedFile(path), with_parts=True), "here")
        for tensor in tensors.values():
            stored = tensor.stored()
            assert stored.data.size == stored.size_bytes
    except (FormatError, UnsupportedModel):
        return


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@SLOWLY
def test_any_value_of_any_key_is_read_or_refused(name: str, data: st.DataObject, tmp_path: Path) -> None:
    config = json.loads(json.dumps(METHODS[name].config))
    places = [config]
    if "config_groups" in config:
        places += [config["config_groups"], config["config_groups"]["group_0"], config["config_groups"]["group_0"]["weights"]]
    place = data.draw(st.sampled_from(range(len(places))))
    key = data.draw(st.sampled_from(sorted(places[place])) | st.text(max_size=6))
    places[place][key] = data.draw(JSON)
    read(tmp_path, config, parts_of(METHODS[name]))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@SLOWLY
def test_any_shape_type_and_content_of_a_part_is_read_or_refused(name: str, data: st.DataObject, tmp_path: Path) -> None:
    parts = parts_of(METHODS[name])
    key = data.draw(st.sampled_from(sorted(parts)))
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 16, 32, 64, 128]), min_size=1, max_size=3))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.int8]))
    shape = data.draw(st.sampled_from([list(parts[key].shape), shape]))
    raw = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, int(np.prod(shape)) * 8, dtype=np.uint8)
    size = int(np.prod(shape)) * torch.tensor([], dtype=dtype).element_size()
    parts[key] = torch.from_numpy(raw[:size].copy()).view(dtype).reshape(shape)
    read(tmp_path, METHODS[name].config, parts)
