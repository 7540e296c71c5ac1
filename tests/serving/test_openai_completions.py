"""Text completions in OpenAI's dialect, against the official client, and against `LLM.generate` and `LLM.log_likelihoods`."""

import json
import time
from collections import defaultdict

import httpx
import openai
import pytest

from samovar.engine.engine import Engine
from samovar.llm import LLM
from tests.engine.scripted import by_position
from tests.llm.scripted import broken, is_idle, scripted
from tests.models.conftest import tiny_checkpoints as tiny_checkpoints
from tests.serving.served import served

PATH = "/v1/completions"
PROMPT = "The sky above the harbour was 空"
CALL = {"temperature": 0, "max_tokens": 6}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def texts_of(chunks):
    """The text of each choice of a stream."""
    texts = defaultdict(str)
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    return dict(texts)


def test_a_prompt_is_continued_as_llm_generate_does(client, hybrid):
    reply = client.completions.create(model="hybrid", prompt=PROMPT, seed=7, **CALL)
    wanted = hybrid.generate(PROMPT, seed=7, **CALL)
    assert reply.choices[0].text == wanted.text
    assert reply.choices[0].finish_reason == "length"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (wanted.usage.n_prompt, 6)
    assert reply.id.startswith("cmpl-")
    assert reply.object == "text_completion"


def test_without_max_tokens_an_answer_has_sixteen(client, hybrid):
    reply = client.completions.create(model="hybrid", prompt=PROMPT, extra_body={"ignore_eos": True})
    assert reply.usage.completion_tokens == 16


def test_texts_and_token_ids_and_lists_of_either_are_the_same_prompts(client, hybrid):
    first, second = hybrid.tokenizer.encode(PROMPT), hybrid.tokenizer.encode("Once")
    wanted = [hybrid.generate(text, **CALL).text for text in (PROMPT, "Once")]
    for prompt, n in ((first, 1), ([first, second], 2), ([PROMPT, "Once"], 2), ([PROMPT], 1)):
        reply = client.completions.create(model="hybrid", prompt=prompt, **CALL)
        assert [choice.text for choice in reply.choices] == wanted[:n]


def test_control_tokens_in_a_prompt_are_parsed(server, hybrid):
    seen = []
    with scripted(hybrid, lambda prompt, _: (seen.append(prompt), hybrid.tokenizer.eos_id)[1]):
        server.post(PATH, prompt="<|im_start|>user\nHi<|im_end|>")
    assert hybrid.tokenizer.control_tokens["<|im_start|>"] in seen[0]


def test_choices_of_several_prompts_come_prompt_by_prompt_whole_and_streamed(client, hybrid):
    options = {"model": "hybrid", "prompt": ["One", "Two"], "n": 2, "max_tokens": 5, "seed": 3}
    whole = client.completions.create(**options)
    wanted = [
        text.text
        for prompt in ("One", "Two")
        for first in [hybrid.generate(prompt, n=2, seed=3, max_tokens=5)]
        for text in (first, *first.alternatives)
    ]
    assert [choice.text for choice in whole.choices] == wanted
    chunks = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert texts_of(chunks) == dict(enumerate(wanted))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert (
        chunks[-1].usage.prompt_tokens
        == whole.usage.prompt_tokens
        == sum(len(hybrid.tokenizer.encode(p)) for p in ("One", "Two"))
    )
    finished = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(finished) == [0, 1, 2, 3]


def test_scoring_gives_the_numbers_of_log_likelihoods(client, hybrid):
    context, continuation = "The sky is", " blue and 空気 is thin"
    (wanted,) = hybrid.log_likelihoods([(context, continuation)])
    n = len(wanted.token_ids)
    ids = hybrid.tokenizer.encode(context + continuation)
    for max_tokens in (0, 1):  # as a scorer may ask, and as lm-eval does
        reply = client.completions.create(
            model="hybrid", prompt=context + continuation, echo=True, logprobs=1, temperature=0, max_tokens=max_tokens
        )
        choice = reply.choices[0]
        logprobs = choice.logprobs
        assert len(logprobs.tokens) == len(logprobs.top_logprobs) == len(logprobs.text_offset) == len(ids) + max_tokens
        assert logprobs.token_logprobs[0] is None
        assert logprobs.top_logprobs[0] is None
        end = len(ids)
        assert tuple(logprobs.token_logprobs[end - n : end]) == pytest.approx(wanted.token_logprobs, abs=1e-6)
        greedy = all(
            value == max(top.values())
            for value, top in zip(logprobs.token_logprobs[end - n : end], logprobs.top_logprobs[end - n : end], strict=True)
        )
        assert greedy == wanted.is_greedy
        assert choice.text.startswith(context + continuation)
        assert choice.finish_reason == "length"
        assert reply.usage.completion_tokens == max_tokens
        assert is_idle(hybrid)
    for token, offset in zip(logprobs.tokens[:end], logprobs.text_offset[:end], strict=True):
        if not token.startswith("bytes:"):
            assert choice.text[offset:].startswith(token)


