"""The named variants of Qwen3, each by a folder with its own config and defaults in tiny sizes, and by a GGUF file of it.

Configs are those that are published, widths and layers apart; the tokenizer is the beginning of Qwen3's own.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import pytest

from samovar.errors import BadRequest
from samovar.llm import LLM
from tests.engine.scripted import by_position
from tests.llm.recipe_models import END_ID, IM_END_ID, VOCAB_SIZE, describe_tokenizer, write_tokenizer
from tests.llm.scripted import always_thinks, scripted
from tests.models.tiny_checkpoints import Variant, random_model, witness_logits
from tests.models.tiny_gguf import write_gguf
from tests.text.witnesses import template

IM_END, END_OF_TEXT = IM_END_ID, END_ID
THINKING, FAST = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}, {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
CODER = {**FAST, "repetition_penalty": 1.05}
DENSE = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "rms_norm_eps": 1e-6,
}  # fmt: skip
SPARSE = DENSE | {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 24, "norm_topk_prob": True}


def coder_template():
    """Qwen3-Coder's own template, which the source package of llama-cpp-python carries."""
    path = Path(sys.prefix) / "llama_cpp_templates" / "Qwen3-Coder.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def coder_like():
    """The true template where it is there, else one with the same form of calls."""
    return coder_template() or template("qwen3_5_nothink")


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a release's files say. `theta` and `context` stand in its config, `defaults` in its generation_config.json."""

    theta: float
    context: int
    defaults: dict[str, float]
    template: object
    is_tied: bool = False
    sizes: dict[str, object] = field(default_factory=lambda: DENSE)
    more: dict[str, object] = field(default_factory=dict)

    @property
    def model_type(self):
        return "qwen3_moe" if "num_experts" in self.sizes else "qwen3"


def instruct_2507():
    return template("qwen3_instruct_2507")


RELEASES = {
    "Qwen3-0.6B": Release(theta=1e6, context=40_960, defaults=THINKING, template=lambda: template("qwen3"), is_tied=True),
    "Qwen3-4B-Instruct-2507": Release(
        theta=5e6, context=262_144, defaults=FAST, template=instruct_2507, is_tied=True, more={"max_window_layers": 36}
    ),
    "Qwen3-4B-Thinking-2507": Release(
        theta=5e6, context=262_144, defaults=THINKING, template=always_thinks, is_tied=True, more={"max_window_layers": 36}
    ),
    "Qwen3-30B-A3B-Instruct-2507": Release(theta=1e7, context=262_144, defaults=FAST, template=instruct_2507, sizes=SPARSE),
    "Qwen3-30B-A3B-Thinking-2507": Release(theta=1e7, context=262_144, defaults=THINKING, template=always_thinks, sizes=SPARSE),
    "Qwen3-235B-A22B-Instruct-2507": Release(theta=5e6, context=262_144, defaults=FAST, template=instruct_2507, sizes=SPARSE),
    "Qwen3-235B-A22B-Thinking-2507": Release(
        theta=5e6, context=262_144, defaults=THINKING, template=always_thinks, sizes=SPARSE
    ),
    "Qwen3-Coder-30B-A3B-Instruct": Release(theta=1e7, context=262_144, defaults=CODER, template=coder_like, sizes=SPARSE),
    "Qwen3-Coder-480B-A35B-Instruct": Release(
        theta=1e7,
        context=262_144,
        defaults=CODER,
        template=coder_like,
        sizes=SPARSE | {"num_experts": 10},
        more={"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0, "router_aux_loss_coef": 0.0},
    ),
}  # fmt: skip
pytestmark = pytest.mark.slow  # a model for each release


def config_of(release):
    """A config.json as transformers 4.51 wrote it for the release."""
    config = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": IM_END,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": release.context,
        "max_window_layers": 48,
        "model_type": release.model_type,
        "rope_scaling": None,
        "rope_theta": int(release.theta),
        "sliding_window": None,
        "tie_word_embeddings": release.is_tied,
        "torch_dtype": "float32",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
    }
    if "num_experts" in release.sizes:
        config |= {
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "output_router_logits": False,
            "router_aux_loss_coef": 0.001,
        }
    kind = "Qwen3MoeForCausalLM" if release.model_type == "qwen3_moe" else "Qwen3ForCausalLM"
    return {"architectures": [kind], **config, **release.sizes, **release.more}


def model_of(release):
    """What `transformers` makes of the release's sizes."""
    rope = {"rope_type": "default", "rope_theta": release.theta}
    settings = {**release.sizes, "vocab_size": VOCAB_SIZE, "tie_word_embeddings": release.is_tied, "rope_parameters": rope}
    settings |= {"max_position_embeddings": release.context, "eos_token_id": IM_END}
    return random_model(Variant(model_type=release.model_type, settings=settings))


