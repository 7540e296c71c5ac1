"""The form in which texts are searched: without case, and without the marks above and below letters."""

import unicodedata
from typing import Final

# Canonical combining classes from 10 on are points and accents (Hebrew, Arabic, Latin ...). Those below belong to the letter:
# the voicing of kana, the virama and nukta of Indic scripts.
_FIRST_MARK: Final = 10


def folded(text: str) -> str:
    """A text in small letters, compatibility forms made plain ("ﬁ" is "fi"), accents and vowel points removed."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c for c in parts if unicodedata.combining(c) < _FIRST_MARK)
    return unicodedata.normalize("NFKC", kept)
