"""Adapter folders: what is read of them, and what is refused, by file, key or tensor, found and expected."""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samovar.errors import FormatError, ModelNotFound, SamovarError, StoreError, UnsupportedModel
from samovar.formats.peft_adapter import read_peft_adapter
from samovar.kernels.dequantise import dequantise
from tests.formats.adapter_folders import CONFIG, LAYERS, layers_ending, tensor_name, weights_for, write_adapter

Q0 = "model.layers.0.self_attn.q_proj"


def ranks_and_scales(folder):
    return {name: (pair.a.shape[0], pair.scale) for name, pair in read_peft_adapter(folder, LAYERS).items()}


def refuse(folder, error, *named):
    with pytest.raises(SamovarError) as caught:
        read_peft_adapter(folder, LAYERS)
    assert type(caught.value) is error
    for text in (str(folder), *named):
        assert re.search(text, str(caught.value)), f"{text!r} is not named in: {caught.value}"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_pairs_are_those_of_the_file(tmp_path, dtype):
    weights = weights_for(dict.fromkeys(layers_ending("q_proj", "v_proj"), 4), dtype)
    pairs = read_peft_adapter(write_adapter(tmp_path / "a", weights), LAYERS)
    assert list(pairs) == layers_ending("q_proj", "v_proj")
    for name, pair in pairs.items():
        assert pair.scale == 2
        for which, tensor in (("A", pair.a), ("B", pair.b)):
            values = dequantise(tensor.type, tensor.data).reshape(tensor.shape)
            assert np.array_equal(values, weights[tensor_name(name, which)].astype(np.float32))


def test_ranks_and_scales_follow_the_patterns_and_the_first_that_matches_wins(tmp_path):
    q, v = layers_ending("q_proj"), layers_ending("v_proj")
    ranks = {q[0]: 3, q[1]: 2, v[0]: 4, v[1]: 4}
    changes = {
        "rank_pattern": {"model.layers.0.self_attn.q_proj": 3, "q_proj": 2, "_proj": 1, "layers.0": 1},
        "alpha_pattern": {r"(q|up)_proj": 6, "^model.layers.1.*": 1.5},
    }
    folder = write_adapter(tmp_path / "a", weights_for(ranks), **changes)
    assert ranks_and_scales(folder) == {q[0]: (3, 2), q[1]: (2, 3), v[0]: (4, 2), v[1]: (4, 1.5 / 4)}
    write_adapter(folder, weights_for(ranks), use_rslora=True, **changes)
    assert ranks_and_scales(folder)[q[0]] == (3, 6 / math.sqrt(3))


@pytest.mark.parametrize(
    ("changes", "reached"),
    [
        ({"target_modules": "all-linear"}, list(LAYERS)),
        ({"target_modules": r".*\.(q|up)_proj"}, layers_ending("q_proj", "up_proj")),
        ({"target_modules": ["self_attn.q_proj", "model.layers.1.mlp.up_proj"]}, [*layers_ending("q_proj"), [*LAYERS][7]]),
        ({"layers_to_transform": 1}, layers_ending("1.self_attn.q_proj", "1.self_attn.v_proj")),
        ({"layers_to_transform": [0], "layers_pattern": "layers"}, layers_ending("0.self_attn.q_proj", "0.self_attn.v_proj")),
        ({"layers_to_transform": []}, layers_ending("q_proj", "v_proj")),
        ({"exclude_modules": ["v_proj"]}, layers_ending("q_proj")),
        ({"exclude_modules": r".*\.1\..*"}, layers_ending("0.self_attn.q_proj", "0.self_attn.v_proj")),
        ({"target_modules": "all-linear", "exclude_modules": ["mlp.up_proj"]}, layers_ending("q_proj", "v_proj", "o_proj")),
    ],
)
def test_layers_are_reached_as_the_config_says(tmp_path, changes, reached):
    folder = write_adapter(tmp_path / "a", weights_for(dict.fromkeys(reached, 4)), **changes)
    assert sorted(ranks_and_scales(folder)) == sorted(reached)
    others = [name for name in LAYERS if name not in reached]
    if others:
        write_adapter(folder, weights_for(dict.fromkeys([*reached, others[0]], 4)), **changes)
        refuse(folder, FormatError, "adapter_model.safetensors", re.escape(tensor_name(others[0], "A")), "no place")
    write_adapter(folder, weights_for(dict.fromkeys(reached[1:], 4)), **changes)
    refuse(folder, FormatError, "adapter_model.safetensors", re.escape(tensor_name(reached[0], "A")), "missing", r"shape \[4, ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bias", "lora_only"),
        ("bias", "all"),
        ("fan_in_fan_out", True),
        ("use_dora", True),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 1], [0, 1]]),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["mlp.experts"]),
        ("alora_invocation_tokens", [5]),
        ("use_qalora", True),
        ("use_bdlora", {"a": 1}),
        ("arrow_config", {"top_k": 1}),
        ("megatron_config", {"a": 1}),
        ("ensure_weight_tying", True),
        ("layers_pattern", ["h"]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
        ("made_up", 1),
        ("made_up", False),
        ("peft_type", "LOHA"),
        ("peft_type", ...),
    ],
)
def test_a_feature_that_is_not_implemented_is_refused_by_name(tmp_path, key, value):
    refuse(write_adapter(tmp_path / "a", **{key: value}), UnsupportedModel, r"adapter_config\.json", key)