class Released:
    """Folders and open models by name, each made once."""

    def __init__(self, root):
        self._root, self._made = root, {}

    def get(self, name):
        """(model, witness)."""
        if name not in self._made:
            release, folder = RELEASES[name], self._root / name
            witness = model_of(release)
            witness.save_pretrained(folder)
            (folder / "config.json").write_text(json.dumps(config_of(release)))
            said = {"bos_token_id": END_OF_TEXT, "do_sample": True, "eos_token_id": [IM_END, END_OF_TEXT]}
            said |= {"pad_token_id": END_OF_TEXT, "transformers_version": "4.51.0", **release.defaults}
            (folder / "generation_config.json").write_text(json.dumps(said))
            write_tokenizer(folder, appends=None)
            (folder / "chat_template.jinja").write_text(release.template(), encoding="utf-8")
            self._made[name] = LLM(folder, n_threads=1, cache=False, memory=2 << 30), witness
        return self._made[name]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return Released(tmp_path_factory.mktemp("released"))


def sampling(llm, **options):
    """The sampling values that a chat has which asks for none."""
    chosen = llm.prepare_chat("hello", **options).answers[0].request.sampling
    plain = {"repetition_penalty": 1.0, "min_p": 0.0, "presence_penalty": 0.0}
    names = ("temperature", "top_p", "top_k", *plain)
    found = {name: getattr(chosen, name) for name in names}
    return {name: value for name, value in found.items() if plain.get(name) != value}


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_is_read_whole_and_has_its_own_defaults(released, name):
    llm, witness = released.get(name)
    release = RELEASES[name]
    ids = [i * 9973 % END_ID for i in range(1, 40)]
    assert np.abs(llm.logits(ids) - witness_logits(witness, ids)).max() < 2e-3
    assert (llm.config.max_context, llm.config.is_tied) == (release.context, release.is_tied)
    wanted = release.theta ** -(np.arange(4) / 4)
    assert np.allclose(llm.config.rope.inv_freq_R, wanted, rtol=1e-6)
    assert sampling(llm) == release.defaults
    request = llm.prepare_chat("hello").answers[0].request
    assert request.sampling.stop_ids == (IM_END, END_OF_TEXT)
    assert llm.card.sampling == release.defaults
    assert not [line for line in llm.warnings if "sampling" in line]


def test_another_theta_would_show(released):
    llm, _ = released.get("Qwen3-4B-Instruct-2507")
    other = Release(theta=1e6, context=262_144, defaults=FAST, template=instruct_2507, is_tied=True)
    ids = [i * 9973 % END_ID for i in range(1, 40)]
    assert np.abs(llm.logits(ids) - witness_logits(model_of(other), ids)).max() > 2e-2


def test_instruct_2507_has_no_thinking_mode(released):
    llm, _ = released.get("Qwen3-4B-Instruct-2507")
    with pytest.raises(BadRequest, match="has no thinking mode") as caught:
        llm.prepare_chat("hello", thinking=True)
    assert caught.value.param == "thinking"
    prompt = llm.render_chat("hello", thinking=False)
    assert prompt.text.endswith("<|im_start|>assistant\n")
    assert (prompt.is_thinking, prompt.can_think) == (False, False)
    assert "thinking" not in llm.card.capabilities
    with scripted(llm, by_position([*llm.tokenizer.encode("Tea <b>hot</b>"), IM_END])):
        result = llm.chat("hello")
    assert (result.text, result.reasoning) == ("Tea <b>hot</b>", None)


def test_thinking_2507_begins_inside_its_thoughts_and_cannot_be_told_not_to(released):
    llm, _ = released.get("Qwen3-4B-Thinking-2507")
    prompt = llm.render_chat("hello")
    assert prompt.text.endswith("<|im_start|>assistant\n<think>\n")
    assert (prompt.is_thinking, prompt.is_open) == (True, True)
    with scripted(llm, by_position([*llm.tokenizer.encode("Hm.\n</think>\n\nTea."), IM_END])):
        result = llm.chat("hello")
    assert (result.text, result.reasoning) == ("Tea.", "Hm.")
    with pytest.raises(BadRequest, match="always thinks"):
        llm.prepare_chat("hello", thinking=False)
    assert "thinking" in llm.card.capabilities


