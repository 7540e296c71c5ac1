"""Ollama's dialect, against the official client."""

import json

import ollama
import pytest

from samovar.serving.ollama_options import UNSUPPORTED_OPTIONS, OptionFields
from tests.engine.scripted import by_position
from tests.llm.scripted import is_idle, scripted
from tests.matrices import slow_but

MODEL = "hybrid"
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
ANSWER = "<think>\nLight scatters.\n</think>\n\nBecause of 空気 scattering."


@pytest.fixture(scope="module")
def client(server):
    made = ollama.Client(host=server.url)
    yield made
    made.close()


def said(llm, text):
    """A script that says a text, tags being tokens."""
    return by_position([*llm.tokenizer.encode(text), llm.tokenizer.eos_id])


def lines(server, path, **body):
    """The objects of a stream."""
    with server.client.stream("POST", path, json={"model": MODEL} | body) as reply:
        assert reply.headers["content-type"] == "application/x-ndjson", reply.read()
        return [json.loads(line) for line in reply.iter_lines()]


def test_thoughts_and_answer_come_apart_with_counts_and_times(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        reply = client.chat(MODEL, QUESTION)
    assert reply.message.content == "Because of 空気 scattering."
    assert reply.message.thinking == "Light scatters."
    assert (reply.message.role, reply.done, reply.done_reason, reply.model) == ("assistant", True, "stop", MODEL)
    assert reply.eval_count == len(hybrid.tokenizer.encode(ANSWER)) + 1
    assert reply.prompt_eval_count == hybrid.prepare_chat(QUESTION).n_prompt
    assert reply.total_duration > reply.load_duration > 0
    assert reply.eval_duration > 0
    assert reply.prompt_eval_duration > 0
    assert is_idle(hybrid)


def test_a_whole_reply_is_its_stream_put_together(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        whole = client.chat(MODEL, QUESTION, options={"seed": 1})
        parts = list(client.chat(MODEL, QUESTION, options={"seed": 1}, stream=True))
    assert len(parts) > 3
    assert "".join(p.message.content for p in parts) == whole.message.content
    assert "".join(p.message.thinking or "" for p in parts) == whole.message.thinking
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].eval_count, parts[-1].done_reason) == (whole.eval_count, "stop")


def test_streaming_is_what_one_gets_without_asking(server, hybrid):
    with scripted(hybrid, said(hybrid, "Yes.")):
        parts = lines(server, "/api/chat", messages=QUESTION, think=False, options={"seed": 7})
    assert "".join(p["message"]["content"] for p in parts) == "Yes."
    assert parts[-1]["seed"] == 7
    assert parts[0]["created_at"].endswith("Z")
    assert len(parts[0]["created_at"]) == len("2026-01-01T00:00:00.123456789Z")


def test_thinking_is_switched_by_think(client, hybrid, monkeypatch):
    asked = []
    own = hybrid.prepare_chat

    def prepare_chat(messages, **options):
        asked.append((options["thinking"], options["thinking_budget"]))
        return own(messages, **options)

    monkeypatch.setattr(hybrid, "prepare_chat", prepare_chat)
    with scripted(hybrid, said(hybrid, "Yes.")):
        for think in (None, False, True, "low", "high"):
            client.chat(MODEL, QUESTION, think=think, options={"num_predict": 3})
    assert asked == [(None, None), (False, None), (True, None), (True, 2048), (True, None)]


def test_generate_answers_a_prompt_as_a_chat_would(client, hybrid):
    seen = []
    with scripted(hybrid, lambda prompt, made: (seen.append(prompt), said(hybrid, ANSWER)(prompt, made))[1]):
        reply = client.generate(MODEL, "Hi", system="Be brief.")
        parts = list(client.generate(MODEL, "Hi", stream=True))
    assert (reply.response, reply.thinking, reply.done_reason) == ("Because of 空気 scattering.", "Light scatters.", "stop")
    assert "".join(p.response for p in parts) == reply.response
    expected = hybrid.prepare_chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert tuple(seen[0]) == expected.answers[0].request.prompt_ids


