"""Tools through `LLM`: what a model writes as calls comes as calls, and a choice that has to be made is made."""

import json

import pytest

from samovar.errors import BadRequest
from samovar.llm.result import ToolCall
from tests.engine.scripted import by_position
from tests.llm.scripted import is_idle, scripted
from tests.text.witnesses import template

QUESTION = "What is in the attic?"
PARAMETERS = {
    "type": "object",
    "properties": {
        "where": {"type": "string"},
        "depth": {"type": "integer", "minimum": 1, "maximum": 9},
        "lamp": {"type": "boolean"},
    },
    "required": ["where", "depth"],
}
LOOK = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": PARAMETERS}}
WAIT = {"type": "function", "function": {"name": "wait"}}
TOOLS = [LOOK, WAIT]
CALL = '<tool_call>\n{"name": "look", "arguments": {"where":"attic",  "depth": 3}}\n</tool_call>'
XML = (
    "<tool_call>\n<function=look>\n<parameter=where>\nattic\n</parameter>\n<parameter=depth>\n3\n</parameter>\n</function>\n"
    "</tool_call>"
)
CALLED = ToolCall(name="look", arguments='{"where":"attic",  "depth": 3}')


@pytest.fixture(scope="module")
def coder_llm(models):
    """A model whose template has Qwen3-Coder's format."""
    llm = models.load(template("qwen3_5_nothink"))
    yield llm
    llm.close()


@pytest.fixture(params=["hybrid", "never", "coder"])
def llm(request):
    return request.getfixturevalue(f"{request.param}_llm")


def says(llm, text):
    """A script in the model's own tokens, tags of calls included."""
    return by_position([*llm.tokenizer.encode(text), llm.tokenizer.eos_id])


def folded(stream):
    """What the deltas of a stream add up to."""
    texts, calls = {"reasoning": "", "content": ""}, []
    for delta in stream:
        if delta.field == "tool_name":
            assert delta.call == len(calls)
            calls.append([delta.text, []])
        elif delta.field == "tool_arguments":
            calls[delta.call][1].append(delta.text)
        else:
            texts[delta.field] += delta.text
    return texts, calls, stream.result


@pytest.mark.parametrize("call", [CALL, XML], ids=["hermes", "coder"])
def test_a_call_comes_apart_from_the_text_in_either_format(llm, call):
    with scripted(llm, says(llm, f"Let me look.\n\n{call}")):
        texts, calls, result = folded(llm.stream_chat(QUESTION, tools=TOOLS, thinking=None, temperature=0))
    assert texts["content"] == result.text == "Let me look."
    ((name, pieces),) = calls
    assert len(pieces) > 3
    assert result.tool_calls == (ToolCall(name=name, arguments="".join(pieces)),)
    assert json.loads(result.tool_calls[0].arguments) == {"where": "attic", "depth": 3}
    assert result.finish_reason == "stop"
    assert is_idle(llm)


def test_without_tools_a_call_is_text(llm):
    with scripted(llm, says(llm, CALL)):
        result = llm.chat(QUESTION, temperature=0)
    assert (result.text, result.tool_calls) == (CALL, ())


def test_a_call_in_open_thoughts_ends_them(hybrid_llm):
    with scripted(hybrid_llm, says(hybrid_llm, f"<think>\nHm.\n{CALL}\n{XML}")):
        result = hybrid_llm.chat(QUESTION, tools=TOOLS, temperature=0)
    assert (result.reasoning, result.text, result.thinking_stopped) == ("Hm.", "", "tool")
    assert result.tool_calls == (CALLED, ToolCall(name="look", arguments='{"where": "attic", "depth": 3}'))


def test_a_quoted_tag_opens_no_call(hybrid_llm):
    tokenizer = hybrid_llm.tokenizer
    quoted = [*tokenizer.encode(f"So: {CALL}", parse_control=False), tokenizer.eos_id]
    with scripted(hybrid_llm, by_position(quoted)):
        result = hybrid_llm.chat(QUESTION, tools=TOOLS, thinking=False, temperature=0)
    assert (result.text, result.tool_calls) == (f"So: {CALL}", ())


def test_one_call_is_all_where_several_may_not_be(llm):
    with scripted(llm, says(llm, f"{CALL}\n{CALL}\nDone.")):
        both = llm.chat(QUESTION, tools=TOOLS, temperature=0)
        one = llm.chat(QUESTION, tools=TOOLS, temperature=0, parallel_tool_calls=False)
    assert (len(both.tool_calls), both.text) == (2, "Done.")
    assert (one.tool_calls, one.text, one.finish_reason) == ((CALLED,), "", "stop")
    assert is_idle(llm)