def test_a_token_that_is_no_whole_text_goes_by_its_bytes(client, hybrid):
    reply = client.completions.create(model="hybrid", prompt="𓀀", echo=True, logprobs=0, max_tokens=0)
    tokens = reply.choices[0].logprobs.tokens
    assert len(tokens) > 1
    assert "".join(t.removeprefix("bytes:") for t in tokens).replace("\\x", "") == "𓀀".encode().hex()


def test_log_probabilities_of_an_answer_cover_every_token_once_whole_and_streamed(server, hybrid):
    said = [*hybrid.tokenizer.encode("Yes, 空気."), hybrid.tokenizer.eos_id]
    with scripted(hybrid, by_position(said)):
        body = {"prompt": "Is it?", "logprobs": 2, "seed": 1}
        whole = server.post(PATH, **body).json()["choices"][0]
        events = [json.loads(event) for event in server.events(PATH, **body, stream=True)[:-1]]
    streamed = defaultdict(list)
    for event in events:
        for name, values in (event["choices"][0]["logprobs"] or {}).items():
            streamed[name] += values
    assert dict(streamed) == whole["logprobs"]
    assert len(whole["logprobs"]["tokens"]) == len(said)
    assert all(len(top) in (2, 3) for top in whole["logprobs"]["top_logprobs"])
    assert whole["logprobs"]["text_offset"][:2] == [0, 3]


def test_an_echo_comes_first_in_a_stream_with_and_without_log_probabilities(client, hybrid):
    whole = client.completions.create(model="hybrid", prompt=["One", "Two"], n=2, echo=True, logprobs=1, **CALL)
    for choice, prompt in zip(whole.choices, ("One", "One", "Two", "Two"), strict=True):
        assert choice.text.startswith(prompt)
        assert choice.logprobs.tokens[0] == prompt
    for logprobs in (None, 1):
        chunks = list(
            client.completions.create(
                model="hybrid", prompt=["One", "Two"], n=2, echo=True, logprobs=logprobs, stream=True, **CALL
            )
        )
        assert texts_of(chunks) == {choice.index: choice.text for choice in whole.choices}
    assert [c.choices[0].logprobs.token_logprobs for c in chunks] == [c.logprobs.token_logprobs for c in whole.choices]


def test_prompt_log_probabilities_have_the_form_of_vllm(server, hybrid):
    ids = hybrid.tokenizer.encode(PROMPT)
    choices = server.post(PATH, prompt=["Once", PROMPT], prompt_logprobs=2, **CALL).json()["choices"]
    entries = choices[1]["prompt_logprobs"]
    assert entries[0] is None
    assert len(entries) == len(ids)
    for token_id, entry in zip(ids[1:], entries[1:], strict=True):
        assert entry[str(token_id)]["decoded_token"] == hybrid.tokenizer.token_text(token_id)
        assert {1, 2} <= {of["rank"] for of in entry.values()}


def test_a_suffix_is_filled_in_with_the_tokens_of_qwen(server, hybrid):
    control, seen = hybrid.tokenizer.control_tokens, []
    filling = [*hybrid.tokenizer.encode("a + b"), control["<|fim_pad|>"], control["<|fim_middle|>"]]

    def wanted(prompt, generated):
        seen.append(prompt)
        return filling[len(generated)]

    with scripted(hybrid, wanted):
        choice = server.post(PATH, prompt="def add(a, b): # <|fim_middle|>\n  return ", suffix="\n").json()["choices"][0]
    plain = [hybrid.tokenizer.encode(t, parse_control=False) for t in ("def add(a, b): # <|fim_middle|>\n  return ", "\n")]
    assert seen[0] == (control["<|fim_prefix|>"], *plain[0], control["<|fim_suffix|>"], *plain[1], control["<|fim_middle|>"])
    assert (choice["text"], choice["finish_reason"]) == ("a + b", "stop")


