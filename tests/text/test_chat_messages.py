"""What clients send: accepted as it is meant, or refused by name."""

import pytest

from samovar.errors import BadRequest
from samovar.text.chat_messages import read_messages, read_tools
from tests.text.conversations import call

USER = {"role": "user", "content": "a"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def read(*messages: object):
    return read_messages(messages, parse_arguments=False)


def test_developer_is_system_and_text_parts_become_lines():
    assert read({"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}) == [
        {"role": "system", "content": "a\nb"}
    ]


def test_reasoning_comes_under_the_names_that_templates_read():
    for key in ("reasoning", "reasoning_content"):
        (message,) = read({"role": "assistant", "content": "b", key: "hm", "refusal": None})
        assert message == {"role": "assistant", "content": "b", "reasoning_content": "hm", "thinking": "hm"}


def test_keys_that_say_nothing_are_those_of_a_client_that_sends_its_own_object_back():
    said = {"role": "assistant", "content": "b", "audio": None, "function_call": None, "annotations": [], "tool_calls": None}
    assert read(said) == [{"role": "assistant", "content": "b"}]


def test_results_come_in_the_order_of_their_calls():
    calls = {"role": "assistant", "tool_calls": [call("f", "{}", id=name) for name in "abc"]}
    results = [{"role": "tool", "content": name.upper(), "tool_call_id": name} for name in "cab"]
    contents = [message["content"] for message in read(calls, *results, USER, calls, *reversed(results))]
    assert contents == [None, "A", "B", "C", USER["content"], None, "A", "B", "C"]


def test_content_of_a_call_may_be_missing_and_that_of_an_answer_is_empty_then():
    assert read({"role": "assistant", "tool_calls": [call("f", "{}")]})[0]["content"] is None
    assert read({"role": "assistant", "content": None})[0]["content"] == ""


def test_both_forms_of_a_call_are_kept_as_they_are():
    bare = {"name": "f", "arguments": {"a": 1}}
    (message,) = read({"role": "assistant", "content": "", "tool_calls": [call("f", "{}", id="1", index=0), bare]})
    assert message["tool_calls"] == [call("f", "{}", id="1", index=0), bare]


@pytest.mark.parametrize("words", [{"tool_call_id": "c"}, {"id": "c", "extra": {"function_id": "c"}}, {"id": "c", "extra": {}}])
def test_a_result_names_its_call_in_the_words_of_openai_or_qwen_agent(words):
    result = {"role": "tool", "content": "sun"}
    assert read(result | words) == [result | {"tool_call_id": "c"}]
    with pytest.raises(BadRequest, match="they differ"):
        read(result | {"id": "c", "tool_call_id": "d"})
    with pytest.raises(BadRequest, match=r"extra is .*; expected an object with function_id alone"):
        read(result | {"id": "c", "extra": {"function_id": "c", "weight": 1}})


def test_what_is_read_is_a_copy():
    arguments = {"a": [1]}
    (message,) = read({"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": arguments}]})
    message["tool_calls"][0]["arguments"]["a"].append(2)
    assert arguments == {"a": [1]}


def test_no_tools_are_none():
    assert read_tools(None) is None
    assert read_tools([]) is None
    assert read_tools((TOOL,)) == [TOOL]


