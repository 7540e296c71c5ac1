"""Templates against transformers, byte for byte; and what templates and messages may not do."""

import datetime as dt
import json
import re
import tracemalloc
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from samovar.errors import BadRequest, TemplateError
from samovar.formats.gguf import read_gguf
from samovar.text.chat_template import ChatTemplate
from tests.text.conversations import PLAIN, TOOLS, WITH_CALLS, call
from tests.text.witnesses import QWEN3_CONTROL_TOKENS, template

SPECIAL = {"bos_token": "<s>", "eos_token": "<|im_end|>"}
PUBLISHED = (
    "gemma3",
    "phi3",
    "phi3_5",
    "qwen3",
    "qwen2_5",
    "qwen3_instruct_2507",
    "qwen3_5_think",
    "qwen3_vl",
    "llama3",
    "llama3_1",
    "llama3_2",
    "deepseek_r1_distill",
)
HI = [{"role": "user", "content": "Hi"}]


def ours(source: str, **options) -> ChatTemplate:
    return ChatTemplate(source, special_tokens=SPECIAL, control_tokens=QWEN3_CONTROL_TOKENS, origin="model.gguf", **options)


def theirs(source: str, messages, **options) -> str:
    """What transformers prints."""
    rendered = render_jinja_template([messages], chat_template=source, **{"add_generation_prompt": True, **SPECIAL, **options})
    return rendered[0][0]


@cache
def qwen3_template() -> ChatTemplate:
    return ours(template("qwen3"))


def compare(source: str, name: str) -> int:
    """Check all conversations that the template takes; how many there were."""
    made = ours(source)
    n_compared = 0
    conversations = PLAIN | (WITH_CALLS if "tool_calls" in source else {})
    for title, messages in conversations.items():
        for tools in (None, TOOLS) if "tools" in made.variables else (None,):
            for options in ({}, {"enable_thinking": True}, {"enable_thinking": False}, {"add_generation_prompt": False}):
                try:
                    expected = theirs(source, messages, tools=tools, **options)
                except Exception:  # the template refuses these messages, with any error it likes
                    with pytest.raises(TemplateError):
                        made.render(messages, tools=tools, **options)
                    continue
                assert made.render(messages, tools=tools, **options).text == expected, f"{name}: {title}"
                n_compared += 1
    return n_compared


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_templates_print_what_transformers_prints(name):
    assert compare(template(name), name) >= 20


@pytest.mark.slow
def test_the_templates_of_real_files_print_what_transformers_prints(smollm2, qwen_coder):
    for path in (smollm2, qwen_coder):
        assert compare(read_gguf(path).metadata["tokenizer.chat_template"], path.name) >= 20


