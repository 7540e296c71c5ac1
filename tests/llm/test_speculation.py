"""Speculation as a caller sees it: the same answers, said to have been guessed; and drafts that cannot serve are refused."""

import json
import subprocess
import sys

import pytest

from samovar.errors import BadRequest, UnsupportedModel
from samovar.llm import LLM
from samovar.llm.options import Options
from tests.cli.fakes import samovar
from tests.real_models import QWEN_CODER, SMOLLM2, real_model

TEXT = "the tea is hot, the tea is hot, the tea"
CALLS: list[Options] = [
    {"temperature": 0, "max_tokens": 60},
    {"temperature": 0.9, "seed": 4, "max_tokens": 60},
    {"temperature": 0.9, "seed": 4, "max_tokens": 60, "presence_penalty": 0.4, "repetition_penalty": 1.1},
]


@pytest.fixture(scope="module")
def plain_llm(tiny_folder):
    return LLM(tiny_folder, speculation="off")


@pytest.fixture(scope="module")
def other_folder(tiny_checkpoints):
    return tiny_checkpoints.get("qwen3-tied-8-to-1")[0]


@pytest.mark.parametrize("mode", ["auto", "ngram"])
@pytest.mark.parametrize("call", CALLS)
def test_looking_up_changes_no_answer(plain_llm, tiny_folder, mode, call):
    llm = LLM(tiny_folder, speculation=mode)
    for _ in range(2):  # the second knows what steps cost
        assert llm.generate(TEXT, **call).token_ids == plain_llm.generate(TEXT, **call).token_ids


@pytest.mark.parametrize("call", CALLS)
def test_a_draft_model_changes_no_answer_and_its_guesses_are_counted(plain_llm, tiny_folder, other_folder, call):
    expected = plain_llm.generate(TEXT, **call)
    for draft in (tiny_folder, other_folder):
        for mode in ("auto", "draft"):
            llm = LLM(tiny_folder, draft=draft, speculation=mode)
            found = llm.generate(TEXT, **call)
            assert found.token_ids == expected.token_ids
            assert found.text == expected.text
            assert 0 <= found.usage.n_accepted <= found.usage.n_drafted
            short: Options = {**call, "max_tokens": 10}
            prompts = [TEXT, "The samovar", "S"]
            assert [r.token_ids for r in llm.generate(prompts, **short)] == [
                plain_llm.generate(prompt, **short).token_ids for prompt in prompts
            ]


def test_a_stop_string_ends_an_answer_as_without_speculation(plain_llm, tiny_folder):
    free = plain_llm.generate(TEXT, temperature=0, max_tokens=60)
    stop = free.text[len(free.text) // 2 :][:3]
    expected = plain_llm.generate(TEXT, temperature=0, max_tokens=60, stop=stop)
    found = LLM(tiny_folder, draft=tiny_folder, speculation="draft").generate(TEXT, temperature=0, max_tokens=60, stop=stop)
    assert (found.text, found.token_ids, found.finish_reason) == (expected.text, expected.token_ids, "stop")


def test_without_speculation_nothing_is_guessed(plain_llm):
    usage = plain_llm.generate(TEXT, **CALLS[0]).usage
    assert (usage.n_drafted, usage.n_accepted) == (0, 0)


def test_a_draft_with_another_vocabulary_is_refused_with_the_token_that_differs(tiny_folder, tmp_path):
    draft = tmp_path / "draft"
    draft.mkdir()
    for path in tiny_folder.iterdir():
        (draft / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((draft / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    a, b = (piece for piece, i in vocabulary.items() if i in (40, 41))
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (draft / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        UnsupportedModel, match=r"draft: token 40 is '.' in the draft model's vocabulary and '.' in the model's"
    ):
        LLM(tiny_folder, draft=draft)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speculation": "always"}, "expected one of auto, off, ngram, draft"),
        ({"speculation": "draft"}, "no draft model is given"),
        ({"speculation": "off", "draft": "x"}, "leaves the draft model unused"),
        ({"speculation": "ngram", "draft": "x"}, "leaves the draft model unused"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(tiny_folder, settings, message):
    with pytest.raises(BadRequest, match=message):
        LLM(tiny_folder, **settings)


def test_the_command_line_passes_the_choices_on_and_refuses_contradictions(tiny_folder, plain_llm):
    greedy = ("-p", TEXT, "--temperature", "0", "--max-tokens", "40", "--json")
    expected = list(plain_llm.generate(TEXT, temperature=0, max_tokens=40).token_ids)
    for options in (("--speculation", "off"), ("--draft", str(tiny_folder)), ()):
        report = json.loads(samovar("generate", str(tiny_folder), *greedy, *options).out)
        assert report["token_ids"] == expected
    ended = samovar("generate", str(tiny_folder), *greedy, "--speculation", "draft")
    assert ended.code == 2
    assert "--speculation is 'draft', and no draft model is given" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("name", [SMOLLM2, QWEN_CODER])
def test_a_real_model_repeats_a_text_with_far_fewer_steps_and_the_same_tokens(name):
    path = real_model(name)
    question = (
        "Repeat this word for word: " + "In a hole in the ground there lived a hobbit. Not a nasty, dirty, wet hole. " * 2
    )
    plain, ahead = (LLM(path, max_context=1024, speculation=mode) for mode in ("off", "auto"))
    for options in ({"temperature": 0.0}, {"temperature": 0.8, "seed": 3}, {"temperature": 1.0, "seed": 9, "top_k": 40}):
        expected = plain.chat(question, max_tokens=80, **options)
        found = ahead.chat(question, max_tokens=80, **options)
        assert found.token_ids == expected.token_ids
    greedy = ahead.chat(question, max_tokens=80, temperature=0)
    assert greedy.usage.n_accepted > greedy.usage.n_completion / 3


@pytest.mark.slow
def test_models_of_different_families_do_not_draft_for_each_other():
    with pytest.raises(UnsupportedModel, match="choose a smaller model of the same family"):
        LLM(real_model(QWEN_CODER), max_context=512, draft=real_model(SMOLLM2))


def test_a_draft_that_is_not_there_is_one_line_on_standard_error(tiny_folder):
    command = [sys.executable, "-m", "samovar", "generate", str(tiny_folder), "-p", "a", "--draft", "nosuch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "nosuch" in done.stderr
