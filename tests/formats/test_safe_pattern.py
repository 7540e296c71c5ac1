"""Patterns against Python's own matcher, and what must not take for ever."""

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.safe_pattern import SafePattern

NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "lm_head", "a.b", "a", "")
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:k_proj|v_proj|q_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:k_proj|v_proj|q_proj)))"
)


@pytest.mark.parametrize(
    "pattern",
    [
        UNSLOTH,
        r".*",
        r".*\.(q|v)_proj",
        r"model\.layers\.[0-5]\..*",
        r"^model.layers.0.self_attn.q_proj$",
        r"[^.]+",
        r"a?\.?b?",
        r"(model|lm)[._].{0,4}",
        r".*\.\d{2}\..*",
        r".*\.\d{,1}\..*",
        r"(\w+\.){2,3}\w+",
        r"()",
        r"a||b",
        r"(a|a.b)*",
        r"[]a.]+b",
        r"(?:lm_head\Z|\Aa)",
        r".*\bq_proj",
        r".*\Bproj",
        r"(?:a*)*\.b",
        r"\S+\D",
        r"(model\.(layers\.)?)+\d.*",
        r"[\]\-a]",
        r"a{1}.{1,}",
        r"(?:){3}a",
        r"^a.b$",
        r"^a",
        r"b$",
        r"q_proj",
        r"self_attn.q_proj",
        r"a\.b",
        "",
    ],
)
def test_a_pattern_means_what_it_means_to_python(pattern: str) -> None:
    ours = SafePattern(pattern, "here")
    for name in NAMES:
        assert ours.matches(name) == (re.fullmatch(pattern, name) is not None), name
        starts = frozenset({0, *(i + 1 for i, c in enumerate(name) if c == ".")})
        assert ours.matches(name, starts) == (re.match(rf"(.*\.)?({pattern})$", name) is not None), name


items = st.sampled_from(["a", "b", ".", r"\.", "[ab]", "[^a]", r"\w", r"\b", "^", "$"])
repeats = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,2}", "{,2}", "{1,}", "*?", "??"])
patterns = st.recursive(
    st.tuples(items, st.just("")).map("".join),
    lambda inner: st.lists(st.tuples(inner, repeats).map(lambda p: f"(?:{p[0]}){p[1]}"), min_size=1, max_size=3).flatmap(
        lambda parts: st.sampled_from(["".join(parts), "|".join(parts)])
    ),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(patterns, st.text("ab.", max_size=6))
@example("(?:a|)*", "aa")
def test_any_pattern_means_what_it_means_to_python(pattern: str, text: str) -> None:
    assert SafePattern(pattern, "here").matches(text) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"(a|a)*b", r"(a|aa)+$b", "(a|a)" * 60 + "b", "a?" * 60 + "a" * 60, r"(((a*)*)*)*b", r"(.*.*.*.*)*x"]
)
def test_a_hostile_pattern_takes_no_longer_than_any_other(pattern: str) -> None:
    started = time.process_time()
    SafePattern(pattern, "here").matches("a" * 59)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("(a", r"\( without its \)"),
        ("a)", r"unbalanced \)"),
        ("*a", r"\* with nothing to repeat"),
        ("a**", "nothing to repeat"),
        ("[a", r"\[ without its \]"),
        ("[b-a]", "bad character range"),
        ("a{2,1}", r"\{2,1\}"),
        ("a\\", "escape"),
        (r"(a)\1", "escape"),
        (r"\x41", "escape"),
        ("a*+", "repeat"),
        ("a{}", r"repeat '\{\}'"),
        ("a{99999}", r"repeat '\{99999\}'"),
        ("((a{1000}){1000}){1000}", "more than 4000 states"),
        ("a{x}", "nothing to repeat"),
    ],
)
def test_a_broken_or_outsized_pattern_is_refused_with_its_place(pattern: str, named: str) -> None:
    with pytest.raises(FormatError, match=f"^here: pattern .*{named}"):
        SafePattern(pattern, "here")


@pytest.mark.parametrize("pattern", ["(?=a)a", "(?!b).*", "(?<=a)b", "(?P<n>a)", "(?i)a", "(?i:a)", "(?>a)"])
def test_what_is_left_out_is_named(pattern: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"^here: pattern .* uses \(\? at 0"):
        SafePattern(pattern, "here")


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    with pytest.raises(FormatError, match="nested"):
        SafePattern("(" * 1000 + "a" + ")" * 1000, "here")
