"""Token ids to text, one at a time, without ever showing half a character."""

import codecs
from collections.abc import Callable


class Detokenizer:
    """Joins the bytes of tokens into text.

    The texts of all `push` calls and of `finish` together are what the bytes decode to as one: a character that is cut by the
    end of a token is held back, and bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], *, n_spaces_dropped: int = 0, hidden: frozenset[int] = frozenset()
    ) -> None:
        """`n_spaces_dropped` is how many spaces the text loses at its beginning, `hidden` ids show nothing."""
        self._token_bytes = token_bytes
        self._hidden = hidden
        self._n_spaces = n_spaces_dropped
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that is complete with this token; often empty."""
        if token_id in self._hidden:
            return ""
        return self._without_prefix(self._decoder.decode(self._token_bytes(token_id)))

    def finish(self) -> str:
        """The rest: U+FFFD where a character stays incomplete."""
        return self._without_prefix(self._decoder.decode(b"", final=True))

    def _without_prefix(self, text: str) -> str:
        while text and self._n_spaces:
            if text[0] != " ":
                self._n_spaces = 0
                break
            text, self._n_spaces = text[1:], self._n_spaces - 1
        return text
