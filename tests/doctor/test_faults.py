"""Sound models pass; each single fault is caught by the right line, and by no other."""

from dataclasses import replace

import numpy as np
import pytest

from samovar.doctor.finding import Status
from samovar.doctor.subject import Listed
from tests.doctor.claimed import (
    failing,
    folder_model,
    gguf_model,
    lines,
    report_on,
    stored,
    vocabulary,
    with_data,
    with_listed,
    with_metadata,
)
from tests.text.witnesses import template

SMALL, SPARSE, UNTIED = "Qwen3-0.6B", "Qwen3-30B-A3B", "Qwen3-8B"


def tokens(**changes: str) -> list[str]:
    """The vocabulary with some ids renamed."""
    found = list(vocabulary()["tokenizer.ggml.tokens"])
    for token_id, text in changes.items():
        found[int(token_id.removeprefix("id"))] = text
    return found


def kinds(**changes: int) -> list[int]:
    found = list(vocabulary()["tokenizer.ggml.token_type"])
    for token_id, kind in changes.items():
        found[int(token_id.removeprefix("id"))] = kind
    return found


def finding(report, what: str):
    return next(f for f in report.findings if f.what == what)


@pytest.mark.parametrize(
    "name",
    [
        SMALL,
        SPARSE,
        pytest.param(UNTIED, marks=pytest.mark.slow),
        pytest.param("Qwen3-4B-Instruct-2507", marks=pytest.mark.slow),
        pytest.param("Qwen3-235B-A22B-Instruct-2507", marks=pytest.mark.slow),
    ],
)
def test_a_sound_gguf_file_passes(name):
    report = report_on(gguf_model(name))
    assert report.release.name == name
    assert lines(report, Status.FAIL) == set()
    # without a file there is no hash; all else is known
    assert lines(report, Status.UNKNOWN) == set()


def test_a_sound_folder_passes():
    report = report_on(folder_model(SMALL))
    assert lines(report, Status.FAIL) == set()
    assert lines(report, Status.UNKNOWN) == set()


CONFIG_FAULTS = {
    "rope base": {"qwen3__rope__freq_base": 10_000.0},
    "context": {"qwen3__context_length": 131_072},
    "norm epsilon": {"qwen3__attention__layer_norm_rms_epsilon": 1e-5},
    "rope scaling": {"qwen3__rope__scaling__type": "yarn", "qwen3__rope__scaling__factor": 4.0},
    "sliding window": {"qwen3__attention__sliding_window": 4096},
}


@pytest.mark.parametrize("what", CONFIG_FAULTS)
def test_a_wrong_figure_is_caught_by_its_own_line(what):
    assert failing(with_metadata(gguf_model(SMALL), **CONFIG_FAULTS[what])) == {f"config: {what}"}


@pytest.mark.slow
def test_a_wrong_number_of_experts_per_token_is_caught():
    assert failing(with_metadata(gguf_model(SPARSE), qwen3moe__expert_used_count=4)) == {"config: experts per token"}


@pytest.mark.slow
def test_a_resized_embedding_is_caught():
    made = with_listed(gguf_model(SMALL), "token_embd.weight", shape=(151_672, 1024))
    assert failing(made) == {"config: vocabulary rows"}


TOKEN_FAULTS = {
    "tokens: stop ids": {"tokenizer__ggml__eos_token_id": 151_643},
    "tokens: added around texts": {"tokenizer__ggml__add_bos_token": True},
}


@pytest.mark.parametrize("what", TOKEN_FAULTS)
def test_a_wrong_setting_of_the_tokenizer_is_caught_by_its_own_line(what):
    assert failing(with_metadata(gguf_model(SMALL), **TOKEN_FAULTS[what])) == {what}


def test_a_think_tag_that_is_flagged_as_markup_is_caught():
    made = with_metadata(gguf_model(SMALL), tokenizer__ggml__token_type=kinds(id151667=3))
    assert failing(made) == {"tokens: special flags"}


def test_markup_that_converters_flag_by_its_look_passes():
    made = with_metadata(gguf_model(SMALL), tokenizer__ggml__token_type=kinds(id151659=3, id151664=3))
    assert failing(made) == set()


@pytest.mark.slow
def test_a_tool_tag_that_is_an_ordinary_piece_is_caught():
    made = with_metadata(gguf_model(SMALL), tokenizer__ggml__token_type=kinds(id151657=1))
    assert failing(made) == {"tokens: special flags", "tokenizer: hard texts"}