@pytest.mark.parametrize(
    "changes",
    [
        {"loftq_config": {}, "eva_config": {"rho": 2.0}, "corda_config": None, "peft_version": "0.21.2", "auto_mapping": None},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "eva"},
        {"init_lora_weights": False},
        {"made_up": None},
        {"lora_bias": ..., "use_dora": ..., "modules_to_save": [], "megatron_core": "megatron.core", "qalora_group_size": 16},
        {"use_rslora": ..., "rank_pattern": ..., "alpha_pattern": None, "bias": ..., "lora_dropout": 0},
    ],
)
def test_keys_without_effect_on_inference_pass(tmp_path, changes):
    assert len(ranks_and_scales(write_adapter(tmp_path / "a", **changes))) == 4


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("r", ..., "whole number from 1"),
        ("r", 0, "whole number from 1"),
        ("r", -4, "whole number"),
        ("r", 4.0, "whole number"),
        ("r", True, "whole number"),
        ("r", 1 << 40, "from 1 to 4096"),
        ("lora_alpha", ..., "a number"),
        ("lora_alpha", "8", "a number"),
        ("lora_alpha", 10**400, "a number"),
        ("use_rslora", "yes", "true or false"),
        ("rank_pattern", [1], "an object"),
        ("rank_pattern", {"q_proj": 0}, "whole number from 1"),
        ("rank_pattern", {"(": 4}, r"pattern '\('"),
        ("alpha_pattern", {"q_proj": None}, "a number"),
        ("target_modules", None, "names of layers"),
        ("target_modules", [], "names of layers"),
        ("target_modules", 5, "list of names"),
        ("target_modules", [1], "list of names"),
        ("target_modules", ["q_proj", "c_attn"], r"'c_attn'.*it has o_proj, q_proj, up"),
        ("target_modules", r"h\.\d+\..*", "no layer of this model"),
        ("target_modules", "(a", r"pattern '\(a'"),
        ("target_modules", "a" * 2001, "2001 characters"),
        ("layers_to_transform", "all", "numbers of layers"),
        ("layers_to_transform", [-1], "numbers of layers"),
    ],
)
def test_an_impossible_value_is_named_with_what_is_expected(tmp_path, key, value, expected):
    refuse(write_adapter(tmp_path / "a", **{key: value}), FormatError, r"adapter_config\.json", key, expected)


def test_numbers_of_layers_that_the_model_does_not_have_are_refused(tmp_path):
    refuse(write_adapter(tmp_path / "a", layers_to_transform=[1, 7]), FormatError, "layers_to_transform", r"\[7\]", "0 to 1")


def test_layer_numbers_beside_a_pattern_are_refused_as_in_peft(tmp_path):
    folder = write_adapter(tmp_path / "a", target_modules=".*q_proj", layers_to_transform=[1])
    refuse(folder, FormatError, r"adapter_config\.json", "layers_to_transform", "list of target_modules")


@pytest.mark.slow
def test_many_names_in_rank_pattern_pass_and_many_patterns_do_not(tmp_path):
    names = {f"model.layers.{i}.mlp.up_proj": 2 for i in range(5000)}
    assert len(ranks_and_scales(write_adapter(tmp_path / "a", rank_pattern=names))) == 4
    patterns = {f"(a|b{i})*": 2 for i in range(17)}
    refuse(write_adapter(tmp_path / "a", rank_pattern=patterns), UnsupportedModel, "rank_pattern", "17 patterns", "at most 16")


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head", "model.embed_tokens"])
def test_adapters_for_embedding_and_head_are_refused_by_name(tmp_path, target):
    refuse(write_adapter(tmp_path / "a", target_modules=["q_proj", target]), UnsupportedModel, "adapter_config", target)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.lm_head.base_layer.weight",
    ],
)
def test_tensors_of_embedding_and_head_are_refused_by_name(tmp_path, name):
    weights = weights_for(dict.fromkeys(layers_ending("q_proj", "v_proj"), 4)) | {name: np.ones((4, 4), np.float32)}
    refuse(write_adapter(tmp_path / "a", weights), UnsupportedModel, r"adapter_model\.safetensors", re.escape(name), "head")