def test_a_call_that_is_cut_stays_as_far_as_it_came(never_llm):
    n_tokens = len(never_llm.tokenizer.encode(CALL)) - 8
    with scripted(never_llm, says(never_llm, CALL)):
        result = never_llm.chat(QUESTION, tools=TOOLS, temperature=0, max_tokens=n_tokens)
    ((name, arguments),) = [(call.name, call.arguments) for call in result.tool_calls]
    assert (name, result.text, result.finish_reason) == ("look", "", "length")
    assert CALLED.arguments.startswith(arguments)
    assert '"where"' in arguments


def test_stop_strings_end_the_text_and_no_call(never_llm):
    with scripted(never_llm, says(never_llm, f"Let me.\n{CALL}\nattic")):
        result = never_llm.chat(QUESTION, tools=TOOLS, temperature=0, stop=["attic"])
    assert (result.tool_calls, result.stop, result.text) == ((CALLED,), "attic", "Let me.")


def test_history_that_comes_back_is_the_tokens_that_were_written(hybrid_llm):
    llm = hybrid_llm
    asked = [{"role": "user", "content": QUESTION}]
    with scripted(llm, says(llm, f"<think>\nHm.\n</think>\n\nLet me look.\n{CALL}")):
        first = llm.chat(asked, tools=TOOLS, temperature=0)
        llm.settle()
        calls = [
            {"type": "function", "id": "1", "function": {"name": c.name, "arguments": c.arguments}} for c in first.tool_calls
        ]
        answer = {"role": "assistant", "content": first.text, "reasoning_content": first.reasoning, "tool_calls": calls}
        tool = {"role": "tool", "content": "A samovar.", "tool_call_id": "1"}
        second = llm.chat([*asked, answer, tool], tools=TOOLS, temperature=0)
    assert first.tool_calls == (CALLED,)
    assert second.usage.n_cached >= first.usage.n_prompt + first.usage.n_completion - 2
    assert second.cache_miss_reason is None


# Choices


def test_none_keeps_the_prompt_and_bars_calls(llm):
    with scripted(llm, says(llm, CALL)):
        called = llm.chat(QUESTION, tools=TOOLS, temperature=0)
        none = llm.chat(QUESTION, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=30)
    assert (none.usage.n_prompt, none.tool_calls) == (called.usage.n_prompt, ())
    assert 151_657 in called.token_ids
    assert 151_657 not in none.token_ids


def test_only_allowed_tools_are_called(never_llm):
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "wait"}}]}
    with scripted(never_llm, says(never_llm, CALL)):
        result = never_llm.chat(
            QUESTION, tools=TOOLS, temperature=0, tool_choice={"type": "allowed_tools", "allowed_tools": allowed}
        )
    assert (result.text, result.tool_calls) == (CALL, ())


REFUSED = {
    "unknown": ({"tool_choice": {"type": "function", "function": {"name": "fly"}}}, "names 'fly', .*: look, wait"),
    "word": ({"tool_choice": "always"}, "tool_choice is 'always'"),
    "number": ({"tool_choice": 1}, "tool_choice is 1"),
    "form": ({"tool_choice": {"type": "function", "name": "look"}}, "tool_choice is"),
    "allowed": ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, "tool_choice is"),
    "no tools": ({"tool_choice": "required", "tools": None}, "there are no tools"),
    "empty tools": ({"tool_choice": "required", "tools": []}, "there are no tools"),
    "parallel": ({"parallel_tool_calls": "no"}, "parallel_tool_calls is 'no'"),
    "twice": ({"tools": [LOOK, LOOK]}, "tools define 'look' twice"),
    "name": ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "name is 'a b'"),
    "schema": ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}, "parameters is"),
    "strict": ({"tools": [{"type": "function", "function": {"name": "a", "strict": "yes"}}]}, "strict is 'yes'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_choice_is_refused_by_name(never_llm, name):
    options, message = REFUSED[name]
    with pytest.raises(BadRequest, match=message) as caught:
        never_llm.chat(QUESTION, **{"tools": TOOLS} | options)
    assert caught.value.param in ("tools", "tool_choice", "parallel_tool_calls")


def test_a_choice_of_nothing_needs_no_tools(never_llm):
    with scripted(never_llm, says(never_llm, "Hi.")):
        for choice in ("auto", "none", None):
            assert never_llm.chat("Hi", temperature=0, tool_choice=choice, parallel_tool_calls=True).text == "Hi."