@pytest.mark.slow
def test_a_renamed_control_token_is_caught():
    made = with_metadata(gguf_model(SMALL), tokenizer__ggml__tokens=tokens(id151653="<|vision_stop|>"))
    assert failing(made) == {"tokens: control tokens", "tokenizer: hard texts"}


def test_a_swapped_vocabulary_is_caught():
    known = vocabulary()["tokenizer.ggml.tokens"]
    made = with_metadata(gguf_model(SMALL), tokenizer__ggml__tokens=tokens(id120000=known[120_001], id120001=known[120_000]))
    assert failing(made) == {"tokenizer: pieces and merges"}


@pytest.mark.slow
def test_a_missing_merge_is_caught():
    merges = list(vocabulary()["tokenizer.ggml.merges"])
    assert failing(with_metadata(gguf_model(SMALL), tokenizer__ggml__merges=merges[:-1])) == {"tokenizer: pieces and merges"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-bpe", "default", "qwen35", None])
def test_a_wrong_rule_for_words_is_caught_and_shown_by_texts(name):
    made = with_metadata(gguf_model(SMALL), tokenizer__ggml__pre=name)
    assert failing(made) == {"tokenizer: rule for words", "tokenizer: hard texts"}


@pytest.mark.slow
def test_an_embedding_file_that_appends_no_end_token_is_caught():
    made = gguf_model("Qwen3-Embedding-4B")
    broken = with_metadata(made, tokenizer__ggml__add_eos_token=False)
    scores = {"scores: similarities"}
    assert lines(report_on(made, open_model=refuse), Status.FAIL) == set()
    report = report_on(broken, open_model=refuse)
    assert lines(report, Status.FAIL) == {"tokens: added around texts"}
    assert "add_eos_token" in finding(report, "added around texts").advice
    assert scores <= lines(report, Status.UNKNOWN)


def refuse():
    from samovar.errors import OutOfMemory

    raise OutOfMemory("no room")


def test_a_template_with_one_more_newline_is_caught_and_the_place_shown():
    source = template("qwen3").replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n\\n'")
    assert source != template("qwen3")
    report = report_on(replace(gguf_model(SMALL), template=source))
    assert lines(report, Status.FAIL) == {"template: rendering"}
    detail = finding(report, "rendering").detail
    assert "- (the end)" in detail
    assert "+ \\n" in detail


@pytest.mark.slow
def test_a_newline_that_prints_nothing_is_no_fault():
    source = template("qwen3").replace("{%- if tools %}", "\n\n{%- if tools %}", 1)
    assert failing(replace(gguf_model(SMALL), template=source)) == set()


def test_the_template_of_another_release_is_named():
    report = report_on(replace(gguf_model(SMALL), template=template("qwen3_instruct_2507")))
    assert lines(report, Status.FAIL) == {"template: rendering"}
    assert "the template of Qwen3 Instruct-2507" in finding(report, "rendering").found


@pytest.mark.slow
@pytest.mark.parametrize("source", [None, "{% for %}", "{{ messages[9].content }}", "{{ 1 / 0 }}"])
def test_a_template_that_is_absent_or_does_not_work_is_caught(source):
    assert failing(replace(gguf_model(SMALL), template=source)) == {"template: rendering"}


@pytest.mark.slow
def test_the_template_of_the_first_days_passes_with_a_word_on_null_content():
    early = template("qwen3").replace(
        "    {%- if message.content is string %}\n        {%- set content = message.content %}\n    {%- else %}\n"
        "        {%- set content = '' %}\n    {%- endif %}\n",
        "    {%- set content = message.content %}\n",
    )
    assert early != template("qwen3")
    report = report_on(replace(gguf_model(SMALL), template=early))
    assert lines(report, Status.FAIL) == set()
    assert "content null" in finding(report, "rendering").advice


@pytest.mark.parametrize(
    ("name", "changed", "what"),
    [
        (SPARSE, "blk.3.ffn_gate_inp.weight", "routers"),
        (SMALL, "blk.3.attn_q_norm.weight", "norms and biases"),
    ],
)
def test_what_has_to_stay_in_floats_is_caught_where_it_is_quantised(name, changed, what):
    assert failing(with_listed(gguf_model(name), changed, type="Q8_0", bits=8.5)) == {f"weights: {what}"}


@pytest.mark.slow
def test_a_missing_head_is_caught_where_the_release_has_one():
    made = gguf_model(UNTIED)
    listed = {name: entry for name, entry in made.listed.items() if name != "output.weight"}
    assert failing(replace(made, listed=listed)) == {"weights: output head"}


@pytest.mark.slow
def test_a_copy_of_a_tied_head_is_no_fault():
    made = gguf_model(SMALL)
    assert failing(replace(made, listed={**made.listed, "output.weight": made.listed["token_embd.weight"]})) == set()


@pytest.mark.slow
def test_missing_misshapen_and_strange_tensors_are_caught():
    made = gguf_model(SMALL)
    without = {name: entry for name, entry in made.listed.items() if name != "blk.27.attn_k_norm.weight"}
    strange = {**made.listed, "blk.0.attn_q.bias": Listed(type="F32", shape=(2048,), bits=32)}
    for changed in (replace(made, listed=without), replace(made, listed=strange)):
        assert failing(changed) == {"weights: tensors"}
    assert failing(with_listed(made, "blk.0.attn_v.weight", shape=(512, 1024))) == {"weights: tensors"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"general__file_type": 2},  # Q4_0
        {"general__file_type": 17},  # Q5_K_M
    ],
)
def test_a_quantisation_that_contradicts_its_name_is_caught(changes):
    assert failing(with_metadata(gguf_model(SMALL), **changes)) == {"weights: quantisation"}


