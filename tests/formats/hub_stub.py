"""A hub on loopback that speaks the parts of both hubs' protocols that their client libraries use, and misbehaves on demand.

Large files ("LFS") are redirected to another host name (`localhost`), as the hubs do with their content networks.
"""

import functools
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_BYTES = 2000  # files from this size on are LFS
HF_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
HF_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
MS_INFO = re.compile(r"/(?:openapi/v1|api/v1)/models/([^/]+/[^/]+)")
MS_FILES = re.compile(r"/api/v1/models/([^/]+/[^/]+)/repo/files")
MS_FILE = re.compile(r"/api/v1/models/([^/]+/[^/]+)/repo")


@dataclass
class Repo:
    """A repository: its files, what its card says, and whom it lets in."""

    files: dict[str, bytes]
    licence: str | None = "apache-2.0"
    needs_token: str | None = None
    is_gated: bool = False


@dataclass
class Asked:
    """A request as it came."""

    method: str
    host: str
    path: str
    headers: dict[str, str]


@dataclass
class Misbehaviour:
    """What goes wrong from here on. Lists are used up, one for each request for a file's bytes."""

    api_statuses: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # bytes after which the connection is cut
    retry_after: str | None = None
    ignores_ranges: bool = False
    is_chunked: bool = False  # the size is not said
    corrupts: set[str] = field(default_factory=set)
    told_sizes: dict[str, int] = field(default_factory=dict)  # in the listing
    sticks_to_sizes: bool = False  # says the same with the bytes
    sent: dict[str, bytes] = field(default_factory=dict)  # instead of the file
    lists_names_only: bool = False
    redirects_to: str | None = None
    headers: dict[str, str] = field(default_factory=dict)  # in place of those that are right
    gate: threading.Event | None = None  # bytes wait for it


