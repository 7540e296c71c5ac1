from hypothesis import given
from hypothesis import strategies as st

from samovar.llm.stop_strings import StopStrings

TEXT = st.text(alphabet="ab<|>", max_size=40)


@given(TEXT, st.lists(st.text(alphabet="ab<|>", min_size=1, max_size=5), max_size=3), st.randoms())
def test_however_the_text_is_cut_it_ends_before_the_first_stop_string(text, stops, random):
    finder, shown, at = StopStrings(stops), "", 0
    while at < len(text):
        step = random.randint(1, 4)
        shown += finder.push(text[at : at + step])
        assert not any(stop in shown for stop in stops)
        assert text.startswith(shown)
        at += step
    shown += finder.finish()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert (shown, finder.is_hit) == (text, False)
    else:
        assert finder.is_hit
        assert any(text.startswith(shown + stop) for stop in stops)
        assert not any(stop in shown for stop in stops)


def test_text_that_cannot_become_a_stop_string_is_not_held_back():
    finder = StopStrings(["\n\nUser:"])
    assert finder.push("Hello") == "Hello"
    assert finder.push("\n") == ""
    assert finder.push("there") == "\nthere"


def test_nothing_is_shown_after_a_hit():
    finder = StopStrings(["END"])
    assert finder.push("one EN") == "one "
    assert finder.push("D two") == ""
    assert finder.push("three") + finder.finish() == ""