BAD_MESSAGES = {
    "empty": ([], "messages is empty"),
    "text": ("hi", "messages is a str"),
    "no object": (["hi"], r"messages\[0\] is a str"),
    "no role": ([{"content": "a"}], r"messages\[0\].role is None"),
    "odd role": ([USER, {"role": "bot", "content": "a"}], r"messages\[1\].role is 'bot'"),
    "role no text": ([{"role": 1}], r"role is 1"),
    "unknown key": ([USER | {"weight": 1, "audio": 2}], r"messages\[0\] has keys .* user does not take: audio, weight"),
    "calls of a user": ([USER | {"tool_calls": []}], "user does not take: tool_calls"),
    "id of a user": ([USER | {"tool_call_id": "1"}], "user does not take: tool_call_id"),
    "thoughts of a user": ([USER | {"reasoning": "x"}], "user does not take: reasoning"),
    "no content": ([{"role": "user"}], r"messages\[0\].content is missing"),
    "content null": ([{"role": "tool", "content": None}], "content is missing"),
    "content number": ([{"role": "user", "content": 1}], r"content is a int"),
    "image": ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], r"content\[0\].type is 'image_url'"),
    "part text": ([{"role": "user", "content": ["a"]}], r"content\[0\] is a str"),
    "part without text": ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\].text is a NoneType"),
    "part with more": ([{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}], "text part does not take: x"),
    "name number": ([USER | {"name": 1}], "name is a int"),
    "result of no call": (
        [{"role": "assistant", "tool_calls": [call("f", {}, id="a")]}, {"role": "tool", "content": "", "tool_call_id": "b"}],
        r"messages\[1\].tool_call_id is 'b', which is none of the calls before it: a",
    ),
    "refusal": ([{"role": "assistant", "content": "a", "refusal": "no"}], "refusal is set"),
    "two thoughts": ([{"role": "assistant", "content": "a", "reasoning": "b", "reasoning_content": "c"}], "they differ"),
    "thoughts number": ([{"role": "assistant", "content": "a", "reasoning": 1}], "reasoning is a int"),
    "calls text": ([{"role": "assistant", "tool_calls": "f"}], "tool_calls is a str"),
    "call text": ([{"role": "assistant", "tool_calls": ["f"]}], r"tool_calls\[0\] is a str"),
    "call type": ([{"role": "assistant", "tool_calls": [{"type": "custom", "function": {}}]}], "type is 'custom'"),
    "call name": ([{"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}], "function.name is missing"),
    "call arguments": ([{"role": "assistant", "tool_calls": [call("f", None)]}], "arguments is None"),
    "call with more": ([{"role": "assistant", "tool_calls": [call("f", {}, x=1)]}], "tool call does not take: x"),
    "call object": ([{"role": "assistant", "tool_calls": [call("f", {"a": object()})]}], r"arguments.a is a object"),
    "call key": ([{"role": "assistant", "tool_calls": [call("f", {1: 2})]}], "key of type int"),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_other_messages_are_refused_by_name(name):
    messages, message = BAD_MESSAGES[name]
    with pytest.raises(BadRequest, match=message) as caught:
        read_messages(messages, parse_arguments=False)
    assert caught.value.param == "messages"


BAD_TOOLS = {
    "text": ("f", "tools is a str"),
    "no object": (["f"], r"tools\[0\] is a str"),
    "type": ([{"type": "web_search"}], r"tools\[0\].type is 'web_search'"),
    "no name": ([{"type": "function", "function": {}}], "function.name is missing"),
    "function text": ([{"type": "function", "function": "f"}], "function.name is missing"),
    "object": ([{"type": "function", "function": {"name": "f", "parameters": {1, 2}}}], "parameters is a set"),
}


@pytest.mark.parametrize("name", BAD_TOOLS)
def test_other_tools_are_refused_by_name(name):
    tools, message = BAD_TOOLS[name]
    with pytest.raises(BadRequest, match=message) as caught:
        read_tools(tools)
    assert caught.value.param == "tools"


def test_data_without_end_is_refused():
    nested: dict[str, object] = {}
    nested["a"] = nested
    with pytest.raises(BadRequest, match="more than 64 levels"):
        read_tools([{"type": "function", "function": {"name": "f", "parameters": nested}}])


def test_half_a_surrogate_pair_is_refused_with_its_message_and_place():
    with pytest.raises(BadRequest, match=r"messages\[1\]\.content has half a surrogate pair, U\+D83D at character 2"):
        read(USER, {"role": "user", "content": "ab\ud83d"})
    with pytest.raises(BadRequest, match=r"tools\[0\]\.function\.name has half a surrogate pair") as caught:
        read_tools([{"type": "function", "function": {"name": "\ud83d"}}])
    assert caught.value.param == "tools"


def test_thoughts_are_taken_back_as_openrouter_sends_them():
    parts = [{"type": "reasoning.text", "text": "Light "}, {"type": "reasoning.encrypted", "data": "x"}]
    details = [*parts, {"type": "reasoning.text", "text": "scatters."}]
    messages = [{"role": "assistant", "content": "Blue.", "reasoning_details": details}]
    assert read_messages(messages, parse_arguments=False)[0]["reasoning_content"] == "Light scatters."


def test_a_call_without_arguments_has_none():
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": ""}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert read_messages(messages, parse_arguments=False)[0]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert read_messages(messages, parse_arguments=True)[0]["tool_calls"][0]["function"]["arguments"] == {}
