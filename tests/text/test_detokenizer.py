"""Streaming against decoding everything at once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.text.detokenizer import Detokenizer
from tests.text.witnesses import qwen3

PIECES = st.lists(st.binary(max_size=5) | st.text(max_size=3).map(str.encode), max_size=30)


def stream(pieces: list[bytes], **options) -> list[str]:
    detokenizer = Detokenizer(pieces.__getitem__, **options)
    return [*map(detokenizer.push, range(len(pieces))), detokenizer.finish()]


@settings(deadline=None, max_examples=60)
@given(PIECES)
def test_the_stream_joined_is_the_whole_decoded(pieces):
    assert "".join(stream(pieces)) == b"".join(pieces).decode("utf-8", "replace")


@settings(deadline=None, max_examples=60)
@given(st.text(), st.data())
def test_no_push_ends_within_a_character(text, data):
    whole = text.encode("utf-8")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    parts = stream(pieces)
    assert "".join(parts) == text
    assert parts[-1] == ""
    for end in range(len(parts)):  # after each push the text so far is what the complete characters so far are
        seen = b"".join(pieces[: end + 1]).decode("utf-8", "ignore")
        assert "".join(parts[: end + 1]) == seen


def test_a_character_of_four_tokens_comes_at_once():
    assert stream([b"\xf0", b"\x9f", b"\x99", b"\x82!"]) == ["", "", "", "🙂!", ""]


def test_a_character_that_never_ends_is_one_mark():
    assert stream([b"a", b"\xf0\x9f"]) == ["a", "", "\ufffd"]
    assert stream([b"\xf0\x9f", b"a"]) == ["", "\ufffda", ""]


@settings(deadline=None, max_examples=60)
@given(PIECES, st.integers(0, 3))
def test_as_many_spaces_as_asked_for_go_from_the_beginning(pieces, n_spaces):
    whole = b"".join(pieces).decode("utf-8", "replace")
    n_found = len(whole) - len(whole.lstrip(" "))
    assert "".join(stream(pieces, n_spaces_dropped=n_spaces)) == whole[min(n_spaces, n_found) :]


def test_hidden_ids_show_nothing():
    assert stream([b"a", b"<end>", b"b"], hidden=frozenset([1])) == ["a", "", "b", ""]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 151_668), max_size=40))
def test_qwen3_streams_what_it_decodes(ids):
    tokenizer = qwen3()
    detokenizer = tokenizer.detokenizer()
    streamed = "".join([*map(detokenizer.push, ids), detokenizer.finish()])
    assert streamed == tokenizer.decode(ids) == b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", "replace")
