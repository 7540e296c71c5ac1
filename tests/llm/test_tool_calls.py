"""Tools through `LLM`: what a model writes as calls comes as calls, and a choice that has to be made is made."""

import json

import jsonschema
import pytest

from samovar.errors import BadRequest
from samovar.llm import LLM
from samovar.llm.result import ToolCall
from tests.engine.scripted import by_position
from tests.llm.scripted import is_idle, scripted
from tests.real_models import QWEN_CODER, real_model
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
    assert (result.tool_calls, result.stop, result.text) == ((CALLED,), "attic", "Let me.\n")


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


CHOOSE = {
    "type": "object",
    "properties": {"where": {"enum": ["attic", "cellar"]}, "depth": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["where", "depth"],
    "additionalProperties": False,
}
PICK = {"type": "function", "function": {"name": "pick", "parameters": CHOOSE}}
NAMED = {"type": "function", "function": {"name": "pick"}}


def will_not(llm, thoughts=""):
    """A script that thinks, never closes its thoughts, and wants to go on in words for ever."""
    ids = llm.tokenizer.encode(f"{thoughts} I will not, I would rather talk about tea. ")
    return lambda _, generated: ids[len(generated) % len(ids)]


def checked(result, schema=CHOOSE):
    """The arguments of the calls in an answer that holds nothing else and has ended; they match the schema."""
    assert (result.text, result.finish_reason, result.is_grammar_complete) == ("", "stop", True)
    found = [json.loads(call.arguments) for call in result.tool_calls if call.name == "pick"]
    for arguments in found:
        jsonschema.validate(arguments, schema)
    return found


@pytest.mark.parametrize("choice", [pytest.param(NAMED, marks=pytest.mark.slow), "required"], ids=["named", "required"])
def test_a_call_that_has_to_be_made_is_made_whatever_the_model_wants(llm, choice):
    with scripted(llm, will_not(llm)):
        result = llm.chat(
            QUESTION, tools=[PICK, WAIT], tool_choice=choice, parallel_tool_calls=False, temperature=0, max_tokens=200,
            **({"thinking": False} if llm._text.template_source == template("qwen3") else {}),
        )  # fmt: skip
    assert len(result.tool_calls) == 1
    assert checked(result) or choice == "required"
    assert result.reasoning is None


@pytest.mark.parametrize("kind", ["hybrid", "always"])
def test_thoughts_come_first_and_the_budget_ends_them_before_a_call(request, kind):
    llm = request.getfixturevalue(f"{kind}_llm")
    with scripted(llm, will_not(llm, "<think>\n" if kind == "hybrid" else "")):
        result = llm.chat(QUESTION, tools=[PICK, WAIT], tool_choice=NAMED, thinking_budget=60, temperature=0, max_tokens=400)
    assert len(checked(result)) == 1
    assert result.thinking_stopped == "budget"
    assert "I will not" in result.reasoning


@pytest.mark.parametrize("kind", ["hybrid", "always"])
def test_a_call_in_thoughts_that_need_one_waits_for_their_end(request, kind):
    llm = request.getfixturevalue(f"{kind}_llm")
    opening = "<think>\n" if kind == "hybrid" else ""
    call = '<tool_call>\n{"name": "pick", "arguments": {"where": "cellar", "depth": 4}}\n</tool_call>'
    script = llm.tokenizer.encode(f"{opening}Hm.\n</think>\n\n{call}")
    with scripted(llm, by_position([*script, llm.tokenizer.eos_id])):
        result = llm.chat(QUESTION, tools=[PICK, WAIT], tool_choice=NAMED, temperature=0)
    assert checked(result) == [{"where": "cellar", "depth": 4}]
    assert (result.reasoning, result.thinking_stopped) == ("Hm.", "natural")
    with scripted(llm, by_position(llm.tokenizer.encode(f"{opening}Hm.\n{call}"))):
        cut = llm.chat(QUESTION, tools=[PICK, WAIT], tool_choice=NAMED, temperature=0, thinking_budget=80, max_tokens=400)
    assert len(checked(cut)) == 1


def test_several_calls_may_have_to_be_made(never_llm):
    call = '<tool_call>\n{"name": "pick", "arguments": {"where": "attic", "depth": 1}}\n</tool_call>'
    script = [*never_llm.tokenizer.encode(f"{call}\n{call}"), never_llm.tokenizer.eos_id]
    with scripted(never_llm, by_position(script)):
        two = never_llm.chat(QUESTION, tools=[PICK, WAIT], tool_choice="required", temperature=0)
        one = never_llm.chat(QUESTION, tools=[PICK, WAIT], tool_choice="required", temperature=0, parallel_tool_calls=False)
    assert [len(checked(two)), len(checked(one))] == [2, 1]


def test_a_strict_tool_is_called_by_its_schema_and_text_is_free(llm):
    strict = {"type": "function", "function": {**PICK["function"], "strict": True}}
    is_coder = "<function=" in llm._text.template_source
    wrong = (
        "<tool_call>\n<function=pick>\n<parameter=where>\nroof\n</parameter>\n</function>\n</tool_call>"
        if is_coder
        else '<tool_call>\n{"name": "pick", "arguments": {"where": "roof"}}\n</tool_call>'
    )
    options = {"temperature": 0, "max_tokens": 200}
    if llm._text.template_source == template("qwen3"):
        options["thinking"] = False
    with scripted(llm, says(llm, f"I look <there>.\n{wrong}")):
        free = llm.chat(QUESTION, tools=[PICK], **options)
        held = llm.chat(QUESTION, tools=[strict], parallel_tool_calls=False, **options)
    assert json.loads(free.tool_calls[0].arguments) == {"where": "roof"}
    assert held.text == "I look <there>."
    ((name, arguments),) = [(call.name, json.loads(call.arguments)) for call in held.tool_calls]
    assert name == "pick"
    jsonschema.validate(arguments, CHOOSE)
    with scripted(llm, says(llm, "Only text, <b>really</b>.")):
        assert llm.chat(QUESTION, tools=[strict], **options).text == "Only text, <b>really</b>."


def test_strict_is_not_shown_to_the_model(never_llm):
    shown = [
        never_llm.prepare_chat(QUESTION, tools=[{"type": "function", "function": {**WAIT["function"], **more}}]).n_prompt
        for more in ({}, {"strict": True}, {"strict": None, "description": None})
    ]
    assert len(set(shown)) == 1


@pytest.mark.parametrize(
    "wanted", [{"json_schema": CHOOSE}, {"json_object": True}, {"regex": "yes|no"}, {"choices": ["yes", "no"]}], ids=str
)
def test_an_answer_is_a_call_or_matches_what_is_asked_for(never_llm, wanted):
    call = '<tool_call>\n{"name": "pick", "arguments": {"where": "attic", "depth": 1}}\n</tool_call>'
    with scripted(never_llm, says(never_llm, call)):
        called = never_llm.chat(QUESTION, tools=[PICK], temperature=0, max_tokens=100, **wanted)
    text = '{"where":"attic","depth":7}' if "json_schema" in wanted else "{}" if "json_object" in wanted else "no"
    with scripted(never_llm, says(never_llm, text)):
        answered = never_llm.chat(QUESTION, tools=[PICK], temperature=0, max_tokens=100, **wanted)
        none = never_llm.chat(QUESTION, tools=[PICK], temperature=0, max_tokens=100, tool_choice="none", **wanted)
    assert checked(called) == [{"where": "attic", "depth": 1}]
    assert (answered.text, answered.tool_calls, answered.is_grammar_complete) == (text, (), True)
    assert (none.text, none.tool_calls) == (text, ())


CANNOT = {
    "grammar": ({"lark": 'start: "x"'}, "lark is a grammar of its own"),
    "min_tokens": ({"tool_choice": "required", "min_tokens": 5}, "min_tokens is given"),
    "ignore_eos": ({"tool_choice": "required", "ignore_eos": True}, "ignore_eos is on"),
    "schema": (
        {"tool_choice": "required", "tools": [{"function": {"name": "f", "parameters": {"type": "object", "not": {}}}}]},
        "what the tools' schemas ask for is refused",
    ),
    "too much": (
        {
            "tool_choice": "required",
            "tools": [{"function": {"name": "f", "parameters": {"properties": {f"p{i}": {} for i in range(300)}}}}],
        },
        "the tool 'f' cannot be held to its schema: an object in it has 300 optional properties",
    ),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_be_combined_with_calls_is_refused_by_name(never_llm, name):
    options, message = CANNOT[name]
    with pytest.raises(BadRequest, match=message):
        never_llm.chat(QUESTION, **{"tools": [PICK]} | options)


@pytest.mark.slow
def test_a_real_model_makes_the_calls_that_it_has_to_make():
    llm = LLM(real_model(QWEN_CODER), max_context=2048)
    try:
        weather = {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 40},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "days", "unit"],
            "additionalProperties": False,
        }
        tools = [
            {"type": "function", "function": {"name": "get_weather", "description": "A forecast.", "parameters": weather}},
            {"type": "function", "function": {"name": "tell_time", "description": "The time.", "parameters": None}},
        ]
        named = {"type": "function", "function": {"name": "get_weather"}}
        asked = "What will the weather be like in Kyoto over the next 3 days, in celsius?"
        for choice in ("required", named):
            for seed in range(3):
                result = llm.chat(asked, tools=tools, tool_choice=choice, seed=seed, max_tokens=300, parallel_tool_calls=False)
                ((name, arguments),) = [(call.name, json.loads(call.arguments)) for call in result.tool_calls]
                assert (result.text, result.finish_reason) == ("", "stop")
                jsonschema.validate(arguments, weather if name == "get_weather" else {"maxProperties": 0})
                assert name == "get_weather" or choice == "required"
        sure = llm.chat(asked, tools=tools, tool_choice="required", temperature=0, max_tokens=300, parallel_tool_calls=False)
        assert sure.tool_calls[0].name == "get_weather"
        assert json.loads(sure.tool_calls[0].arguments)["city"].startswith("Kyoto")
    finally:
        llm.close()
