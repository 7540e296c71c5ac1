"""Reads PDF and DOCX in a process of its own, within limits of processor time, memory and output.

Their readers are large, and files that lie are many: a page tree without end, streams that unpack to gigabytes. Here that ends
a process in which nothing else runs and which holds no secret. `python -m samovar.app.document_reader KIND MAX_CHARS` reads a
document from standard input and writes a `Reading` to standard output.
"""

import asyncio
import io
import os
import resource
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from samovar.app.codes import FileRefused
from samovar.app.docx import read_docx
from samovar.app.reading import Reading
from samovar.errors import BadRequest, StoreError

if TYPE_CHECKING:
    from pypdf import PdfReader

Kind = Literal["PDF", "DOCX"]
MAX_CPU_S: Final = 30
MAX_WAIT_S: Final = 60.0  # for a processor to do it on
MAX_MEMORY_BYTES: Final = 1 << 30  # of addresses, Python's own included
MAX_UNPACKED_BYTES: Final = 64 << 20  # of a part of a DOCX; that is 30 million characters of text
_READ_S: Final = MAX_CPU_S - 10  # after so long no further page is begun
_AT_ONCE: Final = 2  # readers that run
_NICENESS: Final = 10  # answers that are being written go first
_MAX_LISTED: Final = 10


class DocumentReader:
    """Starts the processes, a few at once. Belongs to the server's event loop."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def read(self, name: str, kind: Kind, data: bytes, max_chars: int) -> Reading:
        """The text of a document, a little over `max_chars` characters where it has more.

        Raises FileRefused, with its name, where it cannot be read; StoreError where no process could be started.
        """
        async with self._room:
            output = await _run(name, kind, data, max_chars)
        try:
            reading = msgspec.json.decode(output, type=Reading)
        except msgspec.DecodeError:
            bounds = f"{MAX_CPU_S} s of processor time and {MAX_MEMORY_BYTES >> 20} MB"
            raise FileRefused(
                f"{name} cannot be read as {kind} within {bounds}; it may be damaged: save it anew, or as text",
                "file_unreadable",
            ) from None
        if reading.refusal is not None:
            raise FileRefused(f"{name} cannot be read as {kind}: {reading.refusal}", "file_unreadable")
        return reading


async def _run(name: str, kind: Kind, data: bytes, max_chars: int) -> bytes:
    """What the process wrote; it may have ended badly."""
    command = [sys.executable, "-P", "-m", "samovar.app.document_reader", kind, str(max_chars)]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment)
    except OSError as error:
        raise StoreError(f"no process could be started to read {name}: {error.strerror}") from None
    try:
        async with asyncio.timeout(MAX_WAIT_S):
            output, _ = await process.communicate(data)
    except TimeoutError:
        return b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output


def read_document(kind: str, data: bytes, max_chars: int) -> Reading:
    """A document's text, read in this process."""
    try:
        reading = read_docx(data, max_chars, MAX_UNPACKED_BYTES) if kind == "DOCX" else _read_pdf(data, max_chars)
    except BadRequest as error:
        return Reading(refusal=str(error))
    return reading if reading.text.strip() else Reading(refusal="it holds no text")


def _read_pdf(data: bytes, max_chars: int) -> Reading:
    from pypdf import PdfReader  # its import takes a while, and most files are no PDF

    try:
        reader = PdfReader(io.BytesIO(data))
        is_open = not reader.is_encrypted or bool(reader.decrypt(""))
        n_pages = len(reader.pages) if is_open else 0
    except Exception as error:  # pypdf raises whatever a damaged file leads it to
        raise BadRequest(f"it is damaged or locked ({_reason(error)})") from None
    if not is_open:
        raise BadRequest("it is locked with a password; save it without one")
    return _read_pages(reader, n_pages, max_chars)


def _read_pages(reader: "PdfReader", n_pages: int, max_chars: int) -> Reading:
    end, n_chars, number = time.process_time() + _READ_S, 0, 0
    texts, bad, empty, notes = list[str](), list[int](), list[int](), list[str]()
    while number < n_pages and n_chars <= max_chars and time.process_time() < end:
        number += 1
        try:
            text = reader.pages[number - 1].extract_text().strip()
        except Exception:  # as above; MemoryError is one
            bad.append(number)
        else:
            texts.append(text.encode("utf-8", "replace").decode())  # fonts may map to halves of characters
            n_chars += len(text)
            if not text:
                empty.append(number)
    if number < n_pages:
        why = "" if n_chars > max_chars else ", which took as long as is allowed"
        notes.append(f"only the first {number} of {n_pages} pages were read{why}")
    if not n_chars and bad:
        raise BadRequest(f"none of the first {number} of its {n_pages} pages can be read; it may be damaged")
    if not n_chars:
        raise BadRequest(f"the first {number} of its {n_pages} pages hold no text; they may be pictures (a scan)")
    if bad:
        notes.append(f"pages that cannot be read: {_listed(bad)}")
    if empty:
        notes.append(f"pages without text, which may be pictures: {_listed(empty)}")
    return Reading(text="\n\n".join(filter(None, texts)), notes=tuple(notes), is_cut=number < n_pages)


def _listed(numbers: list[int]) -> str:
    rest = f" and {len(numbers) - _MAX_LISTED} more" if len(numbers) > _MAX_LISTED else ""
    return ", ".join(map(str, numbers[:_MAX_LISTED])) + rest


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _main() -> None:
    """Limits first; what the file does with them is its own affair."""
    os.nice(_NICENESS)
    for limit, value in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CPU, MAX_CPU_S),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    reading = read_document(sys.argv[1], sys.stdin.buffer.read(), int(sys.argv[2]))
    sys.stdout.buffer.write(msgspec.json.encode(reading))


if __name__ == "__main__":
    _main()
