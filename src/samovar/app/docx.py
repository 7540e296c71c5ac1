"""The text of a Word document (DOCX), with headings, lists and tables marked as in Markdown.

A DOCX is a zip of XML (ECMA-376 part 1, chapter 17). The text is in `word/document.xml`, notes in files beside it. Only these
are unpacked, piece by piece, up to a bound, so that a zip bomb costs no more than that. A DOCTYPE, without which there are no
entities, is refused: a sound document has none.
"""

import io
import re
import zipfile
import zlib
from typing import Final
from xml.parsers import expat

from samovar.app.reading import Reading
from samovar.errors import BadRequest

_WORD: Final = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
_STRICT: Final = "http://purl.oclc.org/ooxml/wordprocessingml/main "
_FALLBACK: Final = "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback"
_DRAWING: Final = ("http://schemas.openxmlformats.org/drawingml/2006/main ", "http://purl.oclc.org/ooxml/drawingml/main ")
_HEADING: Final = re.compile(r"[Hh]eading ?([1-6])")
_PARTS: Final = ("word/document.xml", "word/footnotes.xml", "word/endnotes.xml")
_PIECE_BYTES: Final = 1 << 16


class _TooMuch(Exception):
    """More text than wanted."""


class _Text:
    """Collects the text of one part. Paragraphs of a table's cell stay on its line."""

    def __init__(self, max_chars: int) -> None:
        self.n_pictures, self._max_chars, self._n_chars = 0, max_chars, 0
        self._lines, self._line, self._cells = list[str](), list[str](), list[str]()
        self._n_tables = self._n_skipped = 0
        self._is_text = False
        self.parser = parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = self._characters, self._doctype

    def text(self) -> str:
        """What was collected, of a paragraph that was not finished too."""
        return "\n".join([*self._lines, " | ".join([*self._cells, "".join(self._line)])]).rstrip()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == _FALLBACK or self._n_skipped:  # of a drawing: the same once more, for old programs
            self._n_skipped += 1
            return
        namespace, _, tag = name.rpartition(" ")
        if f"{namespace} " in _DRAWING:
            self.n_pictures += tag == "blip"
            return
        value = next((value for key, value in attributes.items() if key.endswith(" val")), "")
        match tag if f"{namespace} " in (_WORD, _STRICT) else "":
            case "t":
                self._is_text = True
            case "tab":
                self._add("\t")
            case "br" | "cr":
                self._add(" " if self._n_tables else "\n")
            case "tbl":
                self._n_tables += 1
            case "pStyle" if found := _HEADING.match(value):
                self._add("#" * int(found[1]) + " ")
            case "pStyle" if value.startswith(("ListBullet", "ListNumber")):
                self._add("- ")
            case "numPr" if not self._line:
                self._add("- ")

    def _end(self, name: str) -> None:
        if self._n_skipped:
            self._n_skipped -= 1
            return
        namespace, _, tag = name.rpartition(" ")
        match tag if f"{namespace} " in (_WORD, _STRICT) else "":
            case "t":
                self._is_text = False
            case "p" if self._n_tables:
                self._add(" ")
            case "p":
                self._close_line("".join(self._line))
            case "tc":
                self._cells.append("".join(self._line).strip())
                self._line.clear()
            case "tr":
                self._close_line(" | ".join(self._cells))
            case "tbl":
                self._n_tables -= 1

    def _characters(self, text: str) -> None:
        if self._is_text and not self._n_skipped:
            self._add(text)

    def _add(self, text: str) -> None:
        self._line.append(text)
        self._n_chars += len(text)
        if self._n_chars > self._max_chars:
            raise _TooMuch

    def _close_line(self, line: str) -> None:
        self._lines.append(line)
        self._n_chars += 1
        self._line.clear()
        self._cells.clear()

    def _doctype(self, *_: object) -> None:
        raise BadRequest("it holds a DOCTYPE, which no Word document does")


def is_docx(data: bytes) -> bool:
    """Whether it is a zip with a Word document in it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _PARTS[0] in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_docx(data: bytes, max_chars: int, max_unpacked_bytes: int) -> Reading:
    """The text, or a little over `max_chars` characters of each part where it is longer.

    Raises BadRequest with the reason for a document that is damaged, locked, or unpacks to more than `max_unpacked_bytes`.
    """
    texts, n_pictures, notes, is_cut = list[str](), 0, list[str](), False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = set(archive.namelist())
            for part in (part for part in _PARTS if part in names):
                text = _Text(max_chars)
                is_cut |= not _feed(archive, part, text, max_unpacked_bytes)
                texts.append(text.text())
                n_pictures += text.n_pictures
            if "word/comments.xml" in names:
                notes.append("comments are left out")
    except expat.ExpatError as error:
        raise BadRequest(f"its XML is damaged: {error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise BadRequest(f"its zip is damaged: {error}") from None
    except RuntimeError as error:  # zipfile's word for a file that is encrypted
        raise BadRequest(f"it cannot be unpacked: {error}") from None
    if n_pictures:
        notes.append(f"pictures are left out ({n_pictures})")
    return Reading(text="\n\n".join(filter(None, texts)), notes=tuple(notes), is_cut=is_cut)


def _feed(archive: zipfile.ZipFile, part: str, text: _Text, max_bytes: int) -> bool:
    """Whether all of a part was wanted."""
    n_bytes = 0
    with archive.open(part) as file:
        while piece := file.read(_PIECE_BYTES):
            n_bytes += len(piece)
            if n_bytes > max_bytes:
                raise BadRequest(f"{part} unpacks to more than {max_bytes >> 20} MB")
            try:
                text.parser.Parse(piece)
            except _TooMuch:
                return False
    text.parser.Parse(b"", True)
    return True
