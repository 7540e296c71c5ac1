"""`samovar generate` on a tiny random model."""

import json
from pathlib import Path

import pytest

from samovar.llm import LLM
from tests.cli.fakes import FakeStream, said, samovar


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model, isa="numpy")


GREEDY = ("--temperature", "0", "--max-tokens", "12")


def test_text_streams_to_standard_output(tiny_model: Path, llm: LLM) -> None:
    expected = llm.generate("The tea", temperature=0, max_tokens=12).text
    for argv, stdin in ((("-p", "The tea"), b""), ((), b"The tea")):
        ended = samovar("generate", str(tiny_model), *argv, *GREEDY, stdin=stdin)
        assert (ended.code, ended.out.removesuffix("\n")) == (0, expected.removesuffix("\n"))


def test_a_prompt_file_is_read_as_it_is(tiny_model: Path, llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("The tea\n\n", encoding="utf-8")
    report = json.loads(samovar("generate", str(tiny_model), "--file", str(tmp_path / "prompt.txt"), *GREEDY, "--json").out)
    assert report["usage"]["n_prompt"] == len(llm.tokenizer.encode("The tea\n\n"))


def test_json_reports_the_whole_result(tiny_model: Path, llm: LLM) -> None:
    ended = samovar("generate", str(tiny_model), "-p", "The tea", "--json", "--seed", "7", "--max-tokens", "9")
    expected = llm.generate("The tea", seed=7, max_tokens=9)
    report = json.loads(ended.out)
    assert report["text"] == expected.text
    assert report["token_ids"] == list(expected.token_ids)
    assert report["finish_reason"] == expected.finish_reason
    assert report["seed"] == 7
    usage = report["usage"]
    assert 0 <= usage.pop("n_accepted") <= usage.pop("n_drafted")  # how many are guessed depends on the clock
    n_prompt = len(llm.tokenizer.encode("The tea"))
    assert usage == {"n_prompt": n_prompt, "n_completion": 9, "n_thinking": 0, "n_cached": 0, "yarn_factor": 1}
    assert set(report["timing"]) == {"prefill_s", "decode_s"}


def test_chat_wraps_the_prompt_in_the_template(tiny_model: Path, llm: LLM) -> None:
    ended = samovar("generate", str(tiny_model), "--chat", "--system", "Brief.", "-p", "Tea?", "--json", *GREEDY)
    messages: list[dict[str, object]] = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Tea?"}]
    expected = llm.chat(messages, temperature=0, max_tokens=12)
    report = json.loads(ended.out)
    assert report["token_ids"] == list(expected.token_ids)
    assert report["usage"]["n_prompt"] == expected.usage.n_prompt


def test_every_sampling_option_reaches_the_engine(tiny_model: Path, llm: LLM) -> None:
    options = {
        "temperature": 1.3, "top_k": 7, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.2, "presence_penalty": 0.5,
        "frequency_penalty": 0.25, "seed": 11, "max_tokens": 20,
    }  # fmt: skip
    argv = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    plain = json.loads(samovar("generate", str(tiny_model), "-p", "The tea", "--json", *argv).out)
    assert plain["token_ids"] == list(llm.generate("The tea", **options).token_ids)
    stop_id = plain["token_ids"][5]
    argv += ["--stop-token-id", str(stop_id)]
    stopped = json.loads(samovar("generate", str(tiny_model), "-p", "The tea", "--json", *argv).out)
    assert stopped["finish_reason"] == "stop"
    assert len(stopped["token_ids"]) <= 6
    argv += ["--logit-bias", f"{stop_id}=-100", "--logit-bias", "5=1.5"]
    biased = json.loads(samovar("generate", str(tiny_model), "-p", "The tea", "--json", *argv).out)
    assert biased["token_ids"] == list(llm.generate("The tea", **options, logit_bias={stop_id: -100, 5: 1.5}).token_ids)
    assert stop_id not in biased["token_ids"]


@pytest.mark.parametrize(("bias", "message"), [("5", "form ID=X"), ("a=1", "form ID=X"), ("5=101", "from -100 to 100")])
def test_an_unsound_bias_is_a_usage_error(tiny_model: Path, bias: str, message: str) -> None:
    ended = samovar("generate", str(tiny_model), "-p", "The tea", "--logit-bias", bias)
    assert ended.code == 2
    assert message in ended.err


def test_a_stop_string_ends_the_text(tiny_model: Path, llm: LLM) -> None:
    whole = llm.generate("The tea", temperature=0, max_tokens=12).text
    stop = whole[len(whole) // 2 :][:3]
    ended = samovar("generate", str(tiny_model), "-p", "The tea", *GREEDY, "--stop", stop)
    assert ended.out.removesuffix("\n") == whole[: whole.index(stop)].removesuffix("\n")


def test_a_prompt_longer_than_the_context_is_refused_with_the_counts(tiny_model: Path) -> None:
    for options, n_context in (((), 512), (("--long-context", "off"), 128)):
        ended = samovar("generate", str(tiny_model), "-p", "tea " * 600, *GREEDY, *options)
        assert ended.code == 1
        assert f"context holds {n_context}" in ended.err
        assert ended.out == ""


def test_a_context_beyond_the_models_is_refused(tiny_model: Path) -> None:
    for options, n_context in (((), 512), (("--long-context", "off"), 128)):
        ended = samovar("generate", str(tiny_model), "-p", "tea", "--ctx-size", "513", *options)
        assert ended.code == 1
        assert "513" in ended.err
        assert f"1 to {n_context}" in ended.err


def test_the_slow_kernels_are_announced_in_one_line(tiny_model: Path) -> None:
    ended = samovar("generate", str(tiny_model), "-p", "tea", *GREEDY)
    assert len([line for line in ended.err.splitlines() if "NumPy" in line]) == 1


def test_a_context_that_was_asked_for_is_not_warned_about(tiny_model: Path) -> None:
    assert "context is" not in samovar("generate", str(tiny_model), "-p", "tea", *GREEDY, "--ctx-size", "64").err


def test_a_text_that_was_to_go_on_is_reported_as_cut(tiny_model: Path) -> None:
    endless = ("generate", str(tiny_model), "-p", "tea", "--temperature", "0", "--ctx-size", "24", "--json")
    ended = samovar(*endless)
    assert json.loads(ended.out)["finish_reason"] == "length"
    assert "the answer is cut off after" in ended.err
    assert "cut off" not in samovar(*endless, "--max-tokens", "5").err


@pytest.mark.parametrize("chat", [(), ("--chat",)])
def test_a_text_ends_after_4096_tokens_unless_told_otherwise(
    chat: tuple[str, ...], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def stream(_llm: LLM, _prompt: object, **options: object) -> FakeStream:
        asked.append(options["max_tokens"])
        return FakeStream(said("tea"))

    monkeypatch.setattr(LLM, "stream_chat", stream)
    monkeypatch.setattr(LLM, "stream_generate", stream)
    samovar("generate", str(tiny_model), "-p", "tea", *chat)
    samovar("generate", str(tiny_model), "-p", "tea", *chat, "--max-tokens", "9")
    assert asked == [4096, 9]


def test_a_stop_token_beyond_the_vocabulary_is_named_as_the_option(tiny_model: Path) -> None:
    ended = samovar("generate", str(tiny_model), "-p", "tea", "--stop-token-id", "999999")
    assert ended.code == 1
    assert "error: --stop-token-id is [999999]; expected" in ended.err


def test_thinking_on_a_model_without_it_is_refused(tiny_model: Path) -> None:
    ended = samovar("generate", str(tiny_model), "--chat", "--think", "-p", "tea")
    assert ended.code == 1
    assert "think" in ended.err


def test_an_answer_can_be_held_to_a_schema_a_pattern_or_a_grammar(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"enum": ["tea", "coffee"]}')
    (tmp_path / "drink.lark").write_text('start: "tea" | "coffee"')
    (tmp_path / "drink.gbnf").write_text('root ::= "tea" | "coffee"')
    for options in (
        ("--json-schema", str(tmp_path / "schema.json")),
        ("--choice", "tea", "--choice", "coffee"),
        ("--regex", "tea|coffee"),
        ("--lark", str(tmp_path / "drink.lark")),
        ("--gbnf", str(tmp_path / "drink.gbnf")),
    ):
        report = json.loads(samovar("generate", str(tiny_model), "-p", "a", "--json", "--seed", "1", *options).out)
        assert report["text"].strip('"') in ("tea", "coffee")
        assert (report["finish_reason"], report["is_grammar_complete"]) == ("stop", True)


def test_a_grammar_that_cannot_be_read_or_compiled_is_one_clear_line(tiny_model: Path, tmp_path: Path) -> None:
    missing = samovar("generate", str(tiny_model), "-p", "a", "--lark", str(tmp_path / "none.lark"))
    assert missing.code == 1
    assert "none.lark cannot be read" in missing.err
    unsound = samovar("generate", str(tiny_model), "-p", "a", "--regex", "(")
    assert unsound.code == 1
    assert "unclosed group" in unsound.err.splitlines()[-1]


def test_memory_is_given_with_a_unit_and_kept_to(tiny_model: Path) -> None:
    assert samovar("generate", str(tiny_model), "-p", "a", "--memory", "1GiB", "--max-tokens", "2").code == 0
    short = samovar("generate", str(tiny_model), "-p", "a", "--memory", "1MiB", "--max-tokens", "2")
    assert short.code == 1
    assert "MiB at least" in short.err
    wrong = samovar("generate", str(tiny_model), "-p", "a", "--memory", "much")
    assert wrong.code == 2
    assert "expected one as in 6GiB" in wrong.err
