"""A file that a page sends as a form (multipart), with a bound on its size."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from samovar.app.codes import FileRefused
from samovar.errors import BadRequest

_FORM_BYTES: Final = 1 << 16  # what the form may hold beside the file
_MAX_NAME: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file's name, which may be anything but has no path in it, and its content, on disk where it is large."""

    name: str
    content: BinaryIO


@asynccontextmanager
async def uploaded(request: Request, max_bytes: int) -> AsyncIterator[Upload]:
    """The form's only field, `file`. Raises BadRequest for a form without it, FileRefused for more than `max_bytes`."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise BadRequest("the body is no form; expected multipart/form-data with a field file", param="file")
    body = _bounded(request, max_bytes)
    try:
        parser = MultiPartParser(request.headers, body, max_files=1, max_fields=1, max_part_size=_FORM_BYTES)
        form = await parser.parse()
    except MultiPartException as error:
        raise BadRequest(f"the form is unsound: {error.message}", param="file") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise BadRequest("the form has no file; expected a field file, with a name", param="file")
        yield Upload(name=_shown_name(file.filename or ""), content=file.file)
    finally:
        await form.close()


async def _bounded(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    n_bytes = 0
    async for piece in request.stream():
        n_bytes += len(piece)
        if n_bytes > max_bytes + _FORM_BYTES:
            raise FileRefused(f"the file is too large; expected up to {max_bytes >> 20} MB", "file_too_large")
        yield piece


def _shown_name(name: str) -> str:
    """A name on one line, its end kept where it is long."""
    name = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c if c.isprintable() else "\ufffd" for c in name)[-_MAX_NAME:].strip() or "file"
