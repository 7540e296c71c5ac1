"""Forced tool calls and schemas on Qwen2.5-Coder-1.5B. It is no part of what `make test` fetches: pull it to run this."""

import openai
import pytest

from samovar.errors import ModelNotFound
from samovar.formats.hub import resolve
from tests.real_models import STORE
from tests.serving.processes import running
from tests.serving.test_real_clients import MODEL, QUESTION, SEEDED, TOOLS, WEATHER, check

pytestmark = pytest.mark.slow
NAME = "qwen2.5-coder:1.5b"


def test_the_larger_model_makes_forced_calls_and_keeps_to_schemas(tmp_path):
    try:
        path = resolve(NAME, STORE)
    except ModelNotFound:
        pytest.skip(f"{NAME} is not in the store; get it with: samovar pull {NAME}")
    with running(tmp_path, f"{MODEL}={path}", "--max-streams", "2", "--ctx-size", "4096") as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=200) as client:
            ask = {"model": MODEL, "messages": QUESTION, "max_tokens": 300, **SEEDED}
            for name in (None, "get_weather", "write_note"):
                choice = {"type": "function", "function": {"name": name}} if name else "required"
                reply = client.chat.completions.create(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, **ask)
                [call] = reply.choices[0].message.tool_calls
                print(call.function)
                assert name in (None, call.function.name)
                check(call.function.name, call.function.arguments)
            form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER, "strict": True}}
            said = client.chat.completions.create(response_format=form, **ask).choices[0].message.content
            print(said)
            check("get_weather", said)
        assert [line for line in server.log_lines() if line["level"] == "error"] == []
