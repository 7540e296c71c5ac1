"""How much a request may hold, whatever its texts are."""

import pytest

from samovar.errors import BadRequest


@pytest.fixture(scope="module")
def tool():
    return {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"stop": ["x"] * 257}, "stop"),
        ({"stop": "x" * 16_385}, "stop"),
        ({"stop_token_ids": [1] * 257}, "stop_token_ids"),
    ],
)
def test_stops_are_bounded(tiny_llm, options, param):
    with pytest.raises(BadRequest, match="at most") as caught:
        tiny_llm.prepare_generate("tea", **options)
    assert caught.value.param == param


def test_messages_and_tools_are_bounded(tiny_llm, tool):
    for messages, options, param in (
        ([{"role": "user", "content": "x"}] * 10_001, {}, "messages"),
        ("x", {"tools": [tool] * 1001}, "tools"),
    ):
        with pytest.raises(BadRequest, match="at most") as caught:
            tiny_llm.prepare_chat(messages, **options)
        assert caught.value.param == param
