"""From an uploaded file to the text that a model reads, and a note on what was cut or could not be read.

What a file is, its first bytes say; the name decides nothing but what it is called. What is neither text nor PDF nor DOCX is
refused by name, with what to do instead.
"""

import asyncio
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from samovar.app.codes import FileRefused
from samovar.app.document_reader import DocumentReader, Kind
from samovar.app.docx import is_docx
from samovar.app.plain_text import decode_text
from samovar.app.reading import Reading

MAX_FILE_BYTES: Final = 25 << 20
MAX_CHARS: Final = 400_000  # some 100,000 tokens of English; no context here takes more
_DOCX_TYPE: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_IMAGES: Final = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_REFUSED: Final = (  # first bytes, what it is, what to do
    (b"\xd0\xcf\x11\xe0", "an Office document of old, or a locked one", "save it as DOCX, PDF or CSV without a password"),
    (b"{\\rtf", "an RTF document", "save it as DOCX or text"),
    (b"\x1f\x8b", "an archive", "unpack it and send the files in it"),
    (b"Rar!\x1a\x07", "an archive", "unpack it and send the files in it"),
    (b"7z\xbc\xaf", "an archive", "unpack it and send the files in it"),
    (b"\x7fELF", "a program", "send text"),
    (b"SQLite format 3\0", "a database", "export what you need as CSV"),
)
_TYPES: Final = {
    ".csv": "text/csv", ".tsv": "text/tab-separated-values", ".md": "text/markdown", ".html": "text/html",
    ".json": "application/json", ".xml": "application/xml", ".svg": "image/svg+xml",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """The text of a file, as far as it is kept. `note` is None where all of it is there, in the encoding that was expected."""

    text: str
    media_type: str
    note: str | None


async def extract(reader: DocumentReader, name: str, data: bytes, max_chars: int = MAX_CHARS) -> Extracted:
    """The first `max_chars` characters of a file. Raises FileRefused, with its name, for one that has no text to give."""
    if len(data) > MAX_FILE_BYTES:
        raise FileRefused(f"{name} has {len(data)} bytes; expected up to {MAX_FILE_BYTES >> 20} MB", "file_too_large")
    if not data.strip():
        raise FileRefused(f"{name} is empty", "file_empty")
    kind = await asyncio.to_thread(_document_kind, name, data)  # a zip's directory can be long
    if kind is not None:
        reading = await reader.read(name, kind, data, max_chars)
        return _cut(reading, "application/pdf" if kind == "PDF" else _DOCX_TYPE, max_chars)
    return await asyncio.to_thread(_extract_text, name, data, max_chars)


def _extract_text(name: str, data: bytes, max_chars: int) -> Extracted:
    _refuse_binary(name, data)
    decoded, suffix = decode_text(name, data), PurePath(name).suffix.lower()
    if suffix in (".pdf", ".docx"):
        what = f"{name} is no {suffix[1:].upper()}: it holds plain text"
        raise FileRefused(f"{what}; rename it to .txt if that is what it is", "file_unreadable")
    return _cut(Reading(text=decoded.text, notes=decoded.notes), _TYPES.get(suffix, "text/plain"), max_chars)


def _document_kind(name: str, data: bytes) -> Kind | None:
    start = data[:1024]  # readers allow for some bytes before the mark, which other texts may speak of
    if start.lstrip().startswith(b"%PDF-") or (b"%PDF-" in start and name.lower().endswith(".pdf")):
        return "PDF"
    return "DOCX" if data.startswith(b"PK") and is_docx(data) else None


def _refuse_binary(name: str, data: bytes) -> None:
    """Raises FileRefused for what is known and no text."""
    is_webp = data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    is_bitmap = data.startswith(b"BM") and data[6:10] == bytes(4)
    if data.startswith(_IMAGES) or is_webp or is_bitmap:
        raise FileRefused(f"{name} is an image, and no model here takes images; describe it, or send its text", "file_kind")
    for start, what, advice in _REFUSED:
        if data.startswith(start):
            raise FileRefused(f"{name} is {what}, which is not read here; {advice}", "file_kind")
    if data.startswith(b"PK\x03\x04") and name.lower().endswith(".docx"):
        raise FileRefused(f"{name} is no Word document, or a damaged one; save it anew, or as PDF", "file_unreadable")
    if data.startswith(b"PK\x03\x04"):
        what = "a workbook" if b"xl/workbook.xml" in data else "slides" if b"ppt/presentation.xml" in data else "an archive"
        advice = {"a workbook": "save it as CSV", "slides": "save them as PDF"}.get(what, "unpack it and send the files in it")
        raise FileRefused(f"{name} is {what}, which is not read here; {advice}", "file_kind")


def _cut(reading: Reading, media_type: str, max_chars: int) -> Extracted:
    """The text up to a line's end near the bound."""
    text, notes = reading.text, reading.notes
    if len(text) > max_chars:
        end = text.rfind("\n", max_chars * 9 // 10, max_chars) + 1 or max_chars
        of = "" if reading.is_cut else f"of {len(text):,} "
        text, notes = text[:end], (f"only the first {end:,} {of}characters are kept", *notes)
    return Extracted(text=text, media_type=media_type, note="; ".join(notes) or None)
