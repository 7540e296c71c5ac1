"""The official clients against `samovar serve` on real weights: what is asserted is the protocol, not the model's wit."""

import json

import anthropic
import jsonschema
import ollama
import openai
import pytest

from tests.real_models import QWEN_CODER, real_model
from tests.serving.processes import running

pytestmark = pytest.mark.slow
MODEL = "coder"
QUESTION = [{"role": "user", "content": "What is the weather in Köln for the next 3 days?"}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 40},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
NOTE = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 1, "maxItems": 3}},
    "required": ["tags"],
    "additionalProperties": False,
}
SCHEMAS = {"get_weather": WEATHER, "write_note": NOTE}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": schema, "strict": True}}
    for name, schema in SCHEMAS.items()
]
FLAT_TOOLS = [{"type": "function", **tool["function"]} for tool in TOOLS]
SEEDED = {"seed": 7, "temperature": 0.8}


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """The process with the small real model that knows tools."""
    with running(
        tmp_path_factory.mktemp("serving"),
        f"{MODEL}={real_model(QWEN_CODER)}",
        "--max-streams",
        "4",
        "--long-context",
        "off",
    ) as server:
        yield server
        failed = [line for line in server.log_lines() if line["level"] == "error" or line.get("status", 0) >= 500]
        assert failed == []


@pytest.fixture(scope="module")
def oai(serving):
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture(scope="module")
def claude(serving):
    with anthropic.Anthropic(base_url=serving.url, api_key="none", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture(scope="module")
def llama(serving):
    made = ollama.Client(host=serving.url, timeout=120)
    yield made
    made.close()


def check(name, arguments):
    """Arguments, as text or read, are what the tool's schema wants."""
    jsonschema.validate(json.loads(arguments) if isinstance(arguments, str) else arguments, SCHEMAS[name])


# OpenAI's chat completions


def test_openai_chat_streams_what_it_says_at_once(oai):
    ask = {"model": MODEL, "messages": QUESTION, "max_tokens": 40, **SEEDED}
    whole = oai.chat.completions.create(**ask)
    chunks = list(oai.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == whole.choices[0].message.content != ""
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == [whole.choices[0].finish_reason]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


@pytest.mark.parametrize("choice", ["required", "get_weather", "write_note"])
@pytest.mark.parametrize("streams", [False, True])
def test_openai_chat_makes_the_call_that_is_asked_for(oai, choice, streams):
    wanted = choice if choice == "required" else {"type": "function", "function": {"name": choice}}
    ask = {"model": MODEL, "messages": QUESTION, "tools": TOOLS, "tool_choice": wanted, "parallel_tool_calls": False}
    if streams:
        with oai.chat.completions.stream(**ask, max_tokens=300, **SEEDED) as stream:
            reply = stream.get_final_completion()
    else:
        reply = oai.chat.completions.create(**ask, max_tokens=300, **SEEDED)
    [call] = reply.choices[0].message.tool_calls
    assert reply.choices[0].finish_reason == "tool_calls"
    assert choice in ("required", call.function.name)
    check(call.function.name, call.function.arguments)


def test_openai_chat_answers_after_a_tool_was_called(oai):
    ask = {"model": MODEL, "tools": TOOLS, "max_tokens": 60, **SEEDED}
    first = oai.chat.completions.create(messages=QUESTION, tool_choice="required", parallel_tool_calls=False, **ask)
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Sunny, 21 °C"}
    second = oai.chat.completions.create(messages=[*QUESTION, message, result], tool_choice="none", **ask)
    assert second.choices[0].message.content
    assert second.choices[0].message.tool_calls is None
    assert second.usage.prompt_tokens_details.cached_tokens > 0


def test_openai_chat_keeps_to_a_schema(oai):
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER, "strict": True}}
    for streams in (False, True):
        reply = oai.chat.completions.create(
            model=MODEL, messages=QUESTION, response_format=form, max_tokens=200, stream=streams, **SEEDED
        )
        said = "".join(c.choices[0].delta.content or "" for c in reply) if streams else reply.choices[0].message.content
        check("get_weather", said)


# OpenAI's other routes


def test_openai_responses_stream_a_forced_call_and_take_its_output(oai):
    ask = {"model": MODEL, "tools": FLAT_TOOLS, "max_output_tokens": 300, "temperature": 0.8}
    named = {"type": "function", "name": "get_weather"}
    with oai.responses.stream(input=QUESTION[0]["content"], tool_choice=named, parallel_tool_calls=False, **ask) as stream:
        kinds = [event.type for event in stream]
    first = stream.get_final_response()
    [call] = [item for item in first.output if item.type == "function_call"]
    assert (kinds[0], kinds[-1], call.name) == ("response.created", "response.completed", "get_weather")
    check(call.name, call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 21 °C"}
    second = oai.responses.create(previous_response_id=first.id, input=[result], tool_choice="none", **ask)
    assert second.output_text
    assert oai.responses.retrieve(second.id).output_text == second.output_text


def test_openai_responses_keep_to_a_schema(oai):
    form = {"type": "json_schema", "name": "weather", "schema": WEATHER, "strict": True}
    reply = oai.responses.create(model=MODEL, input=QUESTION[0]["content"], text={"format": form}, max_output_tokens=200)
    check("get_weather", reply.output_text)


def test_openai_completions_fill_the_middle(oai):
    ask = {"model": MODEL, "prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n", "max_tokens": 16}
    whole = oai.completions.create(**ask, temperature=0)
    streamed = "".join(c.choices[0].text for c in oai.completions.create(**ask, temperature=0, stream=True))
    assert whole.choices[0].text == streamed
    assert streamed.strip().startswith("a + b")


def test_openai_embeddings_of_a_model_that_is_not_made_for_them_are_refused(oai):
    with pytest.raises(openai.BadRequestError, match=r"no embedding model by its files.*--any-model-scores"):
        oai.embeddings.create(model=MODEL, input=["The cat sleeps.", "A cat is asleep."])


def test_openai_errors_have_their_classes(oai):
    with pytest.raises(openai.NotFoundError):
        oai.chat.completions.create(model="gpt-0", messages=QUESTION)
    with pytest.raises(openai.NotFoundError):
        oai.responses.retrieve("resp_none")
    with pytest.raises(openai.BadRequestError) as caught:
        oai.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 40_000}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        oai.chat.completions.create(model=MODEL, messages=QUESTION, extra_body={"top_q": 1})
    assert caught.value.param == "top_q"


