"""The page itself: the files that the build of `web/` puts beside this module."""

import asyncio
import hashlib
import mimetypes
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.serving.failures import Refused
from samovar.serving.ollama_models import root
from samovar.serving.server import Handler, Server, Table

FOLDER: Final = Path(__file__).parent / "static"
OPEN_PATHS: Final = ("/", "/assets/")
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; "
        "object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FOR_EVER: Final = "public, max-age=31536000, immutable"  # the build writes a hash of the bytes into each name
_CODINGS: Final = (("br", ".br"), ("gzip", ".gz"))
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".woff2": "font/woff2", ".svg": "image/svg+xml"}
_NOT_BUILT: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Samovar</title>
<body style="font-family: sans-serif; max-width: 40em; margin: 4em auto; padding: 0 1em">
<h1>The app is not built</h1>
<p>The server runs, and answers at <code>/v1</code> (OpenAI, Anthropic) and <code>/api</code> (Ollama). Its page has to be built
once, with Node.js 20 or newer, in the folder of the sources:</p>
<pre>make web</pre>
<p>Then load this page again.</p>
</body></html>
"""


def pages(folder: Path = FOLDER) -> Table:
    """The routes of the page and of what belongs to it."""

    async def index(server: Server, request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):  # no browser: clients of Ollama ask here whether it runs
            return await root(server, request)
        path = folder / "index.html"
        if not await asyncio.to_thread(path.is_file):
            return Response(_NOT_BUILT, 503, _HEADERS, media_type="text/html")
        return await asyncio.to_thread(_index, path, request)

    async def asset(_: Server, request: Request) -> Response:
        name = request.path_params["name"]
        path = (folder / "assets" / name).resolve()
        if not path.is_relative_to((folder / "assets").resolve()) or path.suffix in (".br", ".gz") or not path.is_file():
            raise Refused(
                f"there is no file {name!r} in this build of the page: load the page again", status=404, code="not_found"
            )
        headers = {**_HEADERS, "Cache-Control": _FOR_EVER}
        return await asyncio.to_thread(_file, path, request, headers)

    handlers: tuple[tuple[str, Handler], ...] = (("/", index), ("/assets/{name:path}", asset))
    return [("GET", path, handler) for path, handler in handlers]


def _index(path: Path, request: Request) -> Response:
    """The page; browsers ask each time whether it is still the same."""
    tag = f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"'
    headers = {**_HEADERS, "Cache-Control": "no-cache", "ETag": tag, "Vary": "Accept"}
    given = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if tag in given or "*" in given:
        return Response(None, 304, headers)
    return _file(path, request, headers)


def _file(path: Path, request: Request, headers: dict[str, str]) -> Response:
    """A file, in the smallest form that the client takes and the build has made."""
    accepted = _accepted(request.headers.get("accept-encoding", ""))
    media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    headers = {**headers, "Vary": ", ".join(filter(None, (headers.get("Vary"), "Accept-Encoding")))}
    for coding, suffix in _CODINGS:
        packed = path.with_name(path.name + suffix)
        if coding in accepted and packed.is_file():
            return Response(packed.read_bytes(), 200, {**headers, "Content-Encoding": coding}, media_type=media_type)
    return Response(path.read_bytes(), 200, headers, media_type=media_type)


def _accepted(header: str) -> set[str]:
    """The codings of an Accept-Encoding header, without those that it refuses (q=0)."""
    found = set()
    for part in header.lower().split(","):
        coding, _, weight = part.partition(";")
        if weight.replace(" ", "").rstrip("0").rstrip(".") not in ("q=", "q=0"):
            found.add(coding.strip())
    return found