HELPERS = {
    "tojson": "{{ tools | tojson }}|{{ tools | tojson(indent=2) }}|{{ messages | tojson(ensure_ascii=True) }}",
    "separators": "{{ messages | tojson(separators=(',', ':')) }}",
    "sorted": "{{ messages | tojson(sort_keys=true) }}",
    "generation": "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}{{ x }}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{% continue %}x{% endfor %}",
    "blocks": "a\n  {% if true %}\n b\n  {% endif %}\n{%- set ns = namespace(a=1) %}{% set ns.a = 2 %} {{ ns.a }}\n",
    "time": "{{ strftime_now('%Y') }}",
    "dict": "{{ dict(a=1) }}{{ dict.fromkeys([1]) }}{{ range(3) | list }}",
    "undefined": "{{ nothing }}{{ messages[0].nothing is defined }}{{ documents is none }}{{ tools is none }}",
    "macro": "{% macro f(x) %}[{{ x | upper | trim }}]{% endmacro %}{{ f(messages[0].content) }}{{ '%s %d' | format('a', 3) }}",
    "reasoning": "{{ messages[0].thinking }}{{ messages[0].reasoning_content }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HELPERS)
def test_helpers_print_what_those_of_transformers_print(name):
    source = HELPERS[name] + "{# tool_calls #}"
    tools = TOOLS if "tools" in source else None
    for messages in [*PLAIN.values(), *WITH_CALLS.values()]:
        if "messages | tojson" in source and any(m.keys() & {"reasoning_content", "tool_calls"} for m in messages):
            continue  # the order of keys in a whole message is the client's there
        assert ours(source).render(messages, tools=tools).text == theirs(source, messages, tools=tools)


def test_arguments_as_text_stay_as_they_are_where_the_template_prints_text():
    text = '{"city":  "Paris"}'
    messages = [*HI, {"role": "assistant", "content": "", "tool_calls": [call("f", text)]}]
    assert ours(template("qwen3")).render(messages).text == theirs(template("qwen3"), messages)
    assert text in ours(template("qwen3")).render(messages).text


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_5_think"])
def test_arguments_as_text_are_parsed_where_the_template_needs_an_object(name):
    as_text = [*HI, {"role": "assistant", "content": "", "tool_calls": [call("f", '{"city":"Paris"}')]}]
    as_object = [*HI, {"role": "assistant", "content": "", "tool_calls": [call("f", {"city": "Paris"})]}]
    assert ours(template(name)).render(as_text).text == theirs(template(name), as_object)
    with pytest.raises(BadRequest, match=r"messages\[1\]\.tool_calls\[0\]\.function\.arguments is no JSON"):
        ours(template(name)).render([*HI, {"role": "assistant", "tool_calls": [call("f", "{city")]}])
    with pytest.raises(BadRequest, match="is a JSON list"):
        ours(template(name)).render([*HI, {"role": "assistant", "tool_calls": [call("f", "[]")]}])


def test_time_stands_still_and_comes_from_the_clock():
    made = ours("{{ strftime_now('%d %b %Y') }}", clock=lambda: dt.datetime(2025, 4, 29))
    assert made.render(HI).text == "29 Apr 2025"


HOSTILE = {
    "class": ("{{ ''.__class__ }}", "attribute '__class__' of a str"),
    "mro": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "attribute '__class__'"),
    "item": ("{{ ''['__class__'] }}", "attribute '__class__'"),
    "attr": ("{{ ''|attr('__class__') }}", "attribute '__class__'"),
    "globals": ("{{ cycler.__init__.__globals__ }}", "attribute '__init__'"),
    "function": ("{{ raise_exception.__globals__ }}", "attribute '__globals__'"),
    "format": ("{{ '{0.__class__}'.format(1) }}", "attribute '__class__' of a int"),
    "append": ("{{ messages.append(1) }}", "attribute 'append' of a list"),
    "update": ("{{ messages[0].update(a=1) }}", "attribute 'update' of a dict"),
    "namespace": ("{% set n = namespace(_a=1) %}", "'_a' on a namespace"),
    "range": ("{{ range(10**9) }}", "Range too big"),
    "repeat": ("{{ 'a' * 10**9 }}", "repeats, pads or raises by 1000000000"),
    "pad": ("{{ 'a'.ljust(10**9) }}", "repeats, pads or raises by 1000000000"),
    "width": ("{{ '%999999999d' % 1 }}", "formats '%999999999d'"),
    "format width": ("{{ '{:999999999}'.format(1) }}", "formats '{:999999999}'"),
    "power": ("{{ 9 ** 10**8 }}", "repeats, pads or raises by 3486784401"),
    "nested width": ("{{ '{:{}}'.format(1, 10**9) }}", "pads or raises by 1000000000"),
    "bytes": ("{{ 'a'.encode().ljust(10**9) }}", "pads or raises by 1000000000"),
    "integer": ("{{ (1).to_bytes(10**9) }}", "pads or raises by 1000000000"),
    "center": ("{{ 'a'|center(10**9) }}", "pads or raises by 1000000000"),
    "indent": ("{{ 'a'|indent(10**9) }}", "pads or raises by 1000000000"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth"),
    "include": ("{% include '/etc/passwd' %}", "no loader"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_stopped_with_one_line(name):
    source, message = HOSTILE[name]
    with pytest.raises(TemplateError) as caught:
        ours(source).render(HI)
    assert message in str(caught.value)
    assert str(caught.value).startswith("the model's chat template")
    assert "\n" not in str(caught.value)


DOUBLING = "{% set ns = namespace(a='xx') %}{% for i in range(99) %}BODY{% endfor %}"
LARGE = {
    "add": DOUBLING.replace("BODY", "{% set ns.a = ns.a + ns.a %}"),
    "tilde": DOUBLING.replace("BODY", "{% set ns.a = ns.a ~ ns.a %}"),
    "join": DOUBLING.replace("BODY", "{% set ns.a = [ns.a, ns.a]|join %}"),
    "join method": DOUBLING.replace("BODY", "{% set ns.a = ns.a.join([ns.a, ns.a]) %}"),
    "replace": DOUBLING.replace("BODY", "{% set ns.a = ns.a|replace('x', 'xxxx') %}"),
    "replace method": DOUBLING.replace("BODY", "{% set ns.a = ns.a.replace('x', 'xxxx') %}"),
    "format": DOUBLING.replace("BODY", "{% set ns.a = '{0}{0}'.format(ns.a) %}"),
    "percent": DOUBLING.replace("BODY", "{% set ns.a = '%s%s' % (ns.a, ns.a) %}"),
    "format filter": DOUBLING.replace("BODY", "{% set ns.a = '%s%s'|format(ns.a, ns.a) %}"),
    "set block": DOUBLING.replace("BODY", "{% set b %}{{ ns.a }}{{ ns.a }}{% endset %}{% set ns.a = b %}"),
    "macro": "{% macro m(a) %}{{ a }}{{ a }}{% endmacro %}" + DOUBLING.replace("BODY", "{% set ns.a = m(ns.a) %}"),
    "list": "{% set ns = namespace(a=[1]) %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "print": "{% set ns = namespace(a=[1]) %}{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a }}",
    "data": "{% set a = ['x' * 999999] * 9999 %}{{ a|string|length }}",
    "repeat": "{{ (range(99999)|list|string * 3000)|length }}",
    "many": "{% set ns = namespace(a=[]) %}{% for i in range(9999) %}{% set ns.a = ns.a + ['x' * 999999] %}{% endfor %}",
    "tojson": "{{ (range(9999)|list)|tojson(indent=9999) }}",
}


@pytest.mark.parametrize("name", LARGE)
def test_a_template_that_makes_huge_texts_is_stopped_before_it_holds_them(name):
    tracemalloc.start()
    try:
        with pytest.raises(
            TemplateError, match=r"larger than 16777216 characters|268435456 characters in all|nests data too deep"
        ):
            ours(LARGE[name]).render(HI)
        assert tracemalloc.get_traced_memory()[1] < 400e6
    finally:
        tracemalloc.stop()


ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% set c = 1 %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
]


@pytest.mark.parametrize("source", ENDLESS)
def test_a_template_without_end_is_stopped(source, monkeypatch):
    monkeypatch.setattr("samovar.text.template_sandbox.TIME_LIMIT_S", 0.2)
    with pytest.raises(TemplateError, match=r"runs for more than 0\.2 s"):
        ours(source).render(HI)


def test_a_template_that_prints_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr("samovar.text.template_sandbox.OUTPUT_LIMIT", 1000)
    with pytest.raises(TemplateError, match="prints more than 1000 characters"):
        ours("{% for a in range(99999) %}aaaaaaaaaa{% endfor %}").render(HI)


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{", "{% for x in y %}", "{% unknown %}", "{{ a | nofilter }}", "(" * 3 + "{{" + "(" * 2000]
)
def test_an_unsound_template_is_refused_when_it_is_read(source):
    with pytest.raises(TemplateError, match=r"model\.gguf: the chat template is unsound"):
        ours(source)


def test_what_a_template_raises_comes_through():
    with pytest.raises(TemplateError, match="refuses these messages: Roles must alternate") as caught:
        ours("{{ raise_exception('Roles must\\nalternate') }}").render(HI)
    assert caught.value.param == "messages"


def test_options_are_honoured_or_refused_by_name():
    made = ours("{{ enable_thinking }}{{ reasoning_effort }}")
    assert made.render(HI, enable_thinking=False, reasoning_effort="low").text == "Falselow"
    with pytest.raises(BadRequest, match=r"'tokenize' is no option.*takes: enable_thinking, reasoning_effort"):
        made.render(HI, tokenize=True)
    with pytest.raises(BadRequest, match="'date_string' is no option"):
        made.render(HI, date_string="today")


def test_tools_are_refused_where_the_template_has_no_place_for_them():
    with pytest.raises(BadRequest, match="no place for tools"):
        ours(template("llama3")).render(HI, tools=TOOLS)
    with pytest.raises(BadRequest, match="no place for tool_calls"):
        ours(template("llama3")).render(WITH_CALLS["a call"])


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_prints_as_in_transformers(system, user):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    assert qwen3_template().render(messages).text == theirs(qwen3_template().source, messages)


def test_variables_are_those_the_template_reads():
    assert {"messages", "tools", "enable_thinking"} <= ours(template("qwen3")).variables
    assert "enable_thinking" not in ours(template("qwen2_5")).variables
    assert re.search("tool_call", json.dumps(sorted(ours(template("qwen3")).variables))) is None