def test_types_that_contradict_what_both_names_say_are_caught():
    made = gguf_model(SMALL)
    listed = {n: replace(t, type="Q4_0", bits=4.5) if t.type == "Q8_0" else t for n, t in made.listed.items()}
    assert failing(replace(made, listed=listed)) == {"weights: quantisation"}
    one = with_listed(made, "blk.5.ffn_up.weight", type="Q2_K", bits=2.625)
    assert failing(one) == {"weights: quantisation"}


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E00])
def test_a_scale_that_is_no_number_is_caught_and_its_place_named(bits):
    made, name = gguf_model(SMALL), "blk.1.ffn_down.weight"
    tensor = stored(name, "Q8_0")
    data = tensor.data.copy()
    data[34 * 1001 : 34 * 1001 + 2] = np.array([bits], "<u2").view(np.uint8)
    broken = replace(made, tensors={**made.tensors, name: replace(tensor, data=data)})
    report = report_on(broken)
    assert lines(report, Status.FAIL) == {"weights: scales"}
    assert finding(report, "scales").detail == (f"{name}: 1 blocks, the first is 1,001",)


def test_a_stretch_that_was_never_written_is_caught():
    made, name = gguf_model(SMALL), "blk.1.ffn_down.weight"
    tensor = stored(name, "Q8_0", n_rows=4096)
    data = tensor.data.copy()
    data[200_000 : 200_000 + (1 << 18)] = 0
    broken = replace(made, tensors={**made.tensors, name: with_data(name, tensor.type, tensor.shape, data)})
    assert failing(broken) == {"weights: stretches"}


def test_a_folder_without_all_stop_ids_is_caught():
    made = replace(folder_model(SMALL), generation_config={"eos_token_id": [151645]})
    assert failing(made) == {"tokens: stop ids"}


@pytest.mark.slow
def test_a_folder_without_generation_config_cannot_be_known():
    report = report_on(replace(folder_model(SMALL), generation_config={}))
    assert lines(report, Status.UNKNOWN) == {"tokens: stop ids"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("tie_word_embeddings", False, "tied head"),
        ("rope_theta", 5e6, "rope base"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "rope scaling"),
    ],
)
def test_a_wrong_key_of_a_folder_is_caught(key, value, what):
    made = folder_model(SMALL)
    assert failing(replace(made, config={**made.config, key: value})) == {f"config: {what}"}


@pytest.mark.slow
def test_sampling_defaults_that_are_not_the_releases_are_caught_where_those_are_known():
    made = folder_model(SMALL)
    changed = replace(made, generation_config={**made.generation_config, "temperature": 1.0})
    assert failing(changed) == {"config: sampling"}
    assert failing(with_metadata(gguf_model(SMALL), general__sampling__top_k=40)) == {"config: sampling"}
    later = report_on(with_metadata(gguf_model("Qwen3-4B-Instruct-2507"), general__sampling__temp=1.0))
    assert lines(later, Status.UNKNOWN) == {"config: sampling"}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(3, Status.PASS), (1, Status.FAIL), (None, Status.UNKNOWN)])
