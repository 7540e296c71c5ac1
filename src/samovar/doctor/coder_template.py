"""What the chat template of Qwen3-Coder prints: tools as XML, and calls with a tag for each argument."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from samovar.doctor.conversations import Conversation, Json

_SYSTEM: Final = "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks."
_FORMAT: Final = (
    "\n\nIf you choose to call a tool ONLY reply in the following format with NO suffix:\n\n<tool_call>\n"
    "<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nvalue_2\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n"
    "- Function calls MUST follow the specified format: the tool calling block MUST begin with an opening <tool_call> tag "
    "and end with a closing </tool_call> tag.\n- Required parameters MUST be specified\n"
    "- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after\n"
    "- If there is no function call available, answer the question like normal with your current knowledge and do not tell "
    "the user about function calls\n</IMPORTANT>"
)


def render_coder(conversation: Conversation) -> str:
    """The text of a conversation."""
    messages = conversation.messages
    system = messages[0]["content"] if messages[0]["role"] == "system" else _SYSTEM if conversation.tools else None
    head = "" if system is None else f"<|im_start|>system\n{system}{_tools(conversation.tools)}<|im_end|>\n"
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    body = "".join(_turn(turns, index) for index in range(len(turns)))
    return head + body + ("<|im_start|>assistant\n" if conversation.asks_for_answer else "")


def _turn(messages: Sequence[Json], index: int) -> str:
    message = messages[index]
    role, content = message["role"], message["content"]
    if role == "tool":
        is_first = index > 0 and messages[index - 1]["role"] != "tool"
        is_last = index == len(messages) - 1 or messages[index + 1]["role"] != "tool"
        body = f"<tool_response>\n{content}\n</tool_response>\n"
        return ("<|im_start|>user\n" if is_first else "") + body + ("<|im_end|>\n" if is_last else "")
    if calls := message.get("tool_calls"):
        assert isinstance(calls, Sequence)
        text = content.strip() if isinstance(content, str) else ""
        said = f"\n{text}\n" if text else ""
        return f"<|im_start|>{role}{said}{''.join(_call(call['function']) for call in calls)}<|im_end|>\n"
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def _call(function: Mapping[str, object]) -> str:
    arguments = function["arguments"]
    assert isinstance(arguments, Mapping)
    given = "".join(f"<parameter={name}>\n{_value(value)}\n</parameter>\n" for name, value in arguments.items())
    return f"\n<tool_call>\n<function={function['name']}>\n{given}</function>\n</tool_call>"


def _value(value: object) -> str:
    """Objects and lists as JSON, anything else as Python prints it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _tools(tools: Sequence[Json]) -> str:
    if not tools:
        return ""
    listed = "".join(_tool(function) for tool in tools if isinstance(function := tool["function"], Mapping))
    return f"\n\n# Tools\n\nYou have access to the following tools:\n\n<tools>{listed}\n</tools>{_FORMAT}"


def _tool(function: Mapping[str, object]) -> str:
    parameters = function["parameters"]
    assert isinstance(parameters, Mapping)
    fields = "".join(_parameter(name, field) for name, field in parameters["properties"].items())
    return (
        f"\n<function>\n<name>{function['name']}</name>"
        f"\n<description>{str(function['description']).strip()}</description>"
        f"\n<parameters>{fields}{_others(parameters, ('type', 'properties'))}\n</parameters>"
        f"{_others(function, ('type', 'name', 'description', 'parameters'))}\n</function>"
    )


def _parameter(name: str, field: Mapping[str, object]) -> str:
    kind = f"\n<type>{field['type']}</type>" if "type" in field else ""
    about = f"\n<description>{str(field['description']).strip()}</description>" if "description" in field else ""
    rest = _others(field, ("name", "type", "description"))
    return f"\n<parameter>\n<name>{name}</name>{kind}{about}{rest}\n</parameter>"


def _others(fields: Mapping[str, object], but: Sequence[str]) -> str:
    """The keys of a schema that have no place of their own, each as a tag."""
    return "".join(f"\n<{key}>{_value(value)}</{key}>" for key, value in fields.items() if key not in but)
