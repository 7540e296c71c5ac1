"""Passwords as Argon2id hashes (RFC 9106, its second recommended setting: 3 passes over 64 MiB)."""

import asyncio
import unicodedata
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from samovar.errors import BadRequest

MIN_CHARS: Final = 8
MAX_CHARS: Final = 256
_AT_ONCE: Final = 2  # 64 MiB and a core each, some 0.1 s


class Passwords:
    """Makes and checks hashes, in threads, a few at once. Belongs to the server's event loop."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher, self._room = hasher or PasswordHasher(), asyncio.Semaphore(_AT_ONCE)
        self._nobodys = self._hasher.hash("the password of nobody")

    async def hash(self, password: str, param: str = "password") -> str:
        """What is kept of a password. Raises BadRequest for one that is too short or too long."""
        if not MIN_CHARS <= len(password) <= MAX_CHARS:
            expected = f"expected {MIN_CHARS} to {MAX_CHARS}"
            raise BadRequest(f"the password has {len(password)} characters; {expected}", param=param)
        async with self._room:
            return await asyncio.to_thread(self._hasher.hash, _bytes(password))

    async def fits(self, password: str, kept: str | None) -> bool:
        """Whether a password is that of a hash. For None, where there is no such user, it is false and takes as long."""
        if len(password) > MAX_CHARS:
            return False
        async with self._room:
            return await asyncio.to_thread(self._fits, _bytes(password), kept or self._nobodys) and bool(kept)

    def _fits(self, password: bytes, kept: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False


def _bytes(password: str) -> bytes:
    """The same for the same letters, however a keyboard composes them (NIST SP 800-63B, 5.1.1.2)."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