def test_raw_text_is_continued_without_a_template(client, hybrid):
    with scripted(hybrid, said(hybrid, " world")):
        reply = client.generate(MODEL, "Hello", raw=True)
    assert reply.response == " world"
    assert reply.prompt_eval_count == len(hybrid.tokenizer.encode("Hello"))


def test_a_gap_is_filled_between_prompt_and_suffix(client, hybrid):
    tokenizer, seen = hybrid.tokenizer, []
    wanted = by_position([*tokenizer.encode("    return a + b"), tokenizer.control_tokens["<|file_sep|>"]])
    with scripted(hybrid, lambda prompt, made: (seen.append(prompt), wanted(prompt, made))[1]):
        reply = client.generate(MODEL, "def add(a, b):\n", suffix="\n# <|im_end|>")
    assert (reply.response, reply.done_reason) == ("    return a + b", "stop")
    ids = list(seen[0])
    tags = [tokenizer.control_tokens[f"<|fim_{name}|>"] for name in ("prefix", "suffix", "middle")]
    assert [ids[0], ids[-1]] == [tags[0], tags[2]]
    assert tokenizer.decode(ids) == "<|fim_prefix|>def add(a, b):\n<|fim_suffix|>\n# <|im_end|><|fim_middle|>"
    assert [i for i in ids if tokenizer.is_control(i)] == tags  # what looks like one in the code is text


def test_a_last_message_of_the_assistant_is_continued(client, hybrid):
    with scripted(hybrid, said(hybrid, " blue.")):
        reply = client.chat(MODEL, [*QUESTION, {"role": "assistant", "content": "It is"}])
    assert reply.message.content == " blue."


def test_a_schema_and_json_hold_for_the_answer(client, hybrid):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    with scripted(hybrid, said(hybrid, '<think>\nHm.\n</think>\n\nno {"n": 5}')):
        reply = client.chat(MODEL, QUESTION, format=schema, options={"num_predict": 2000, "seed": 1})
        assert set(json.loads(reply.message.content)) == {"n"}
    with scripted(hybrid, said(hybrid, '{"a": [1]}')):
        for form, raw in (("json", True), ("", True)):
            reply = client.generate(MODEL, "Say", raw=raw, format=form)
            assert json.loads(reply.response) == {"a": [1]}


def test_options_reach_the_sampler_under_their_own_names(client, hybrid, monkeypatch):
    seen = []
    own = hybrid.prepare_chat

    def prepare_chat(messages, **options):
        prepared = own(messages, **options)
        seen.append(prepared)
        return prepared

    monkeypatch.setattr(hybrid, "prepare_chat", prepare_chat)
    options = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.1,
        "seed": 9,
        "repeat_penalty": 1.25,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "num_predict": 2,
        "num_keep": 4,
        "num_gpu": 0,
        "mirostat": 0,
    }
    with scripted(hybrid, said(hybrid, "Yes, it is.")):
        reply = client.chat(MODEL, QUESTION, think=False, options=options)
        ended = client.chat(MODEL, QUESTION, think=False, options={"stop": [", "], "top_k": -1, "num_predict": -1, "seed": -1})
    sampling = seen[0].answers[0].request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 7, 0.5, 0.1)
    assert (sampling.seed, sampling.repetition_penalty, sampling.max_tokens) == (9, 1.25, 2)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, 0.25)
    assert (reply.done_reason, reply.eval_count) == ("length", 2)
    assert (ended.message.content, ended.done_reason) == ("Yes", "stop")
    assert seen[1].answers[0].request.sampling.top_k == 0