@pytest.mark.parametrize(
    ("which", "shape", "expected"), [("A", (5, 16), r"\[5, 16\].*\[4, 16\]"), ("B", (4, 24), r"\[4, 24\].*\[24, 4\]")]
)
def test_a_misshapen_tensor_is_named_with_found_and_expected(tmp_path, which, shape, expected):
    weights = weights_for(dict.fromkeys(layers_ending("q_proj", "v_proj"), 4))
    weights[tensor_name(Q0, which)] = np.ones(shape, np.float32)
    folder = write_adapter(tmp_path / "a", weights)
    refuse(folder, FormatError, r"adapter_model\.safetensors", re.escape(tensor_name(Q0, which)), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["A", "B"])
def test_a_value_that_is_no_number_is_refused(tmp_path, which, value):
    weights = weights_for(dict.fromkeys(layers_ending("q_proj", "v_proj"), 4))
    weights[tensor_name(Q0, which)][1, 2] = value
    refuse(write_adapter(tmp_path / "a", weights), FormatError, re.escape(tensor_name(Q0, which)), "infinite or no number")


def test_other_element_types_are_refused(tmp_path):
    weights = weights_for(dict.fromkeys(layers_ending("q_proj", "v_proj"), 4))
    weights[tensor_name(Q0, "A")] = np.ones((4, 16), np.int8)
    refuse(write_adapter(tmp_path / "a", weights), UnsupportedModel, re.escape(tensor_name(Q0, "A")), "I8", "BF16")


def test_a_folder_without_config_or_weights_says_what_is_expected(tmp_path):
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    refuse(folder, ModelNotFound, r"adapter_model\.safetensors")
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02")
    refuse(folder, UnsupportedModel, r"adapter_model\.bin", "pickle")
    (folder / "adapter_config.json").unlink()
    refuse(folder, ModelNotFound, r"adapter_config\.json", "PEFT")


def test_a_file_that_was_cut_short_is_refused(tmp_path):
    folder = write_adapter(tmp_path / "a")
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    refuse(folder, FormatError, "cut short")


def test_a_config_that_is_no_object_or_outsized_is_refused(tmp_path):
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_config.json").write_text("[1]")
    refuse(folder, FormatError, r"adapter_config\.json", "object")
    (folder / "adapter_config.json").write_text(json.dumps({"x": "y" * (1 << 20)}))
    refuse(folder, FormatError, r"adapter_config\.json", "larger than")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_named(tmp_path):
    folder = write_adapter(tmp_path / "a")
    folder.chmod(0)
    refuse(folder, StoreError, "permission")
    folder.chmod(0o700)


def test_a_path_with_a_zero_byte_is_no_folder():
    with pytest.raises(ModelNotFound, match="zero byte"):
        read_peft_adapter(Path("a\0b"), LAYERS)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(list(LAYERS)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(["q_proj"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from([*CONFIG, "exclude_modules", "x"]), _VALUES, min_size=1, max_size=3))
def test_whatever_stands_in_the_config_the_adapter_is_read_or_refused(tmp_path, changes):
    folder = write_adapter(tmp_path / "a", **changes)
    try:
        assert read_peft_adapter(folder, LAYERS)
    except SamovarError as error:
        said = str(error)
    else:
        return
    assert said.startswith(str(folder))
    assert len(said) < 1000


ATTENTION = {name: shape for name, shape in LAYERS.items() if ".mlp." not in name}


@pytest.mark.parametrize("target", ["gate_proj", "mlp.gate", "model.layers.0.mlp.experts.3.up_proj"])
def test_a_target_that_only_experts_or_routers_of_the_model_have_is_refused_by_name(tmp_path, target):
    folder = write_adapter(tmp_path / "a", target_modules=["q_proj", "v_proj", target])
    with pytest.raises(UnsupportedModel, match=rf"{re.escape(target)}.*experts or routers.*not implemented.*q_proj"):
        read_peft_adapter(folder, ATTENTION)


@pytest.mark.parametrize("layer", ["model.layers.0.mlp.experts.3.up_proj", "model.layers.1.mlp.gate"])
def test_tensors_for_experts_or_routers_are_refused_by_name(tmp_path, layer):
    weights = weights_for(dict.fromkeys(layers_ending("q_proj", "v_proj"), 4))
    weights |= {tensor_name(layer, which): np.ones((4, 4), np.float32) for which in "AB"}
    folder = write_adapter(tmp_path / "a", weights)
    with pytest.raises(UnsupportedModel, match=rf"{re.escape(layer)}.*experts and routers"):
        read_peft_adapter(folder, ATTENTION)
