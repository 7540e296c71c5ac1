"""API keys: a JSON file in the store, which holds of each key its SHA-256 and nothing that the key could be had from.

The keys are 256 random bits, so that a plain hash of one is as hard to turn back as any.
"""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from samovar.errors import BadRequest, FormatError, StoreError
from samovar.serving.caller import Caller

_PREFIX: Final = "sk-samovar-"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DAY_S: Final = 86_400


class Key(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is known of a key. Times are Unix seconds; None is no limit, or no end."""

    id: str
    name: str
    sha256: str
    created_s: int
    expires_s: int | None = None
    is_admin: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_streams: int | None = None

    def caller(self) -> Caller:
        """Whoever holds it."""
        return Caller(
            id=self.id,
            name=self.name,
            is_admin=self.is_admin,
            max_requests_per_minute=self.requests_per_minute,
            max_tokens_per_minute=self.tokens_per_minute,
            max_streams=self.max_streams,
        )


class _File(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    keys: tuple[Key, ...] = ()


class KeyFile:
    """The keys on disk. All methods raise StoreError where the disk refuses, FormatError for a file that is damaged, or that
    others may write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Key, ...]:
        """All keys; none where there is no file."""
        try:
            with self.path.open("rb") as file:
                if (mode := stat.S_IMODE(os.fstat(file.fileno()).st_mode)) & 0o022:
                    raise FormatError(f"{self.path}: others may write it (mode {mode:04o}): see who did, then chmod 600 it")
                data = file.read()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}; make it readable for whoever runs the server") from None
        try:
            return msgspec.json.decode(data, type=_File).keys
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"{self.path} is no sound file of keys: {error}; remove it, and make the keys anew") from None

    def create(
        self,
        name: str,
        *,
        is_admin: bool = False,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        max_streams: int | None = None,
        days: float | None = None,
    ) -> str:
        """Make a key; its text, which is kept nowhere. Raises BadRequest for a name that is taken or no name, or a limit below
        1."""
        if not _NAME.fullmatch(name):
            raise BadRequest(f"the name is {name!r}; expected up to 64 letters, digits and . _ @ -", param="name")
        limits = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "max_streams": max_streams,
        }
        for what, value in limits.items():
            if value is not None and value < 1:
                raise BadRequest(f"{what} is {value}; expected 1 or more", param=what)
        if days is not None and not days > 0:
            raise BadRequest(f"expires is {days}; expected a number of days above 0", param="expires")
        text, now = _PREFIX + secrets.token_urlsafe(32), int(time.time())
        with self._changing() as keys:
            if any(key.name == name for key in keys):
                raise BadRequest(f"there is a key named {name} already; revoke it, or choose another name", param="name")
            key = Key(
                id=f"key_{secrets.token_hex(6)}",
                name=name,
                sha256=_digest(text),
                created_s=now,
                expires_s=None if days is None else now + round(days * _DAY_S),
                is_admin=is_admin,
                **limits,
            )
            self._write((*keys, key))
        return text

    def revoke(self, name_or_id: str) -> Key:
        """Forget a key. Raises BadRequest where there is none of that name or id."""
        with self._changing() as keys:
            found = next((key for key in keys if name_or_id in (key.name, key.id)), None)
            if found is None:
                raise BadRequest(f"there is no key named {name_or_id}; see: samovar keys list", param="name")
            self._write(tuple(key for key in keys if key is not found))
        return found

    @contextmanager
    def _changing(self) -> Iterator[tuple[Key, ...]]:
        """The keys as they are, while no other process changes them."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"{self.path.parent}: {error.strerror}; set SAMOVAR_HOME to a folder that can be written"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.read()
        finally:
            os.close(lock)

    def _write(self, keys: tuple[Key, ...]) -> None:
        """Replace the file in one go: a reader sees the old keys or the new ones."""
        data = msgspec.json.format(msgspec.json.encode(_File(keys=keys)), indent=1) + b"\n"
        unfinished = self.path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        try:
            try:
                with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(self.path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}; the keys are as they were") from None


class Keys:
    """The keys that a server takes: those of a file, read again whenever it changes, and one that its owner set apart."""

    def __init__(self, file: KeyFile, *, own: str | None = None, clock: Callable[[], float] = time.time) -> None:
        """Raises what reading the file raises. `own` is a key's text, for a caller that is no administrator."""
        self._file, self._clock = file, clock
        self._own = None if own is None else Key(id="environment", name="environment", sha256=_digest(own), created_s=0)
        self._mark, self._keys = self._stat(), file.read()

    def are_there(self) -> bool:
        """Whether there is any key, expired ones included: what was closed once does not open by itself."""
        return bool(self._current())

    def holder(self, text: str) -> Caller | None:
        """Whoever holds the key `text`; None for one that is unknown or has expired. Raises what reading the file raises."""
        digest, found = _digest(text), None
        for key in self._current():  # all of them, so that the time says nothing
            if hmac.compare_digest(key.sha256, digest):
                found = key
        is_good = found is not None and (found.expires_s is None or self._clock() < found.expires_s)
        return found.caller() if found is not None and is_good else None

    def _current(self) -> tuple[Key, ...]:
        if (mark := self._stat()) != self._mark:
            self._keys = self._file.read()  # where this raises, nobody gets in until the file is mended
            self._mark = mark
        return self._keys if self._own is None else (*self._keys, self._own)

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = self._file.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self._file.path}: {error.strerror}") from None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