def test_the_pooling_of_an_embedding_file_is_checked(number, status):
    made = with_metadata(gguf_model("Qwen3-Embedding-8B"), qwen3__pooling_type=number)
    assert finding(report_on(made, open_model=refuse), "pooling").status is status


@pytest.mark.slow
def test_a_bare_decoder_as_embedding_models_are_saved_has_all_its_tensors():
    made = folder_model("Qwen3-Embedding-0.6B")
    bare = {name.removeprefix("model."): entry for name, entry in made.listed.items()}
    report = report_on(replace(made, listed=bare), open_model=refuse)
    assert finding(report, "tensors").status is Status.PASS


def test_the_figures_of_qwen3_next_are_read_from_both_formats():
    from samovar.doctor.check_config import check_config
    from tests.doctor.claimed import release

    claimed = release("Qwen3-Next-80B-A3B-Instruct")
    of_config = replace(folder_model(SMALL), config=dict(claimed.figures), generation_config={})
    keys = {
        "block_count": 48, "embedding_length": 2048, "attention.head_count": 16, "attention.head_count_kv": 2,
        "attention.key_length": 256, "expert_count": 512, "expert_used_count": 10, "expert_feed_forward_length": 512,
        "expert_shared_feed_forward_length": 512, "rope.freq_base": 1e7, "rope.dimension_count": 64, "context_length": 262_144,
        "attention.layer_norm_rms_epsilon": 1e-6, "full_attention_interval": 4, "vocab_size": 151_936, "ssm.conv_kernel": 4,
        "ssm.group_count": 16, "ssm.time_step_rank": 32, "ssm.state_size": 128, "ssm.inner_size": 4096,
    }  # fmt: skip
    metadata = {"general.architecture": "qwen3next", **{f"qwen3next.{key}": value for key, value in keys.items()}}
    for made in (of_config, replace(gguf_model(SMALL), metadata=metadata, listed={})):
        found = check_config(made, claimed)
        assert {f.status for f in found} == {Status.PASS}, [f for f in found if f.status is not Status.PASS]
        assert len(found) >= 20


@pytest.mark.slow
def test_a_template_without_end_is_stopped():
    source = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
    assert failing(replace(gguf_model(SMALL), template=source)) == {"template: rendering"}


def fp8_folder(**changes: object):
    """A folder as the releases named FP8 are: matrices of layers in 8 bits, router, head and norms in BF16."""
    made = folder_model(UNTIED)
    listed = {
        name: replace(entry, type="E4M3_G128", bits=8.25) if name.endswith("_proj.weight") else entry
        for name, entry in made.listed.items()
    }
    config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    return replace(made, listed=listed, quantisation="fp8, blocks of 128 x 128", quantisation_config={**config, **changes})


def test_a_folder_in_fp8_as_it_is_published_passes():
    report = report_on(fp8_folder())
    assert lines(report, Status.FAIL) == set()
    assert lines(report, Status.UNKNOWN) == set()


def test_settings_that_are_not_the_publishers_are_told():
    report = report_on(fp8_folder(weight_block_size=[64, 64]))
    assert lines(report, Status.FAIL) == set()
    assert lines(report, Status.UNKNOWN) == {"weights: settings"}


def test_a_head_that_is_quantised_in_a_folder_is_caught():
    made = fp8_folder()
    assert failing(with_listed(made, "lm_head.weight", type="E4M3_G128", bits=8.25)) == {"weights: head in floats"}


def test_a_folder_whose_name_says_another_method_is_caught():
    made = replace(fp8_folder(), names=(("the folder's name", "Qwen3-8B-AWQ"),))
    assert failing(made) == {"weights: quantisation"}


def test_flags_that_differ_in_tokenizer_config_alone_are_caught():
    made = folder_model(SMALL)
    listed = {"151667": {"content": "<think>", "special": False}, "151645": {"content": "<|im_end|>", "special": True}}
    for special, expected in ((False, set()), (True, {"tokens: special flags"})):
        listed["151667"]["special"] = special
        assert failing(replace(made, tokenizer_config={**made.tokenizer_config, "added_tokens_decoder": listed})) == expected
