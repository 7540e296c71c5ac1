"""Where experts and routers are found, beside what parity with `transformers` shows."""

from dataclasses import replace

import numpy as np
import pytest

from samovar.errors import FormatError, UnsupportedModel
from samovar.kernels.dequantise import dequantise
from samovar.kernels.reference import ReferenceOps
from samovar.models.config import ExpertsConfig
from samovar.models.expert_weights import take_experts
from samovar.models.gguf_config import config_from_gguf, gguf_tensor_name
from samovar.models.weights import WeightSource
from samovar.tensors.dtypes import F32, Q8_0
from samovar.tensors.stored import StoredTensor
from tests.kernels.native_cases import random_weight

CONFIG = ExpertsConfig(n_experts=3, n_chosen=2, d_ffn=32, is_renormalised=True, dense_layers=frozenset())
METADATA = {
    "general.architecture": "qwen3moe", "qwen3moe.block_count": 2, "qwen3moe.expert_count": 8, "qwen3moe.expert_used_count": 2,
    "qwen3moe.expert_feed_forward_length": 64,
}  # fmt: skip


def test_a_quantised_router_is_computed_on_in_float32() -> None:
    stored = random_weight(Q8_0, 5, 64)
    source = WeightSource({"gate": stored}, ReferenceOps(), where="test", form="int4")
    router = source.router("gate", 5, 64)
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    wanted = x @ dequantise(Q8_0, stored.data).reshape(5, 64).T
    np.testing.assert_allclose(ReferenceOps().linear(x, router), wanted, rtol=1e-5, atol=1e-5)
    assert router.size_bytes == 5 * 64 * 4


def test_the_pages_of_a_tensor_of_gates_and_ups_are_released_after_both_are_packed() -> None:
    released: list[str] = []
    wide = replace(random_weight(F32, 3 * 64, 16), shape=(3, 64, 16), release=lambda: released.append("wide"))
    down = replace(random_weight(F32, 3 * 16, 32), shape=(3, 16, 32), release=lambda: released.append("down"))
    source = WeightSource({"x.gate_up_proj": wide, "x.down_proj": down}, ReferenceOps(), where="test")
    experts = take_experts(source, "x", CONFIG, 16)
    tensors: list[StoredTensor] = [m.tensor for stack in (experts.gate, experts.up) for m in stack.members]  # type: ignore[attr-defined]
    values = wide.data.view(np.float32).reshape(3, 2, 32, 16)
    for tensor, wanted in zip(tensors, values.transpose(1, 0, 2, 3).reshape(6, -1), strict=True):
        assert not released
        tensor.release()
        assert np.array_equal(tensor.data.view(np.float32), wanted)
    assert released == ["wide"]


def test_a_missing_stack_is_named_as_its_file_names_it() -> None:
    source = WeightSource({}, ReferenceOps(), where="x.gguf", file_name=gguf_tensor_name, stacks_experts=True)
    with pytest.raises(FormatError, match=r"x\.gguf: tensor 'blk\.4\.ffn_gate_exps\.weight' is missing.*\[3, 32, 16\]"):
        take_experts(source, "model.layers.4.mlp.experts", CONFIG, 16)


def test_experts_whose_rows_do_not_suit_int4_are_refused() -> None:
    stack = replace(random_weight(F32, 3 * 32, 16), shape=(3, 32, 16))
    source = WeightSource({}, ReferenceOps(), where="test", form="int4")
    with pytest.raises(UnsupportedModel, match="rows of 16 values; int4 weights need a multiple of 64"):
        source.stack((stack,), 2)


def test_experts_of_which_only_some_have_an_order_of_inputs_are_refused_by_name() -> None:
    tensors = {f"{i}": replace(random_weight(Q8_0, 32, 64, i), name=f"{i}") for i in range(3)}
    tensors["1"] = replace(tensors["1"], input_order=np.arange(64, dtype=np.int32))
    source = WeightSource({}, ReferenceOps(), where="test")
    with pytest.raises(FormatError, match="tensor '1' has an order of inputs, and '0' has none"):
        source.stack(tuple(tensors.values()), 2)


def test_gguf_files_renormalise_where_they_do_not_say_otherwise() -> None:
    assert config_from_gguf(METADATA, {}, "x")["norm_topk_prob"] is True
    assert config_from_gguf(METADATA | {"qwen3moe.expert_weights_norm": False}, {}, "x")["norm_topk_prob"] is False
    shapes = {f"blk.{i}.ffn_gate.weight": (64, 32) for i in (1, 5)} | {"blk.0.ffn_gate_inp.weight": (8, 32)}
    raw = config_from_gguf(METADATA, shapes, "x")
    assert raw["mlp_only_layers"] == [1, 5]
    assert (raw["model_type"], raw["num_experts"], raw["moe_intermediate_size"]) == ("qwen3_moe", 8, 64)


@pytest.mark.parametrize(("key", "accepted", "refused"), [("expert_gating_func", 1, 2), ("expert_weights_scale", 1.0, 2.5)])
def test_a_choice_of_experts_of_another_kind_is_refused(key: str, accepted: object, refused: object) -> None:
    config_from_gguf(METADATA | {f"qwen3moe.{key}": accepted}, {}, "x")
    with pytest.raises(UnsupportedModel, match=rf"{key} {refused}.*expected 1"):
        config_from_gguf(METADATA | {f"qwen3moe.{key}": refused}, {}, "x")