class HubStub:
    """The server. `repos` maps names to repositories, `plain` paths to bytes."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.repos: dict[str, Repo] = {}
        self.plain: dict[str, bytes] = {}
        self.wrong = Misbehaviour()
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        stub = self

        class Handler(_Handler):
            hub = stub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)

    def bytes_asked(self) -> list[Asked]:
        """The requests for bytes of large files."""
        return [asked for asked in self.asked if asked.path.startswith(("/cdn/", "/plain/")) and asked.method == "GET"]


@contextmanager
def hub_stub(tls: ssl.SSLContext | None = None) -> Iterator[HubStub]:
    stub = HubStub(tls)
    thread = threading.Thread(target=stub.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.server.shutdown()
        stub.server.server_close()
        thread.join()


@functools.cache
def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.cache
def git_sha1(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        split = urlsplit(self.path)
        path, query = unquote(split.path), parse_qs(split.query)
        headers = {key.lower(): value for key, value in self.headers.items()}
        with self.hub.lock:
            self.hub.asked.append(Asked(self.command, headers.get("host", ""), path, headers))
        if path.startswith("/cdn/"):
            repo, name = path.removeprefix("/cdn/").split("|", 1)
            self._bytes(name, self.hub.repos[repo].files[name])
        elif path.startswith("/plain/"):
            data = self.hub.plain.get(path)
            self._refuse(404) if data is None else self._bytes(path, data)
        elif path.startswith("/moved/"):
            self._refuse(302, {"Location": f"{self.hub.wrong.redirects_to}{path.removeprefix('/moved')}"})
        elif found := MS_FILE.fullmatch(path):
            self._file(found[1], query["FilePath"][0])
        elif found := MS_FILES.fullmatch(path):
            self._ms_files(found[1], query["Revision"][0])
        elif found := MS_INFO.fullmatch(path) if path.startswith(("/openapi", "/api/v1")) else None:
            self._ms_info(found[1])
        elif found := HF_API.fullmatch(path):
            self._hf_info(found[1], found[2], with_blobs="blobs" in query)
        elif found := HF_FILE.fullmatch(path):
            self._file(found[1], found[3])
        else:
            self._refuse(404)

    # -- metadata

    def _api_fails(self) -> bool:
        with self.hub.lock:
            status = self.hub.wrong.api_statuses.pop(0) if self.hub.wrong.api_statuses else None
        if status is not None:
            self._refuse(status)
        return status is not None

    def _hf_info(self, name: str, revision: str | None, *, with_blobs: bool) -> None:
        if self._api_fails():
            return
        name = next((own for own in self.hub.repos if own.lower() == name.lower()), name)
        repo = self.hub.repos.get(name)
        if repo is None or (repo.needs_token and not self._has_token(repo) and not repo.is_gated):
            self._refuse(401 if repo is None else 404, {"X-Error-Code": "RepoNotFound"})
            return
        if revision not in (None, "main", "v1", COMMIT):
            self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = []
        for path, data in repo.files.items():
            size = self.hub.wrong.told_sizes.get(path, len(data))
            about: dict[str, object] = {"rfilename": path}
            if with_blobs and not self.hub.wrong.lists_names_only:
                about |= {"size": size, "blobId": git_sha1(data)}
                if len(data) >= LFS_BYTES:
                    about["lfs"] = {"size": size, "sha256": sha256(data), "pointerSize": 130}
            siblings.append(about)
        tags = [f"license:{repo.licence}"] if repo.licence else []
        self._json({"id": name, "modelId": name, "sha": COMMIT, "tags": tags, "siblings": siblings, "private": False})

    def _ms_info(self, name: str) -> None:
        if self._api_fails():
            return
        repo = self.hub.repos.get(name)
        if repo is None:
            self._refuse(404)
        else:
            self._json({"success": True, "data": {"id": name, "license": repo.licence, "private": False}})

    def _ms_files(self, name: str, revision: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or revision not in ("master", "v1"):
            self._refuse(404)
            return
        if repo.needs_token and not self._has_token(repo):
            self._refuse(403)
            return
        files = [
            {
                "Path": path,
                "Name": path.rpartition("/")[2],
                "Type": "blob",
                "Size": self.hub.wrong.told_sizes.get(path, len(data)),
                "Sha256": sha256(data),
                "Revision": COMMIT,
            }
            for path, data in repo.files.items()
        ]
        self._json({"Code": 200, "Success": True, "Data": {"Files": [{"Path": "dir", "Type": "tree"}, *files]}})

    # -- bytes

    def _has_token(self, repo: Repo) -> bool:
        return self.headers.get("Authorization") == f"Bearer {repo.needs_token}"

    def _file(self, name: str, path: str) -> None:
        repo = self.hub.repos.get(name)
        data = repo.files.get(path) if repo else None
        if repo is None or data is None:
            self._refuse(404, {"X-Error-Code": "EntryNotFound"})
        elif repo.needs_token and not self._has_token(repo):
            self._refuse(403, {"X-Error-Code": "GatedRepo"})
        elif len(data) >= LFS_BYTES:
            found = sha256(data)
            place = self.hub.wrong.redirects_to or f"http://localhost:{self.hub.port}/cdn/{name}|{path}"
            linked = {"X-Linked-Etag": f'"{found}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": COMMIT}
            self._refuse(302, {**linked, "Location": place, "ETag": f'"{found}"'})
        else:
            self._bytes(path, data, {"ETag": f'"{git_sha1(data)}"', "X-Repo-Commit": COMMIT})

    def _bytes(self, path: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        wrong = self.hub.wrong
        if self.command == "GET":
            if wrong.gate is not None:
                wrong.gate.wait(20)
            with self.hub.lock:
                status = wrong.statuses.pop(0) if wrong.statuses else None
                cut = wrong.cuts.pop(0) if wrong.cuts else None
            if status is not None:
                self._refuse(status, {"Retry-After": wrong.retry_after} if wrong.retry_after else {})
                return
        else:
            cut = None
        headers = {**(headers or {}), **wrong.headers}
        etag = headers.get("ETag", f'"{sha256(data)}"')
        data = wrong.sent.get(path, data)
        if path in wrong.corrupts:
            data = bytes([data[0] ^ 1]) + data[1:]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if self.headers.get("If-Range") not in (None, etag):
            asked = None
        total = wrong.told_sizes.get(path, len(data)) if wrong.sticks_to_sizes else len(data)
        if asked and not wrong.ignores_ranges:
            start, end = int(asked[1]), min(len(data), int(asked[2]) + 1 if asked[2] else len(data))
            if start >= len(data):
                self._refuse(416, {"Content-Range": f"bytes */{len(data)}", **wrong.headers})
                return
            data = data[start:end]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
        else:
            self.send_response(200)
        for key, value in {"ETag": etag, **headers}.items():
            self.send_header(key, value)
        if path.endswith("/"):
            self.send_header("Content-Type", "text/html")
        if wrong.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        with suppress(OSError):
            if wrong.is_chunked and cut is None:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n")
            else:
                self.wfile.write(data if cut is None else data[:cut])
        if cut is not None and cut < len(data):  # else the client rightly counts on the connection for what it asks next
            self.close_connection = True

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
