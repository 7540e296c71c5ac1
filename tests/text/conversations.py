"""Conversations that templates have to print as transformers does."""

from typing import Any

Message = dict[str, Any]


def call(name: str, arguments: object, **more: object) -> Message:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


TOOLS: list[Message] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city: <b>\"now\"</b> & 'soon', été",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "enum": ["Paris", "東京"]},
                    "days": {"type": "integer", "default": 1},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "stop", "description": "Stop.", "parameters": {"type": "object", "properties": {}}},
    },
]

PLAIN: dict[str, list[Message]] = {
    "one turn": [{"role": "user", "content": "Hi"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Hi\n\n"}],
    "only system": [{"role": "system", "content": "x"}, {"role": "user", "content": ""}],
    "three turns": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b\n"},
        {"role": "user", "content": "c {{ messages }} {% if %}"},
        {"role": "assistant", "content": "\n\nd"},
        {"role": "user", "content": "é 東京 🙂"},
    ],
    "thoughts in the text": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nb"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "<think>\nhm, hm\n</think>\n\nd"},
    ],
    "thoughts apart": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "reasoning_content": "\nhm\n", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "reasoning_content": "hm", "content": "\n\nd"},
    ],
    "a later system message": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "system", "content": "s"},
        {"role": "user", "content": "c"},
    ],
    "a user that looks like a tool": [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "<tool_response>x</tool_response>"},
    ],
}

WITH_CALLS: dict[str, list[Message]] = {
    "a call": [
        {"role": "user", "content": "w?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call("get_weather", {"city": "Paris", "days": 2, "x": [1.5, None, True]})],
        },
        {"role": "tool", "content": '{"t": 20}'},
    ],
    "two calls and thoughts": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "w?"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [call("get_weather", {"city": "é<"}), call("stop", {}, id="call_1")],
        },
        {"role": "tool", "content": "20", "tool_call_id": "call_0", "name": "get_weather"},
        {"role": "tool", "content": "done\n", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "It is 20."},
        {"role": "user", "content": "thanks"},
    ],
    "a call without content": [
        {"role": "user", "content": "w?"},
        {"role": "assistant", "content": None, "tool_calls": [call("stop", {})]},
        {"role": "tool", "content": ""},
        {"role": "tool", "content": "b"},
    ],
}