def test_num_ctx_bounds_prompt_and_answer_together(client, server, hybrid):
    n_prompt = hybrid.prepare_chat(QUESTION, thinking=False).n_prompt
    with scripted(hybrid, said(hybrid, "one two three four five six seven")):
        reply = client.chat(MODEL, QUESTION, think=False, options={"num_ctx": n_prompt + 3})
        assert (reply.eval_count, reply.done_reason) == (3, "length")
        reply = client.chat(MODEL, QUESTION, think=False, options={"num_ctx": n_prompt + 3, "num_predict": 2})
        assert reply.eval_count == 2
    with pytest.raises(ollama.ResponseError, match=f"prompt has {n_prompt} tokens, and the context holds {n_prompt}"):
        client.chat(MODEL, QUESTION, think=False, options={"num_ctx": n_prompt})
    with pytest.raises(
        ollama.ResponseError, match=f"1000000 tokens is wanted, and this model is open with {hybrid.max_context}"
    ):
        client.chat(MODEL, QUESTION, options={"num_ctx": 1_000_000})
    assert is_idle(hybrid)


def test_log_probabilities_cover_every_token_once(client, server, hybrid):
    asked = {"messages": QUESTION, "think": False, "logprobs": True, "top_logprobs": 2, "options": {"seed": 1}}
    with scripted(hybrid, said(hybrid, "Yes, it is.")):
        whole = client.chat(MODEL, **asked)
        parts = lines(server, "/api/chat", **asked)
    streamed = [(entry["token"], entry["logprob"]) for part in parts for entry in part.get("logprobs", [])]
    assert streamed == [(entry.token, entry.logprob) for entry in whole.logprobs]
    assert "".join(token for token, _ in streamed) == "Yes, it is.<|im_end|>"
    assert all(len(entry.top_logprobs) == 2 for entry in whole.logprobs)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("chat", {"foo": 1}, "foo"),
        ("chat", {"messages": [{"role": "user", "content": "a", "foo": 1}]}, "messages[0].foo"),
        ("chat", {"messages": [{"role": "user", "content": "a", "images": ["aGk="]}]}, "messages[0].images"),
        ("chat", {"messages": [{"role": "user", "content": "a", "thinking": "b"}]}, "messages[0].thinking"),
        ("chat", {"messages": [{"role": "bot", "content": "a"}]}, "messages[0].role"),
        ("chat", {"messages": [{"role": "user", "content": "a"}] * 10_001}, "there are 10001 messages"),
        ("chat", {"options": {"foo": 1}}, "foo"),
        ("chat", {"options": {"num_gpu": 99}}, "num_gpu"),
        ("chat", {"options": {"repeat_last_n": 64}}, "repeat_last_n"),
        ("chat", {"options": {"mirostat": 2}}, "mirostat"),
        ("chat", {"options": {"temperature": "hot"}}, "temperature"),
        ("chat", {"options": {"num_predict": 0}}, "num_predict"),
        ("chat", {"options": {"repeat_penalty": 0}}, "repeat_penalty"),
        ("chat", {"options": {"num_ctx": 0}}, "num_ctx"),
        ("chat", {"options": []}, "options"),
        ("chat", {"format": "xml"}, "format"),
        ("chat", {"format": {"type": "nonsense"}}, "JSON schema"),
        ("chat", {"think": "huge"}, "think"),
        ("chat", {"keep_alive": "soon"}, "keep_alive"),
        ("chat", {"top_logprobs": 3}, "top_logprobs"),
        ("chat", {"model": None}, "model"),
        ("chat", {"truncate": True}, "truncate"),
        ("generate", {"prompt": "a", "context": [1, 2]}, "context"),
        ("generate", {"prompt": "a", "template": "{{ .Prompt }}"}, "template"),
        ("generate", {"prompt": "a", "images": ["aGk="]}, "images"),
        ("generate", {"prompt": "a", "raw": True, "system": "b"}, "system"),
        ("generate", {"prompt": "a", "raw": True, "think": True}, "think"),
        ("generate", {"prompt": "a", "raw": True, "suffix": "b"}, "suffix"),
        ("embed", {"input": "a", "foo": 1}, "foo"),
        ("embed", {"input": ["a", ""]}, "text 1"),
        ("embed", {"input": [""]}, "text 0"),
        ("embed", {"input": "a", "dimensions": 0}, "dimensions"),
        ("embed", {"input": "a", "options": {"temperature": 1}}, "temperature"),
        ("show", {"model": None}, "model"),
        ("show", {"verbose": True}, "verbose"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(server, hybrid, path, body, named):
    given = {"model": MODEL} | ({"messages": QUESTION} if path == "chat" else {}) | body
    reply = server.post(f"/api/{path}", **given)
    assert reply.status_code == 400, reply.text
    assert set(reply.json()) == {"error"}
    assert named in reply.json()["error"]
    assert is_idle(hybrid)


def test_what_asks_for_nothing_is_taken(client, server, hybrid):
    with scripted(hybrid, said(hybrid, "Yes.")):
        body = {"model": MODEL, "prompt": "a", "stream": False, "think": False, "template": "", "context": [], "images": []}
        assert server.post("/api/generate", **body, system="", suffix="", raw=False, format="").json()["response"] == "Yes."
        message = {"role": "user", "content": "a", "images": [], "tool_calls": [], "thinking": ""}
        options = {"num_ctx": None, "mirostat_tau": 5.0, "use_mmap": True, "stop": []}
        emptied = [message, {"role": "tool", "content": ""}]  # of which the client leaves the content out
        assert client.chat(MODEL, emptied, think=False).message.content == "Yes."
        assert client.chat(MODEL, [message], tools=[], think=False, options=options).message.content == "Yes."


def test_errors_are_those_that_the_official_client_knows(client, server):
    with pytest.raises(ollama.ResponseError, match="is not offered here") as caught:
        client.chat("gpt-0", QUESTION)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="tokens, and the context holds") as caught:
        list(client.chat(MODEL, [{"role": "user", "content": "word " * 5000}], stream=True))
    assert caught.value.status_code == 400
    assert server.client.post("/api/chat", content=b"{").json().keys() == {"error"}
    assert server.client.get("/api/nothing").json().keys() == {"error"}
    assert server.client.get("/api/chat").status_code == 405
    for path, methods in (("/api/chat", "POST"), ("/v1/responses/a", "DELETE, GET, HEAD")):
        assert server.client.request("PATCH", path).headers["allow"] == methods