def test_a_hybrid_at_rest_has_the_values_of_that_mode(released):
    llm, _ = released.get("Qwen3-0.6B")
    assert sampling(llm) == sampling(llm, thinking=True) == THINKING
    assert sampling(llm, thinking=False) == FAST


@pytest.mark.parametrize(
    ("name", "hints", "wanted"),
    [
        ("Qwen3-4B-Instruct-2507", FAST, FAST),
        ("Qwen3-4B-Thinking-2507", THINKING, THINKING),
        ("Qwen3-Coder-30B-A3B-Instruct", CODER, CODER),
        ("Qwen3-Coder-30B-A3B-Instruct", {}, CODER),
        ("Qwen3-4B-Instruct-2507", {}, FAST),
        ("Qwen3-4B-Thinking-2507", {}, THINKING),
        ("Qwen3-0.6B", THINKING, THINKING),
    ],
)
def test_a_gguf_file_brings_its_defaults_or_has_its_releases(tmp_path, name, hints, wanted):
    release = RELEASES[name]
    keys = {"temperature": "temp", "repetition_penalty": "penalty_repeat"}

    def describe(writer: gguf.GGUFWriter) -> None:
        describe_tokenizer(writer, IM_END)
        writer.add_chat_template(release.template())
        for option, value in hints.items():
            key = f"general.sampling.{keys.get(option, option)}"
            writer.add_int32(key, value) if option == "top_k" else writer.add_float32(key, value)
        if hints:
            writer.add_string("general.sampling.sequence", "kpt")

    llm = LLM(write_gguf(model_of(release), tmp_path / "a.gguf", "F32", describe=describe), n_threads=1, cache=False)
    assert sampling(llm) == wanted
    if name == "Qwen3-0.6B":  # 0.6 in 32 bits is not 0.6 in 64
        assert sampling(llm, thinking=False) == FAST
    assert set(llm.prepare_chat("hello").answers[0].request.sampling.stop_ids) == {IM_END, END_OF_TEXT}
    assert [line for line in llm.warnings if "general.sampling.sequence" in line] == list(llm.warnings[-1:]) * bool(hints)


TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": " Looks. ",
        "parameters": {
            "type": "object",
            "properties": {"where": {"type": "string", "description": " A room. "}, "depth": {"type": "integer", "minimum": 1}},
            "required": ["where"],
        },
    },
}
XML = (
    "<tool_call>\n<function=look>\n<parameter=where>\n 007\n\n</parameter>\n<parameter=depth>\n3\n</parameter>\n</function>\n"
    "</tool_call>"
)


@pytest.fixture(scope="module")
def coder(released):
    return released.get("Qwen3-Coder-480B-A35B-Instruct")[0]


def test_calls_in_coders_form_become_calls_by_their_schema(coder):
    with scripted(coder, by_position([*coder.tokenizer.encode(f"I look.\n{XML}"), IM_END])):
        result = coder.chat("What is there?", tools=[TOOL])
    assert (result.text.strip(), result.finish_reason) == ("I look.", "stop")
    (call,) = result.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("look", {"where": " 007\n", "depth": 3})


def test_the_true_template_lists_tools_as_xml_and_prints_calls_back(coder):
    if coder_template() is None:
        pytest.skip("llama_cpp_templates/Qwen3-Coder.jinja is not there; the source package of llama-cpp-python has it")
    call = {"type": "function", "function": {"name": "look", "arguments": '{"where": "attic", "depth": 3, "more": [1, "a"]}'}}
    messages = [
        {"role": "user", "content": "What is there?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "content": "A samovar."},
    ]
    text = coder.render_chat(messages, tools=[TOOL]).text
    assert text.startswith("<|im_start|>system\nYou are Qwen, a helpful AI assistant that can interact with a computer")
    for part in (
        "<tools>\n<function>\n<name>look</name>\n<description>Looks.</description>\n<parameters>\n<parameter>\n<name>where</name>"
        "\n<type>string</type>\n<description>A room.</description>\n</parameter>",
        "<minimum>1</minimum>",
        "<IMPORTANT>",
        "<tool_call>\n<function=look>\n<parameter=where>\nattic\n</parameter>\n<parameter=depth>\n3\n</parameter>\n",
        '<parameter=more>\n[1, "a"]\n</parameter>\n</function>\n</tool_call>',
        "<tool_response>\nA samovar.\n</tool_response>",
    ):
        assert part in text, f"{part!r} is not in {text}"
    assert text.endswith("<|im_start|>assistant\n")
    assert "<tools>" not in coder.render_chat("hello").text
    with pytest.raises(BadRequest, match="has no thinking mode"):
        coder.prepare_chat("hello", thinking=True)