# Anthropic's messages


def test_anthropic_streams_what_it_says_at_once(claude):
    ask = {"model": MODEL, "messages": QUESTION, "max_tokens": 40, "extra_body": {"temperature": 0}}  # there is no seed
    whole = claude.messages.create(**ask)
    with claude.messages.stream(**ask) as stream:
        streamed = stream.get_final_message()
    assert streamed.content[0].text == whole.content[0].text != ""
    assert (streamed.stop_reason, streamed.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert claude.messages.count_tokens(model=MODEL, messages=QUESTION).input_tokens > 10


@pytest.mark.parametrize("choice", ["any", "get_weather", "write_note"])
@pytest.mark.parametrize("streams", [False, True])
def test_anthropic_makes_the_call_that_is_asked_for(claude, choice, streams):
    wanted = {"type": "any"} if choice == "any" else {"type": "tool", "name": choice}
    tools = [{"name": name, "description": f"Does {name}.", "input_schema": schema} for name, schema in SCHEMAS.items()]
    ask = {"model": MODEL, "messages": QUESTION, "tools": tools, "max_tokens": 300}
    ask["tool_choice"] = wanted | {"disable_parallel_tool_use": True}
    if streams:
        with claude.messages.stream(**ask) as stream:
            message = stream.get_final_message()
    else:
        message = claude.messages.create(**ask)
    [call] = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    assert choice in ("any", call.name)
    check(call.name, call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Done."}
    history = [*QUESTION, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    ask |= {"messages": history, "tool_choice": {"type": "none"}, "max_tokens": 30}
    assert claude.messages.create(**ask).content[0].type == "text"


def test_anthropic_keeps_to_a_schema(claude):
    form = {"format": {"type": "json_schema", "schema": WEATHER}}
    message = claude.messages.create(model=MODEL, messages=QUESTION, max_tokens=200, output_config=form)
    check("get_weather", message.content[0].text)


def test_anthropic_errors_have_their_classes(claude):
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="claude-0", messages=QUESTION, max_tokens=5)
    with pytest.raises(anthropic.BadRequestError, match="top_q"):
        claude.messages.create(model=MODEL, messages=QUESTION, max_tokens=5, extra_body={"top_q": 1})
    with pytest.raises(anthropic.BadRequestError, match="tokens"):
        claude.messages.create(model=MODEL, messages=[{"role": "user", "content": "word " * 40_000}], max_tokens=5)


# Ollama


def test_ollama_streams_what_it_says_at_once(llama):
    options = {"num_predict": 40, **SEEDED}
    whole = llama.chat(MODEL, QUESTION, options=options)
    parts = list(llama.chat(MODEL, QUESTION, options=options, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content != ""
    assert (parts[-1].done_reason, parts[-1].eval_count) == (whole.done_reason, whole.eval_count)
    generated = llama.generate(MODEL, QUESTION[0]["content"], options=options)
    assert generated.response == whole.message.content, "a prompt is a chat of one message"


def test_ollama_offers_tools_and_keeps_to_a_schema(llama):
    assert {"completion", "tools", "insert"} <= set(llama.show(MODEL).capabilities)
    said = llama.chat(MODEL, QUESTION, format=WEATHER, options={"num_predict": 200, **SEEDED}).message.content
    check("get_weather", said)
    with_tools = [{"type": "function", "function": {k: v for k, v in t["function"].items() if k != "strict"}} for t in TOOLS]
    reply = llama.chat(MODEL, QUESTION, tools=with_tools, options={"num_predict": 200, **SEEDED})
    print("ollama, tools on auto:", reply.message)
    for call in reply.message.tool_calls or ():
        assert call.function.name in SCHEMAS
    assert reply.message.tool_calls or reply.message.content


def test_ollamas_errors_are_known(llama):
    with pytest.raises(ollama.ResponseError, match=r"no embedding model by its files.*--any-model-scores") as refused:
        llama.embed(MODEL, ["one", "two"])
    assert refused.value.status_code == 400
    for model, options, status in (("none", {}, 404), (MODEL, {"top_q": 1}, 400)):
        with pytest.raises(ollama.ResponseError) as caught:
            llama.chat(model, QUESTION, options=options)
        assert caught.value.status_code == status


# All of them


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"enable_thinking": True}),
        ("/v1/chat/completions", {"reasoning_effort": "high"}),
        ("/v1/chat/completions", {"chat_template_kwargs": {"enable_thinking": True}}),
        ("/v1/chat/completions", {"thinking_budget": 100}),
        ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}),
        ("/v1/responses", {"reasoning": {"effort": "high"}}),
        ("/api/chat", {"think": True}),
    ],
)
def test_a_model_that_cannot_think_is_not_asked_to(serving, path, fields):
    said = {"input": "Why?"} if path == "/v1/responses" else {"messages": QUESTION}
    reply = serving.client.post(path, json={"model": MODEL, **said, **fields})
    assert reply.status_code == 400, reply.text
    assert "think" in reply.text
    assert str(real_model(QWEN_CODER).parent) not in reply.text, "where the server keeps its files is nobody's business"