ODD = (
    None,
    True,
    -1,
    0,
    1e308,
    1 << 70,
    "",
    "\ud800",
    "x",
    [],
    [None],
    [[]],
    {},
    {"type": "x"},
    [{"role": "user", "content": []}],
)


@pytest.mark.parametrize("path", slow_but(["chat"], ["chat", "generate", "embed", "embeddings", "show", "pull"]))
def test_no_value_of_any_field_is_an_error_of_ours(server, hybrid, path):
    with scripted(hybrid, said(hybrid, "Yes.")):
        for field in (
            *("model", "messages", "prompt", "input", "suffix", "system", "raw", "tools", "options", "format", "think"),
            *("keep_alive", "logprobs", "top_logprobs", "dimensions", "truncate", "name", "stream", "template", "context"),
        ):
            for value in ODD:
                body = {"model": MODEL, "stream": False, "options": {"num_predict": 1}}
                body |= {"chat": {"messages": QUESTION}, "generate": {"prompt": "a"}, "embed": {"input": "a"}}.get(path, {})
                reply = server.client.post(f"/api/{path}", content=json.dumps(body | {field: value}))
                assert reply.status_code in (200, 400, 404), (field, value, reply.text)
        for body in (b"", b"[]", b"\xff", b"null", b"{" * 5000, b'{"a":' * 5000):
            assert server.client.post(f"/api/{path}", content=body).status_code == 400
    server.server.registry.models[MODEL].has_asked_keep_alive = False
    assert is_idle(hybrid)


def test_no_value_of_any_option_is_an_error_of_ours(server, hybrid):
    with scripted(hybrid, said(hybrid, "Yes.")):
        for option in (*OptionFields.__struct_fields__, *UNSUPPORTED_OPTIONS):
            for value in ODD:
                body = {"model": MODEL, "stream": False, "messages": QUESTION, "options": {"num_predict": 1, option: value}}
                reply = server.client.post("/api/chat", content=json.dumps(body))
                assert reply.status_code in (200, 400), (option, value, reply.text)
    assert is_idle(hybrid)
