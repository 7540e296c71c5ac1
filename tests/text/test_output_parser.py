"""Thoughts and answer come apart alike, however the text is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.text.output_parser import Delta, OutputParser
from samovar.text.tokenizer import Tokenizer
from tests.text.witnesses import qwen3

STARTS = {
    "start": "<|im_start|>assistant\n",
    "thinking": "assistant\n<think>\n",
    "answer": "assistant\n<think>\n\n</think>\n\n",
}


def join(deltas: list[Delta]) -> tuple[str, str]:
    """The thoughts and the answer."""
    assert all(delta.text for delta in deltas)
    return tuple("".join(d.text for d in deltas if d.field == field) for field in ("reasoning", "content"))


def by_text(state, pieces: list[str]) -> tuple[str, str]:
    """Parse for a tokenizer that has no tags."""
    parser = OutputParser(state, {})
    return join([delta for piece in pieces for delta in parser.push(None, piece)] + parser.finish())


def by_token(prompt: str, ids: list[int], tokenizer: Tokenizer | None = None) -> tuple[str, str, int]:
    """Parse what Qwen3 writes as tokens: thoughts, answer, number of tokens thought."""
    tokenizer = tokenizer or qwen3()
    parser, detokenizer = OutputParser.for_prompt(prompt, tokenizer), tokenizer.detokenizer()
    deltas = [delta for i in ids for delta in parser.push(i, detokenizer.push(i))] + parser.finish(detokenizer.finish())
    return (*join(deltas), parser.n_thinking)


# State at the start, what is written, thoughts, answer
CASES = [
    ("thinking", "hm\n</think>\n\nParis", "hm", "Paris"),
    ("thinking", "\n\nhm\n\nhm\n\n\n</think>Paris\n", "hm\n\nhm", "Paris\n"),
    ("thinking", "<think>\nhm</think>Paris", "hm", "Paris"),
    ("thinking", "\n <think>hm</think>Paris", "hm", "Paris"),
    ("thinking", "hm <think> hm</think>a", "hm <think> hm", "a"),
    ("thinking", "</think>\n\nParis", "", "Paris"),
    ("thinking", "\n\n</think>", "", ""),
    ("thinking", "hm", "hm", ""),
    ("thinking", "hm\n\n", "hm\n\n", ""),
    ("thinking", "a</think>b</think>c<think>d", "a", "b</think>c<think>d"),
    ("thinking", "", "", ""),
    ("start", "<think>\nhm\n</think>\n\nParis", "hm", "Paris"),
    ("start", "\n\n <think>hm</think>Paris", "hm", "Paris"),
    ("start", "<think>\n\n</think>\n\nParis", "", "Paris"),
    ("start", "<think>hm", "hm", ""),
    ("start", " Paris <think>a</think>", "", " Paris <think>a</think>"),
    ("start", "\n\nParis", "", "\n\nParis"),
    ("start", "a</think>b", "", "a</think>b"),
    ("start", " \n", "", " \n"),
    ("answer", "<think>a</think>\nb", "", "<think>a</think>\nb"),
    ("answer", "\n\nParis", "", "\n\nParis"),
]  # fmt: skip


@pytest.mark.parametrize(("state", "text", "thoughts", "answer"), CASES)
def test_tags_in_the_text_part_thoughts_from_answer(state, text, thoughts, answer):
    assert by_text(state, [text]) == (thoughts, answer)
    assert by_text(state, list(text)) == (thoughts, answer)


@pytest.mark.parametrize(("state", "text", "thoughts", "answer"), CASES)
def test_tags_that_are_tokens_part_thoughts_from_answer(state, text, thoughts, answer):
    assert by_token(STARTS[state], qwen3().encode(text))[:2] == (thoughts, answer)


@pytest.mark.parametrize("text", ["<thi", "hm</thi", "hm\n</think", "<", "a <"])
def test_half_a_tag_at_the_end_is_text(text):
    assert by_text("thinking", [text]) == (text, "")
    assert by_text("start", [text]) == ("", text)


def test_a_tag_that_is_only_quoted_does_not_count_where_tags_are_tokens():
    ids = [*qwen3().encode("I close with </think> then", parse_control=False), qwen3().control_tokens["</think>"]]
    assert by_token(STARTS["thinking"], ids)[:2] == ("I close with </think> then", "")
    quoted = qwen3().encode("<think>a</think>b", parse_control=False)
    assert by_token(STARTS["start"], quoted)[:2] == ("", "<think>a</think>b")


def test_thoughts_that_are_closed_twice_leave_no_tag_in_the_answer():
    ids = qwen3().encode("hm\n</think>\n\n</think>\n\n</think>\n\nParis </think>")
    assert by_token(STARTS["thinking"], ids)[:2] == ("hm", "Paris </think>")


def test_a_tool_call_ends_thoughts_that_are_open():
    ids = qwen3().encode('I call\n<tool_call>\n{"name": "f"}\n</tool_call>')
    assert by_token(STARTS["thinking"], ids)[:2] == ("I call", '<tool_call>\n{"name": "f"}\n</tool_call>')
    quoted = [*qwen3().encode("a <tool_call> b", parse_control=False), *qwen3().encode("</think>c")]
    assert by_token(STARTS["thinking"], quoted)[:2] == ("a <tool_call> b", "c")


def test_tokens_of_the_thoughts_are_counted_without_the_tags():
    thoughts = qwen3().encode("\none two three\n")
    ids = [*qwen3().encode("<think>"), *thoughts, *qwen3().encode("</think>\n\nfour")]
    assert by_token(STARTS["start"], ids)[2] == len(thoughts)
    assert by_token(STARTS["thinking"], ids[1:])[2] == len(thoughts)
    assert by_token(STARTS["answer"], ids)[2] == 0


def test_half_a_character_before_a_tag_belongs_to_the_thoughts():
    half = next(i for i in range(256) if qwen3().token_bytes(i) == b"\xf0")
    assert by_token(STARTS["thinking"], [half, *qwen3().encode("</think>a")])[:2] == ("\ufffd", "a")


def test_hidden_tags_part_thoughts_from_answer_too():
    parser = OutputParser.for_prompt(STARTS["start"], qwen3())
    open_id, close_id = (qwen3().control_tokens[tag] for tag in ("<think>", "</think>"))
    deltas = [
        d for i, text in [(open_id, ""), (1, "hm"), (close_id, ""), (2, "a")] for d in parser.push(i, text)
    ] + parser.finish()
    assert deltas == [Delta("reasoning", "hm"), Delta("content", "a")]


def test_what_is_certain_is_not_held_back():
    parser = OutputParser("thinking", {})
    assert parser.push(None, "hm, ") == [Delta("reasoning", "hm, ")]
    assert parser.is_thinking
    assert parser.push(None, "so\n</th") == [Delta("reasoning", "so")]
    assert parser.push(None, "ose") == [Delta("reasoning", "\n</those")]
    assert parser.push(None, "</think>\nParis is") == [Delta("content", "Paris is")]
    assert not parser.is_thinking


pieces = st.lists(
    st.sampled_from(["<think>", "</think>", "<th", "ink>", "\n", "\n\n", " ", "a", "é", "<", "</", "<tool_call>"]), max_size=12
)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(["start", "thinking", "answer"]), pieces, st.data())
def test_any_cut_of_a_text_gives_the_same(state, parts, data):
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    cut = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert by_text(state, cut) == by_text(state, [text]) == by_text(state, list(text))


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["start", "thinking", "answer"]), pieces)
def test_nothing_is_lost_but_tags_and_the_newlines_beside_them(state, parts):
    text = "".join(parts)
    together = "".join(by_text(state, [text]))
    bare = text.replace("<think>", "", 1) if together.count("<think>") < text.count("<think>") else text
    bare = bare.replace("</think>", "", 1) if together.count("</think>") < text.count("</think>") else bare
    assert "".join(together.split()) == "".join(bare.split())
