"""The load of `benchmarks.soak`, small, and what it calls a violation."""

from collections import Counter

import pytest

from benchmarks.soak import TINY, Found, soak, table
from samovar.llm import LLM
from samovar.llm.random_model import write_random_model


def found(**changes) -> Found:
    settings = {"endings": Counter(stop=10), "resident": [50, 100, 101, 101, 100], "pages": (4, 4, 4)} | changes
    return Found(10, seconds=1.0, **settings)


def test_two_hundred_requests_end_once_each_and_leave_the_pool_empty(tmp_path):
    write_random_model(tmp_path / "tiny.gguf", TINY, "q8_0")
    llm = LLM(tmp_path / "tiny.gguf", max_context=512)
    result = soak(llm, 200)
    assert result.violations(growth=0.5) == []  # too short for memory to settle
    assert result.endings.keys() >= {"length", "stop", "cancelled"}
    assert result.endings.keys() <= {"length", "stop", "cancelled", "deadline", "loop"}
    assert "200 endings" in table(result)
    llm.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endings": Counter(stop=9)}, "10 requests had 9 endings"),
        ({"endings": Counter(stop=9, length=2)}, "10 requests had 11 endings"),
        ({"unsound": ["request 3 ended 2 times"]}, "ended 2 times"),
        ({"resident": [50, 100, 103, 100, 100]}, "grew by 3.0%"),
        ({"pages": (3, 4, 4)}, "3 are available"),
        ({"pages": (4, 3, 4)}, "3 free"),
    ],
)
def test_what_is_lost_or_grows_is_a_violation(changes, words):
    assert found().violations() == []
    (violation,) = found(**changes).violations()
    assert words in violation
