"""Zips that people send: opened with clear words for damaged ones, unpacked up to a bound."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from samovar.app.codes import FileRefused

_PIECE_BYTES: Final = 1 << 20


@contextmanager
def opened(name: str, content: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """A zip. Raises FileRefused where it is damaged, in its directory or in an entry that is read."""
    try:
        with zipfile.ZipFile(content) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError) as error:
        raise FileRefused(f"{name} is a damaged zip, or a locked one: {error}", "file_unreadable") from None


def unpacked(name: str, archive: zipfile.ZipFile, entry: str, max_bytes: int) -> bytes:
    """An entry's bytes, whatever size its directory claims. Raises FileRefused for more than `max_bytes`."""
    pieces, n_bytes = list[bytes](), 0
    with archive.open(entry) as file:
        while piece := file.read(_PIECE_BYTES):
            n_bytes += len(piece)
            if n_bytes > max_bytes:
                raise FileRefused(f"{name} unpacks to more than is taken here, with {entry}", "file_too_large")
            pieces.append(piece)
    return b"".join(pieces)