def test_stop_strings_and_choices_to_match_are_honoured(client, hybrid):
    with scripted(hybrid, by_position(hybrid.tokenizer.encode("one two three four"))):
        reply = client.completions.create(model="hybrid", prompt="Count", stop=[" three"])
        assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("one two", "stop")
        assert reply.choices[0].stop_reason == " three"
    reply = client.completions.create(model="hybrid", prompt="Yes or no?", extra_body={"guided_choice": ["maybe"]})
    assert reply.choices[0].text == "maybe"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"foo": 1}, "foo"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": [1 << 70]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "word " * 5000}, "prompt"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"n": 0}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"suffix": "b", "echo": True}, "echo"),
        ({"max_tokens": 0, "min_tokens": 1}, "min_tokens"),
        ({"max_tokens": 0, "guided_regex": "a"}, "grammar"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"cache_salt": ""}, "cache_salt"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(server, fields, param):
    reply = server.post(PATH, **({"prompt": "a"} | fields))
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


def test_prompts_of_different_salts_share_nothing(server, hybrid):
    def n_cached(salt):
        return server.post(PATH, prompt=PROMPT * 3, cache_salt=salt, **CALL).json()["usage"]["prompt_tokens_details"][
            "cached_tokens"
        ]

    hybrid.settle()
    hybrid._engine.cache.clear()
    assert [n_cached(salt) > 0 for salt in ("a", "a", "b", None, None, "b")] == [False, True, False, False, True, True]


def test_all_prompts_of_a_request_are_one_request_to_the_limits(server, monkeypatch):
    admitted = []
    own = type(server.server.limits).admit

    def admit(limits, caller):
        admitted.append(caller)
        return own(limits, caller)

    monkeypatch.setattr(type(server.server.limits), "admit", admit)
    assert len(server.post(PATH, prompt=["a", "b", "c"], n=2, **CALL).json()["choices"]) == 6
    assert len(admitted) == 1


def test_a_client_that_leaves_gives_its_pages_back(server, hybrid, monkeypatch):
    own = Engine.step
    monkeypatch.setattr(Engine, "step", lambda engine: (time.sleep(0.01), own(engine))[1])  # 3000 of them take half a minute
    body = {"prompt": [PROMPT, "Once"], "max_tokens": 3000, "ignore_eos": True}
    with httpx.Client(base_url=server.url) as leaving, leaving.stream("POST", PATH, json={**body, "stream": True}) as reply:
        next(reply.iter_lines())
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=server.url, timeout=0.3) as leaving:
        leaving.post(PATH, json=body)
    started = time.monotonic()
    assert is_idle(hybrid)
    assert time.monotonic() - started < 5


def test_an_error_in_mid_stream_is_told_as_the_last_event(server, hybrid):
    ids = tuple(hybrid.tokenizer.encode("Once"))
    with broken(hybrid, lambda prompt: prompt == ids):
        events = server.events(PATH, prompt=["One", "Once"], stream=True, max_tokens=3)
    assert "error" in json.loads(events[-1])
    assert is_idle(hybrid)


def test_a_token_before_the_text_is_no_part_of_its_offsets(tiny_checkpoints, tmp_path):
    folder, _ = tiny_checkpoints.get("qwen3-untied")
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    start = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": at}} for at, name in enumerate("AB"))
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, second],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    llm, text = LLM(tmp_path), "The tea is hot"
    with served({"tiny": llm}) as running:
        choice = running.post(PATH, prompt=text, echo=True, logprobs=0, max_tokens=2, temperature=0).json()["choices"][0]
    llm.close()
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert tokens[0] == "<|endoftext|>"
    assert offsets[:2] == [0, 0]
    assert choice["text"].startswith(text)
    for token, offset in zip(tokens[1:-2], offsets[1:-2], strict=True):
        assert text[offset:].startswith(token)
    assert offsets[-2] == len(text)
