"""From the bytes of a text file to its text, in whatever encoding it came.

Marks at the start (BOM) are believed, then UTF-8 is tried, then Windows-1252, which most Western files of old are in and whose
printed part is that of Latin-1. What this assumes is told in the note, because a wrong guess looks like wrong letters.
"""

import codecs
from dataclasses import dataclass
from typing import Final

from samovar.app.codes import FileRefused

_MARKS: Final = (  # that of UTF-32-LE begins with that of UTF-16-LE
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS: Final = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b")) + b"\x7f"  # those that no text file has; ESC colours logs
_MAX_CONTROL_SHARE: Final = 0.01
_WRONG: Final = "\ufffd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A text with lines that end in a line feed, and what had to be assumed or given up for it."""

    text: str
    notes: tuple[str, ...] = ()


def decode_text(name: str, data: bytes) -> Decoded:
    """The text of the file `name`. Raises FileRefused, with that name, for one that is no text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _marked(name, data[len(mark) :], encoding)
    n_controls = len(data) - len(data.translate(None, _CONTROLS))
    if b"\0" in data or n_controls > len(data) * _MAX_CONTROL_SHARE:
        raise FileRefused(f"{name} is a binary file; expected text, code, CSV, PDF or DOCX", "file_kind")
    try:
        return Decoded(text=_lines(data.decode()))
    except UnicodeDecodeError:
        pass
    text = data.decode("utf-8", "replace")
    n_wrong, n_right = text.count(_WRONG), sum(character > "\x7f" and character != _WRONG for character in text)
    if n_right > n_wrong:
        return Decoded(text=_lines(text), notes=(_broken(n_wrong, "UTF-8"),))
    note = "read as Windows-1252 (Western European), as it is no UTF-8; if letters look wrong, save it as UTF-8"
    try:
        return Decoded(text=_lines(data.decode("cp1252")), notes=(note,))
    except UnicodeDecodeError:
        return Decoded(text=_lines(data.decode("latin-1")), notes=(note.replace("Windows-1252", "Latin-1"),))


def _marked(name: str, data: bytes, encoding: str) -> Decoded:
    text = data.decode(encoding, "replace")
    n_wrong = text.count(_WRONG)
    if "\0" in text or n_wrong * 2 > len(text):
        raise FileRefused(f"{name} begins like {encoding.upper()} text and is none; save it as UTF-8", "file_unreadable")
    notes = () if encoding == "utf-8" else (f"read as {encoding.upper()}",)
    return Decoded(text=_lines(text), notes=(*notes, _broken(n_wrong, encoding.upper())) if n_wrong else notes)


def _broken(n_wrong: int, encoding: str) -> str:
    return f"{n_wrong} places are no sound {encoding} and show as {_WRONG}"


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
