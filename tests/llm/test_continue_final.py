"""Answers that are begun by the caller: the prompt is the template's rendering up to where the message's text ends."""

import copy
import dataclasses

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from samovar.errors import BadRequest
from samovar.llm.model_text import RenderSettings
from tests.engine.scripted import by_position
from tests.llm.scripted import scripted
from tests.text.conversations import TOOLS
from tests.text.witnesses import template

PUBLISHED = (
    "qwen3",
    "qwen2_5",
    "qwen3_instruct_2507",
    "qwen3_5_think",
    "qwen3_vl",
    "llama3",
    "llama3_1",
    "llama3_2",
    "phi3",
    "lfm2",
)
BEGUN = [
    "The water", "The water ", "The water\n", "  The water is\n\n", "a", "im_end", "user", "assistant", "Was it\n\nhers? She ",
    "```python\nprint('x')\n", "<|im_end|> is a tag", "é 東京 🙂", "{{ messages }} {% if %}", "She said: <tool_call> ",
]  # fmt: skip
SPECIAL = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
BEFORE = [{"role": "user", "content": "The water, a user, an assistant"}]


def begun(text, before=BEFORE):
    return [*before, {"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def model_texts(models):
    """The tokenizer with each of the templates, and a beginning of text, which some of them print."""

    def make(name):
        text = models.text(template(name))
        tokenizer = copy.copy(text.tokenizer)
        tokenizer.special_tokens = SPECIAL
        return dataclasses.replace(text, tokenizer=tokenizer)

    return make


def theirs(source, messages, **options):
    return render_jinja_template([messages], chat_template=source, continue_final_message=True, **SPECIAL, **options)[0][0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_prompts_are_those_of_transformers(model_texts, name):
    text = model_texts(name)
    earlier = [*BEFORE, {"role": "assistant", "content": "The water"}, *BEFORE]
    for before in (BEFORE, earlier):
        for content in BEGUN:
            messages = begun(content, before)
            assert text.render_continued(messages, RenderSettings()).text == theirs(template(name), messages), content


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "llama3_1"])
def test_tools_are_printed_as_transformers_prints_them(model_texts, name):
    messages = begun("The water")
    assert model_texts(name).render_continued(messages, RenderSettings(tools=TOOLS)).text == theirs(
        template(name), messages, tools=TOOLS
    )


@pytest.mark.parametrize("name", ["qwen3", "qwen3_instruct_2507", "qwen2_5"])
@pytest.mark.parametrize("content", BEGUN)
def test_the_prompt_is_the_templates_own_rendering_cut_after_the_text(model_texts, name, content):
    text = model_texts(name)
    whole = text.template.render(begun(content), add_generation_prompt=False).text
    cut = text.render_continued(begun(content), RenderSettings()).text
    assert whole.startswith(cut.rstrip())
    assert cut.rstrip().endswith(content.strip())
    assert whole[len(cut.rstrip()) :].strip() == "<|im_end|>"


def test_thoughts_that_were_given_stay_before_the_text(model_texts):
    text = model_texts("qwen3")
    tail = "<think>\nHm.\n</think>\n\nThe water"
    assert text.render_continued(begun(tail), RenderSettings()).text.endswith(f"assistant\n{tail}")
    apart = [*BEFORE, {"role": "assistant", "reasoning_content": "Hm.", "content": "The water"}]
    assert text.render_continued(apart, RenderSettings()).text.endswith(f"assistant\n{tail}")


def test_control_tokens_in_the_text_stay_ordinary_text(model_texts):
    text = model_texts("qwen3")
    prompt = text.render_continued(begun("<|im_end|> and <|im_start|> are tags"), RenderSettings())
    ids = [text.tokenizer.control_tokens[token] for token in ("<|im_end|>", "<|im_start|>")]
    assert [prompt.ids.count(i) for i in ids] == [1, 2]  # the template's own
    assert text.tokenizer.decode(prompt.ids) == prompt.text


def test_the_answer_goes_on_where_the_message_ends(hybrid_llm):
    script = [*hybrid_llm.tokenizer.encode(" is <think>hot</think>."), hybrid_llm.tokenizer.eos_id]
    with scripted(hybrid_llm, by_position(script)):
        stream = hybrid_llm.stream_chat(begun("The water"), continue_final=True, temperature=0)
        shown = "".join(delta.text for delta in stream)
        result = hybrid_llm.chat(begun("The water"), continue_final=True, temperature=0)
    assert shown == result.text == " is <think>hot</think>."
    assert (result.reasoning, result.thinking_stopped, result.usage.n_thinking) == (None, None, 0)


@pytest.mark.parametrize(
    "messages",
    [
        [], BEFORE, "The water", begun(""), begun(" \n"), begun(None), begun([{"type": "text", "text": "x"}]), [3],
        [*BEFORE, {"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
    ],
)  # fmt: skip
def test_only_an_assistants_text_can_be_continued(hybrid_llm, messages):
    with pytest.raises(BadRequest):
        hybrid_llm.chat(messages, continue_final=True)


@pytest.mark.parametrize("options", [{"thinking": True}, {"thinking_budget": 5}])
def test_thinking_is_refused_by_name(hybrid_llm, options):
    with pytest.raises(BadRequest, match="no thoughts") as caught:
        hybrid_llm.chat(begun("The water"), continue_final=True, **options)
    assert caught.value.param == next(iter(options))
    assert hybrid_llm.chat(begun("The water"), continue_final=True, thinking=False, max_tokens=1).reasoning is None


def test_a_template_that_leaves_the_message_out_is_named(models):
    silent = models.text("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(BadRequest, match="leaves the last message out"):
        silent.render_continued(begun("The water"), RenderSettings())
