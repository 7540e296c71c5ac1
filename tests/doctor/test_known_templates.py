"""The known-good renderings against the published templates, rendered by transformers, byte for byte."""

import sys
from functools import cache
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from samovar.doctor.conversations import WITHOUT_CONTENT, Conversation, conversations
from samovar.doctor.known_templates import KNOWN_TEMPLATES
from samovar.formats.gguf import read_gguf
from tests.packages import missing
from tests.text.witnesses import template

LLAMA_CPP = Path(sys.prefix) / "llama_cpp_templates"


@cache
def of_llama_cpp(name: str) -> str:
    """A template out of the source package of llama-cpp-python."""
    path = LLAMA_CPP / f"{name}.jinja"
    if not path.exists():
        missing(f"{path} is not there; the source package of llama-cpp-python has it in vendor/llama.cpp/models/templates")
    return path.read_text(encoding="utf-8")


def thinking_2507() -> str:
    """No package has the original: the hybrid's, with the beginning of the answer that Thinking-2507 is known for."""
    source = template("qwen3")
    start = source.rindex("{%- if enable_thinking is defined")
    asked = source.rindex("'<|im_start|>assistant\\n'", 0, start)
    made = source[:asked] + "'<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}"
    assert made.endswith("{{- '<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}")
    return made


SOURCES = {
    "qwen3": lambda: template("qwen3"),
    "qwen3-instruct-2507": lambda: template("qwen3_instruct_2507"),
    "qwen3-thinking-2507": thinking_2507,
    "qwen3-coder": lambda: of_llama_cpp("Qwen3-Coder"),
    "qwen2.5": lambda: template("qwen2_5"),
}
OF_LLAMA_CPP = {"qwen3": "Qwen-Qwen3-0.6B", "qwen2.5": "Qwen-Qwen2.5-7B-Instruct"}


def theirs(source: str, conversation: Conversation) -> str:
    options = {} if conversation.thinking is None else {"enable_thinking": conversation.thinking}
    rendered = render_jinja_template(
        [[dict(message) for message in conversation.messages]],
        tools=[dict(tool) for tool in conversation.tools] or None,
        chat_template=source,
        add_generation_prompt=conversation.asks_for_answer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        **options,
    )
    return rendered[0][0]


def compare(name: str, source: str, *, but: str = "") -> int:
    known, n_compared = KNOWN_TEMPLATES[name], 0
    for conversation in conversations():
        if conversation.title == but or (conversation.needs_tools and not known.takes_tools):
            continue
        assert known.render(conversation) == theirs(source, conversation), conversation.title
        n_compared += 1
    return n_compared


@pytest.mark.parametrize("name", SOURCES)
def test_known_renderings_are_those_of_the_published_templates(name):
    assert compare(name, SOURCES[name]()) >= 60


@pytest.mark.parametrize("name", OF_LLAMA_CPP)
def test_known_renderings_are_those_of_the_templates_that_llama_cpp_carries(name):
    # the one of Qwen3-0.6B is that of its first release
    assert compare(name, of_llama_cpp(OF_LLAMA_CPP[name]), but=WITHOUT_CONTENT) >= 60


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fixture"), [("smollm2", "smollm2"), ("qwen2.5", "qwen_coder")])
def test_known_renderings_are_those_of_the_templates_in_real_files(name, fixture, request):
    source = read_gguf(request.getfixturevalue(fixture)).metadata["tokenizer.chat_template"]
    assert compare(name, source) >= 30


def test_every_known_rendering_is_held_against_a_published_one():
    assert KNOWN_TEMPLATES.keys() == SOURCES.keys() | {"smollm2"}
