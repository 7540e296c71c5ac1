"""Filling in: the prompts of a file and of a repository, where a filling ends, and what is no place to fill."""

import copy

import pytest

from samovar.errors import BadRequest
from samovar.llm import LLM, Repository
from tests.llm.scripted import scripted
from tests.real_models import QWEN_CODER, real_model
from tests.text.witnesses import qwen3_reference

# QwenLM/Qwen3-Coder, examples/Qwen2.5-Coder-fim.py
STOP_IDS = {151659, 151661, 151662, 151663, 151664, 151643, 151645}
BEFORE, AFTER = "def add(a, b):  # <|fim_middle|>\n    return ", "\n\nprint(add(1, 2))\n"
SHOP = Repository(name="samovar-shop", path="src/main.py", files={"src/tea.py": "HOT = 95\n", "notes.md": "pour <|file_sep|>"})


def segments(*parts):
    """The ids of tokens by name and of plain texts, by the package `tokenizers`."""
    reference, ids = copy.deepcopy(qwen3_reference()), []
    for kind, part in parts:
        if kind == "token":
            ids.append(reference.token_to_id(part))
            continue
        for piece in part.split("<|"):  # what looks like a token in a file is ordinary text
            assert piece or part.startswith("<|")
        reference.encode_special_tokens = True
        ids += reference.encode(part, add_special_tokens=False).ids if "<|" not in part else PLAIN[part]
    return tuple(ids)


PLAIN = {}


@pytest.fixture(autouse=True)
def _plain_texts(hybrid_llm):
    for text in (BEFORE, "notes.md\npour <|file_sep|>\n"):
        PLAIN[text] = hybrid_llm.tokenizer.encode(text, parse_control=False)
        assert not set(PLAIN[text]) & STOP_IDS


def filled(llm, answer_ids, *args, **options):
    """The prompt that the model is given, and the result of what it then says."""
    seen = []

    def says(prompt, generated):
        seen.append(prompt)
        return answer_ids[len(generated)]

    with scripted(llm, says):
        return llm.fill_in(*args, **options), seen


def test_a_file_with_a_gap_is_asked_for_as_the_models_were_trained(hybrid_llm):
    prompt = hybrid_llm.prepare_generate(BEFORE, suffix=AFTER).prompt_ids
    assert prompt == segments(
        ("token", "<|fim_prefix|>"), ("text", BEFORE), ("token", "<|fim_suffix|>"), ("text", AFTER), ("token", "<|fim_middle|>")
    )


def test_a_repository_comes_before_the_file_with_the_gap(hybrid_llm):
    prompt = hybrid_llm.prepare_generate(BEFORE, suffix=AFTER, repository=SHOP).prompt_ids
    assert prompt == segments(
        ("token", "<|repo_name|>"),
        ("text", "samovar-shop\n"),
        ("token", "<|file_sep|>"),
        ("text", "src/tea.py\nHOT = 95\n"),
        ("token", "<|file_sep|>"),
        ("text", "notes.md\npour <|file_sep|>\n"),
        ("token", "<|file_sep|>"),
        ("text", "src/main.py\n"),
        ("token", "<|fim_prefix|>"),
        ("text", BEFORE),
        ("token", "<|fim_suffix|>"),
        ("text", AFTER),
        ("token", "<|fim_middle|>"),
    )


@pytest.mark.parametrize("stop_id", sorted(STOP_IDS))
def test_a_filling_ends_at_each_of_its_ends_which_are_not_shown(hybrid_llm, stop_id):
    ids = [*hybrid_llm.tokenizer.encode("a + b"), stop_id, *hybrid_llm.tokenizer.encode("more")]
    result, _ = filled(hybrid_llm, ids, BEFORE, AFTER, repository=SHOP)
    assert (result.text, result.finish_reason) == ("a + b", "stop")
    request = hybrid_llm.prepare_generate(BEFORE, suffix=AFTER).answers[0].request
    assert set(request.sampling.stop_ids) == STOP_IDS


def test_a_stream_of_a_filling_adds_up_to_it(hybrid_llm):
    ids = [*hybrid_llm.tokenizer.encode("a + b"), 151662]
    with scripted(hybrid_llm, lambda _, generated: ids[len(generated)]):
        stream = hybrid_llm.stream_fill_in(BEFORE, AFTER)
        assert "".join(delta.text for delta in stream) == stream.result.text == "a + b"


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        (lambda m: Repository(name="", path="a"), "name"),
        (lambda m: Repository(name="a\nb", path="a"), "name"),
        (lambda m: Repository(name="a", path="a", files={"a": "b"}), "files"),
        (lambda m: Repository(name="a", path="a", files={"b": 5}), "files"),
        (lambda m: Repository(name="a", path="a", files=["b"]), "files"),
        (lambda m: m.prepare_generate("a", repository=SHOP), "suffix"),
        (lambda m: m.fill_in("a", 5), "suffix"),
        (lambda m: m.fill_in(5, "a"), "prompt"),
    ],
)
def test_what_is_no_gap_is_refused_by_name(hybrid_llm, ask, param):
    with pytest.raises(BadRequest) as caught:
        ask(hybrid_llm)
    assert caught.value.param == param


def test_a_vocabulary_without_the_tokens_cannot_fill_in(tiny_llm):
    with pytest.raises(BadRequest, match="cannot fill in"):
        tiny_llm.fill_in("a", "b")
    assert "insert" not in tiny_llm.card.capabilities


@pytest.mark.slow
def test_the_real_coder_fills_gaps_and_looks_into_other_files():
    llm = LLM(real_model(QWEN_CODER))
    greedy = {"temperature": 0, "max_tokens": 24}
    fib = llm.fill_in("def fib(n):\n    if n <= 1:\n        return n\n    return fib(", ") + fib(n - 2)\n", **greedy)
    assert fib.text.startswith("n - 1")
    between = llm.fill_in("def add(a, b):\n    return ", "\n\ndef sub(a, b):\n    return a - b\n", **greedy)
    assert between.finish_reason == "stop"  # at a token of its own, which is not shown
    assert "<|" not in between.text
    prices = {"prices.py": "def price_of_tea_in_roubles(grams):\n    return grams * 3\n"}
    before, after = "from prices import *\n\n\ndef cost_of_a_pound():\n    return price_of_", "(454)\n"
    knowing = llm.fill_in(before, after, repository=Repository(name="shop", path="main.py", files=prices), **greedy)
    assert knowing.text.startswith("tea_in_roubles")
    assert not llm.fill_in(before, after, **greedy).text.startswith("tea_in_roubles")
    llm.close()


def test_a_repository_is_told_as_one(hybrid_llm):
    with pytest.raises(BadRequest, match=r"repository is a dict; expected a samovar\.Repository"):
        hybrid_llm.fill_in("a", "b", repository={"geo.py": "x = 1"})
