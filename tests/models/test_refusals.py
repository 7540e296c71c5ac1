"""What a checkpoint asks for and we do not compute, or what does not fit its config, is refused by name."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from samovar.errors import FormatError, UnsupportedModel
from samovar.llm import LLM
from tests.models.conftest import TinyCheckpoints
from tests.models.tiny_checkpoints import MAX_CONTEXT, VOCAB_SIZE, write_folder

Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder_of(tmp_path: Path, tiny_checkpoints: TinyCheckpoints) -> Callable[[str], Path]:
    """A fresh copy of a tiny checkpoint, to be spoilt."""
    return lambda name: write_folder(tiny_checkpoints.get(name)[1], tmp_path / "spoilt")


def change_config(folder: Path, file: str = "config.json", **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[Weights], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def assert_refused(folder: Path, error: type[Exception], *named: str) -> None:
    with pytest.raises(error) as caught:
        LLM(folder, isa="numpy")
    for text in named:
        assert re.search(text, str(caught.value)), f"{text!r} is not named in: {caught.value}"


@pytest.mark.parametrize(
    ("name", "error", "changes", "named"),
    [
        ("llama2", UnsupportedModel, {"sliding_window": 64}, ["sliding_window", "64"]),
        ("mistral", FormatError, {"sliding_window": -1}, ["sliding_window", "-1"]),
        ("mistral", FormatError, {"sliding_window": "64"}, ["sliding_window", "64"]),
        ("mistral-window", UnsupportedModel, {"layer_types": ["full_attention"] * 2}, ["layer_types", "full_attention"]),
        ("qwen3-untied", UnsupportedModel, {"layer_types": ["chunked_attention"] * 2}, ["layer_types", "chunked_attention"]),
        ("qwen3-untied", FormatError, {"layer_types": ["full_attention"]}, ["layer_types", "2 layers"]),
        ("qwen3-untied", FormatError, {"layer_types": ["sliding_attention"] * 2}, ["sliding_attention", "sliding_window"]),
        ("qwen3-untied", FormatError, {"use_sliding_window": 1}, ["use_sliding_window", "true or false"]),
        ("qwen2-window", FormatError, {"layer_types": None, "max_window_layers": -1}, ["max_window_layers", "-1"]),
        ("gemma3", FormatError, {"sliding_window": None}, ["sliding_window"]),
    ],
)
def test_a_window_that_makes_no_sense_or_is_not_there_is_refused(
    name: str, error: type[Exception], changes: dict[str, object], named: list[str], folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of(name)
    change_config(folder, **changes)
    assert_refused(folder, error, "config.json", *named)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qwen3-untied", {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1}),
        ("llama2", {"sliding_window": MAX_CONTEXT}),
        ("mistral", {"sliding_window": MAX_CONTEXT}),
    ],
)
def test_a_sliding_window_that_never_bites_is_accepted(
    name: str, changes: dict[str, object], folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of(name)
    change_config(folder, **changes)
    assert LLM(folder, isa="numpy").logits([5, 6, 7]).shape == (3, 320)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_activation": "silu"}, ["hidden_activation", "silu", "gelu_pytorch_tanh"]),
        ({"final_logit_softcapping": 30.0}, ["final_logit_softcapping"]),
        ({"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping"]),
        ({"use_bidirectional_attention": True}, ["use_bidirectional_attention"]),
        ({"model_type": "gemma3", "vision_config": {}}, ["vision_config", "gemma3_text"]),
    ],
)
def test_what_gemma_3_may_ask_for_and_is_not_there_is_refused(
    changes: dict[str, object], named: list[str], folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of("gemma3")
    change_config(folder, **changes)
    assert_refused(folder, UnsupportedModel, "config.json", *named)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"long_factor": [1.0] * 7}, ["long_factor", "8 numbers"]),
        ({"short_factor": [1.0] * 7 + [0.0]}, ["short_factor", "0.0"]),
        ({"partial_rotary_factor": 1.5}, ["partial_rotary_factor", "1.5"]),
        ({"original_max_position_embeddings": 64}, ["original_max_position_embeddings", "64"]),
    ],
)
def test_long_rope_factors_that_make_no_sense_are_refused(
    change: dict[str, object], named: list[str], folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of("phi3-long")
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    change_config(folder, rope_parameters=rope | change)
    assert_refused(folder, FormatError, "config.json", *named)


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "proportional", "made-up"])
def test_an_unknown_rope_type_is_refused(kind: str, folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("llama2")
    change_config(folder, rope_parameters={"rope_type": kind, "rope_theta": 10_000.0, "factor": 2.0})
    assert_refused(folder, UnsupportedModel, "config.json", kind, "yarn")


def test_a_rope_parameter_that_its_type_does_not_read_is_refused(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("llama-linear")
    rope = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0, "beta_fast": 32.0}
    change_config(folder, rope_parameters=rope)
    assert_refused(folder, UnsupportedModel, "config.json", "beta_fast")


@pytest.mark.parametrize(
    ("key", "value"), [("logit_softcapping", 30.0), ("num_experts", 8), ("quantization_config", {"quant_method": "exl2"})]
)
def test_a_key_that_the_architecture_does_not_read_is_refused(
    key: str, value: object, folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of("qwen3-untied")
    change_config(folder, **{key: value})
    assert_refused(folder, UnsupportedModel, "spoilt", key)


def test_an_unknown_architecture_is_refused(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-untied")
    change_config(folder, model_type="gpt_neox")
    assert_refused(folder, UnsupportedModel, "config.json", "gpt_neox", "qwen3")


def test_another_activation_is_refused(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("llama2")
    change_config(folder, hidden_act="gelu")
    assert_refused(folder, UnsupportedModel, "config.json", "hidden_act", "gelu", "silu")


Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def test_a_missing_tensor_is_named(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-untied")
    change_weights(folder, lambda weights: weights.pop(Q_PROJ))
    assert_refused(folder, FormatError, "spoilt", re.escape(Q_PROJ), "missing", r"64, 64")


def test_an_extra_tensor_is_named(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-untied")
    change_weights(folder, lambda weights: weights.update({"model.layers.2.mlp.up_proj.weight": torch.ones(96, 64)}))
    assert_refused(folder, FormatError, "spoilt", re.escape("model.layers.2.mlp.up_proj.weight"))


def test_a_misshapen_tensor_is_named_with_what_was_found_and_expected(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-untied")
    change_weights(folder, lambda weights: weights.update({Q_PROJ: torch.ones(32, 64)}))
    assert_refused(folder, FormatError, r"model\.safetensors", re.escape(Q_PROJ), r"32, 64", r"64, 64")


def test_a_bias_that_the_config_does_not_announce_is_named(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("llama2")
    change_weights(folder, lambda weights: weights.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}))
    assert_refused(folder, FormatError, "spoilt", re.escape("model.layers.0.self_attn.q_proj.bias"))


def test_a_bias_that_the_config_announces_and_is_not_there_is_named(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("llama2")
    change_config(folder, attention_bias=True)
    assert_refused(folder, FormatError, "spoilt", re.escape("model.layers.0.self_attn.q_proj.bias"), "missing")


def test_a_head_that_contradicts_tied_embeddings_is_named(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-untied")
    change_config(folder, tie_word_embeddings=True)
    assert_refused(folder, FormatError, re.escape("lm_head.weight"), "tied")


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"shared_expert_intermediate_size": 64}, UnsupportedModel, ("shared_expert_intermediate_size", "64", "expected 0")),
        ({"qkv_bias": True}, UnsupportedModel, ("qkv_bias", "True")),
        ({"use_qk_norm": False}, UnsupportedModel, ("use_qk_norm", "False")),
        ({"n_group": 4}, UnsupportedModel, ("n_group",)),
        ({"num_experts": -1, "num_local_experts": None}, FormatError, ("num_experts", "-1")),
        ({"num_experts": 8, "num_local_experts": 9}, FormatError, ("num_local_experts", "8", "9")),
        ({"num_experts_per_tok": 9}, FormatError, ("num_experts_per_tok", "9", "8 experts")),
        ({"mlp_only_layers": [True]}, FormatError, ("mlp_only_layers", "True")),
        ({"decoder_sparse_step": 0}, FormatError, ("decoder_sparse_step", "0")),
    ],
)
def test_a_config_of_experts_that_means_something_else_is_refused(
    changes: dict[str, object], error: type[Exception], named: tuple[str, ...], folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of("qwen3-moe")
    change_config(folder, **changes)
    assert_refused(folder, error, r"config\.json", *named)


def test_keys_that_say_of_experts_what_is_so_anyway_are_accepted(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-moe")
    change_config(folder, shared_expert_intermediate_size=0, qkv_bias=False, use_qk_norm=True, router_aux_loss_coef=0.1)
    assert LLM(folder, isa="numpy").logits([5, 6, 7]).shape == (3, 320)


EXPERT = "model.layers.1.mlp.experts.5.up_proj.weight"


def test_a_missing_expert_is_named(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-moe")
    change_weights(folder, lambda weights: weights.pop(EXPERT))
    assert_refused(folder, FormatError, "spoilt", re.escape(EXPERT), "missing", r"64, 64")


def test_an_expert_too_many_is_named(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-moe")
    extra = EXPERT.replace(".5.", ".8.")
    change_weights(folder, lambda weights: weights.update({extra: torch.ones(64, 64)}))
    assert_refused(folder, FormatError, "spoilt", re.escape(extra))


def test_experts_of_different_types_are_named(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-moe")
    change_weights(folder, lambda weights: weights.update({EXPERT: weights[EXPERT].half()}))
    assert_refused(folder, FormatError, r"model\.safetensors", re.escape(EXPERT), "F16", "F32", "one type")


def test_experts_where_the_config_wants_a_dense_layer_are_named(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-moe")
    change_config(folder, mlp_only_layers=[1])
    assert_refused(folder, FormatError, re.escape("model.layers.1.mlp.gate_proj.weight"), "missing")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("ids", [VOCAB_SIZE, [1, 9999], -1, "1", [True]])
def test_an_end_of_text_outside_of_the_vocabulary_is_refused(file: str, ids: object, folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-untied")
    change_config(folder, file, eos_token_id=ids)
    shown = re.escape(repr(ids))
    assert_refused(
        folder, FormatError, f"{file}: eos_token_id is {shown}; expected an id from 0 to {VOCAB_SIZE - 1}, or a list"
    )


def test_ends_of_text_in_the_padding_of_a_vocabulary_are_accepted(tmp_path: Path, tiny_checkpoints: TinyCheckpoints) -> None:
    model = copy.deepcopy(tiny_checkpoints.get("qwen3-untied")[1])
    model.resize_token_embeddings(VOCAB_SIZE + 64)
    folder = write_folder(model, tmp_path / "padded")
    for file in ("config.json", "generation_config.json"):
        change_config(folder, file, eos_token_id=[1, VOCAB_SIZE + 63], pad_token_id=9999)
    assert LLM(folder, isa="numpy").config.vocab_size == VOCAB_SIZE + 64


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("qwen3-untied", ["LlamaForCausalLM"]),
        ("qwen3-untied", ["Qwen3MoeForCausalLM"]),
        ("qwen3-untied", ["SomebodysOwn", "Qwen2Model"]),
        ("llama2", ["MistralForSequenceClassification"]),
        ("gemma3", ["Qwen3ForCausalLM"]),
    ],
)
def test_classes_of_another_architecture_than_the_model_type_are_refused(
    name: str, names: list[str], folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of(name)
    change_config(folder, architectures=names)
    assert_refused(folder, FormatError, "config.json: architectures has", names[-1], "model_type")


@pytest.mark.parametrize(
    "names", [None, [], "Qwen3", ["Qwen3Model"], ["Qwen3ForRanking"], ["SomebodysOwn"], ["LlamaForCausalLM", "Qwen3Model"]]
)
def test_classes_of_the_model_type_and_unknown_ones_are_accepted(names: object, folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("qwen3-untied")
    change_config(folder, architectures=names)
    LLM(folder, isa="numpy")
