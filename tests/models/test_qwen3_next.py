"""Qwen3-Next: its published config, what is left out of its files by name, and what is refused; logits are in `test_parity`."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from samovar.errors import BadRequest, FormatError, OutOfMemory, SamovarError, UnsupportedModel
from samovar.kernels.reference import ReferenceOps
from samovar.llm import LLM
from samovar.llm.memory import Budget
from samovar.models import ARCHITECTURES
from samovar.models.config import DecoderConfig
from samovar.models.packing import EagerPacker
from samovar.models.weights import WeightSource
from samovar.tensors.dtypes import F32
from samovar.tensors.stored import StoredTensor
from tests.models.conftest import TinyCheckpoints
from tests.models.tiny_checkpoints import VARIANTS, random_ids, random_model, witness_logits, write_folder
from tests.models.tiny_gguf import add_tokenizer, write_gguf
from tests.packages import needs_llama_cpp

NAME = "qwen3-next"
# as Qwen3-Next-80B-A3B-Instruct has it, but for what is the same in all configs
PUBLISHED = {
    "model_type": "qwen3_next", "attention_bias": False, "decoder_sparse_step": 1, "full_attention_interval": 4,
    "head_dim": 256, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5120, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_value_head_dim": 128,
    "max_position_embeddings": 262_144, "mlp_only_layers": [], "moe_intermediate_size": 512, "norm_topk_prob": True,
    "num_attention_heads": 16, "num_experts": 512, "num_experts_per_tok": 10, "num_hidden_layers": 48,
    "num_key_value_heads": 2, "output_router_logits": False, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-6,
    "rope_scaling": None, "rope_theta": 10_000_000, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 512,
    "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 151_936,
}  # fmt: skip


def read(**changes: object) -> DecoderConfig:
    return ARCHITECTURES["qwen3_next"].read_config(PUBLISHED | changes, "config.json")


def test_the_published_config_is_read_whole() -> None:
    config = read()
    net, experts = config.delta_net, config.experts
    assert net is not None
    assert experts is not None
    assert (len(net.layers), config.n_kv_layers, net.n_channels, net.d_values) == (36, 12, 8192, 4096)
    assert 3 not in net.layers
    assert 4 in net.layers
    assert len(config.rope.inv_freq_R) == 32
    assert (experts.n_experts, experts.n_chosen, config.d_shared_expert) == (512, 10, 512)
    assert config.state_bytes == 36 * 4 * (32 * 128 * 128 + 3 * 8192)
    assert config.long_context is not None
    assert config.long_context.longest == 4 * 262_144


@pytest.mark.parametrize(
    ("error", "changes", "named"),
    [
        (UnsupportedModel, {"attention_bias": True}, "attention_bias"),
        (FormatError, {"linear_key_head_dim": 512}, "linear_key_head_dim is 512"),
        (UnsupportedModel, {"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim"),
        (FormatError, {"linear_num_value_heads": 24}, "24 value heads"),
        (FormatError, {"layer_types": ["linear_attention"] * 3}, "48 layers"),
        (FormatError, {"layer_types": ["sliding_attention"] * 48}, "layer_types"),
        (UnsupportedModel, {"full_attention_interval": 64}, "full_attention"),
        (FormatError, {"shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size"),
        (FormatError, {"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        (UnsupportedModel, {"linear_attention_dropout": 0.1}, "linear_attention_dropout"),
    ],
)
def test_what_is_not_computed_or_makes_no_sense_is_refused(
    error: type[SamovarError], changes: dict[str, object], named: str
) -> None:
    with pytest.raises(error, match=named):
        read(**changes)


def folder_with(tmp_path: Path, checkpoints: TinyCheckpoints, **more: torch.Tensor) -> Path:
    folder = write_folder(checkpoints.get(NAME)[1], tmp_path / "more")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {name.replace("__", "."): tensor for name, tensor in more.items()}, folder / "model.safetensors")
    return folder


def test_heads_that_predict_several_tokens_are_left_out_and_nothing_else_is(
    tmp_path: Path, tiny_checkpoints: TinyCheckpoints
) -> None:
    folder = folder_with(tmp_path, tiny_checkpoints, mtp__fc__weight=torch.ones(4, 8), mtp__norm__weight=torch.ones(4))
    ids = random_ids(20)
    wanted_TV = witness_logits(tiny_checkpoints.get(NAME)[1], ids)
    assert np.abs(LLM(folder, isa="numpy").logits(ids) - wanted_TV).max() <= 2e-4 * np.abs(wanted_TV).max()
    other = folder_with(tmp_path, tiny_checkpoints, model__mtp__weight=torch.ones(4))
    with pytest.raises(FormatError, match=r"model\.mtp\.weight"):
        LLM(other, isa="numpy")


def test_layers_of_a_gguf_file_that_predict_several_tokens_are_left_out(tmp_path: Path) -> None:
    model, ids = random_model(VARIANTS[NAME]), random_ids(20)
    more = {"blk.4.nextn.eh_proj.weight": np.ones((4, 8), np.float32)}

    def describe(writer: gguf.GGUFWriter) -> None:
        add_tokenizer(writer)
        writer.add_nextn_predict_layers(1)
        writer.add_block_count(5)

    wanted_TV = witness_logits(model, ids)
    path = write_gguf(model, tmp_path / "more.gguf", "F32", describe=describe, tensors=more)
    found_TV = LLM(path, isa="numpy", kv_type="f32").logits(ids)
    assert np.abs(found_TV - wanted_TV).max() <= 2e-4 * np.abs(wanted_TV).max()
    more = {"blk.5.nextn.eh_proj.weight": np.ones((4, 8), np.float32)}
    with pytest.raises(FormatError, match=r"blk\.5\.nextn"):
        LLM(write_gguf(model, tmp_path / "other.gguf", "F32", describe=describe, tensors=more), isa="numpy")


def test_llama_cpp_computes_the_same_logits_from_the_same_file(tmp_path: Path) -> None:
    needs_llama_cpp()
    import llama_cpp

    model = random_model(VARIANTS[NAME], linear_value_head_dim=16)  # llama.cpp takes all heads to be of one width
    path, ids = write_gguf(model, tmp_path / "tiny.gguf", "F32"), random_ids(60)
    theirs = llama_cpp.Llama(str(path), n_ctx=128, logits_all=True, verbose=False, n_threads=1)
    theirs.eval(ids)
    wanted_TV = np.array(theirs.scores[: len(ids)])
    theirs.close()
    # llama.cpp keeps keys and values in f16
    assert np.abs(LLM(path, kv_type="f16").logits(ids) - wanted_TV).max() <= 0.02 * np.abs(wanted_TV).max()


def test_speculation_and_saved_prefixes_are_refused_and_a_second_turn_goes_on_from_the_first(
    tmp_path: Path, tiny_checkpoints: TinyCheckpoints
) -> None:
    folder, _ = tiny_checkpoints.get(NAME)
    for mode in ("ngram", "draft"):
        with pytest.raises(UnsupportedModel, match="speculation"):
            LLM(folder, speculation=mode, draft=folder if mode == "draft" else None)
    plain, _ = tiny_checkpoints.get("qwen3-untied")
    with pytest.raises(UnsupportedModel, match="speculation"):
        LLM(plain, draft=folder)
    llm = LLM(folder)
    with pytest.raises(UnsupportedModel, match="recurrent"):
        llm.save_prefixes(tmp_path)
    said = "Nobody remembers whose samovar it was"
    first = llm.generate(said, temperature=0, max_tokens=20, ignore_eos=True)
    again = llm.generate(said + first.text + " and more", temperature=0, max_tokens=5)
    fresh = LLM(folder, prefix_cache=False).generate(said + first.text + " and more", temperature=0, max_tokens=5)
    assert again.token_ids == fresh.token_ids


def test_a_budget_holds_states_and_lets_as_many_requests_run_as_have_one() -> None:
    config = read()
    states = config.state_bytes
    assert Budget(None, 1 << 40, 0).n_sequences(config, 64) == 64
    n = Budget(None, 20 * states, 0).n_sequences(config, 64)
    assert n == 9
    _, n_pages = Budget(None, 20 * states, 0).choose(config, "f16", None, 64)
    page_bytes = 2 * 12 * 2 * 256 * 32 * 2
    assert n_pages * page_bytes <= 20 * states - (n + 1) * states
    with pytest.raises(OutOfMemory, match="allow"):
        Budget(states, 1 << 40, 0).choose(config, "f16", None, 64)


def test_rows_that_one_matrix_mixes_are_told_apart() -> None:
    rows = np.arange(6, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    tensor = StoredTensor(name="w.weight", type=F32, shape=(6, 4), data=rows.reshape(-1).view(np.uint8), source="test")
    ops = ReferenceOps()
    source = WeightSource({"w.weight": tensor}, ops, where="test", packer=EagerPacker(ops))
    even, odd = source.mixed_projection("w", {"even": np.array([4, 0, 2]), "odd": np.array([1, 3, 5])}, 4)
    x_TD = np.ones((1, 4), np.float32)
    assert ops.linear(x_TD, even.weight).tolist() == [[16, 0, 8]]
    assert ops.linear(x_TD, odd.weight).tolist() == [[4, 12, 20]]
    assert source.projections == {}
    source.finish()


def test_the_release_is_known_by_its_short_name_and_samples_as_its_family_does(tiny_checkpoints: TinyCheckpoints) -> None:
    from samovar.formats.family import FAMILY

    assert FAMILY["qwen3-next:80b"].repo == "Qwen/Qwen3-Next-80B-A3B-Instruct"
    assert FAMILY["qwen3-next:80b-a3b-thinking-fp8"].repo == "Qwen/Qwen3-Next-80B-A3B-Thinking-FP8"
    folder, _ = tiny_checkpoints.get(NAME)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen3_next"
    with pytest.raises(BadRequest):
        LLM(folder, isa="numpy").generate("x", top_k=-3)
