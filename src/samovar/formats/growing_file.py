"""A file that arrives in segments: where its bytes go, how far each segment has come, and whether its hash is right.

A checksum goes along with each segment (CRC-32: against damage, not against an adversary). What an earlier run left is held
against it before a byte is added, so that a damaged disk costs the segments that it damaged, and not the file.
"""

import contextlib
import hashlib
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import msgspec

from samovar.errors import DownloadError
from samovar.formats.http_fetch import Body
from samovar.formats.remote import RemoteFile

_CHUNK_BYTES: Final = 1 << 20


class Segment:
    """The bytes [start, end) of a file, of which the first `n_done` are there; `end` is None where the size is unknown.

    `came` is their number and their CRC-32, as one object: another thread reads either both before or both after a change.
    """

    __slots__ = ("came", "end", "is_ended", "start")

    def __init__(self, start: int, end: int | None, n_done: int = 0, crc: int = 0) -> None:
        self.start, self.end, self.came, self.is_ended = start, end, (n_done, crc), False

    @property
    def n_done(self) -> int:
        """How many bytes are there."""
        return self.came[0]

    def add(self, data: memoryview) -> None:
        """Count bytes that were written at `position`."""
        n_done, crc = self.came
        self.came = n_done + len(data), zlib.crc32(data, crc)

    def forget(self) -> None:
        """None of it is there."""
        self.came, self.is_ended = (0, 0), False

    @property
    def position(self) -> int:
        """Where the next byte goes."""
        return self.start + self.n_done

    @property
    def is_done(self) -> bool:
        """Whether all of it is there."""
        return self.is_ended if self.end is None else self.position >= self.end


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    """How far a file has come: (start, end, bytes done, their CRC-32) of its segments; its sha256 where it was checked."""

    identity: str
    segments: tuple[tuple[int, int, int, int], ...] = ()
    sha256: str | None = None


class GrowingFile:
    """One file below `folder`, with its note below `notes`. Segments may be filled by several threads at once."""

    def __init__(self, remote: RemoteFile, folder: Path, notes: Path, segment_bytes: int) -> None:
        self.remote, self.size_bytes = remote, remote.size_bytes
        self.path = folder / remote.local_path
        self.part = self.path.with_name(self.path.name + ".part")
        self._note_path = notes / f"{remote.local_path.replace('/', '--')}.json"
        self._segment_bytes, self._lock = segment_bytes, threading.Lock()
        self.sha256, self.is_finished, self._is_claimed, self._are_others_open = "", False, False, False
        self._was_mended = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        notes.mkdir(parents=True, exist_ok=True)
        resumed = self._resumed()
        if resumed is None:  # what is there is of other content, and may be longer
            self.part.unlink(missing_ok=True)
        self._segments = resumed or self._fresh()
        self.is_unchecked = resumed is not None

    @property
    def name(self) -> str:
        """The file's name, for people."""
        return self.path.name

    @property
    def n_done(self) -> int:
        """Bytes that are there."""
        return sum(segment.n_done for segment in self._segments)

    @property
    def n_missing_bytes(self) -> int:
        """Bytes that are still to come, 0 where that is not known."""
        return 0 if self.size_bytes is None else self.size_bytes - self.n_done

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are there, right or wrong."""
        return all(segment.is_done for segment in self._segments)

    @property
    def first_open(self) -> Segment:
        """The segment to begin with: how the server answers it decides about the others."""
        return next((segment for segment in self._segments if not segment.is_done), self._segments[0])

    def open_others(self) -> list[Segment]:
        """The other unfinished segments, once: the server does ranges, so that they can come at the same time."""
        with self._lock:
            if self._are_others_open:
                return []
            self._are_others_open = True
            first = self.first_open
            return [segment for segment in self._segments if not segment.is_done and segment is not first]

    def start_over(self, segment: Segment) -> None:
        """Make `segment` the whole file, to be filled from its first byte. Raises DownloadError while others are under way."""
        with self._lock:
            if self._are_others_open and len(self._segments) > 1:
                raise DownloadError(f"{self.remote.url}: the server did ranges and ceased to; pull again to go on")
            segment.start, segment.end, self._segments = 0, self.size_bytes, [segment]
            segment.forget()

    def write(self, segment: Segment, body: Body, stop: threading.Event) -> None:
        """Put the body's bytes where they belong until it ends, or `stop` is set.

        Raises DownloadError where more comes than was promised.
        """
        descriptor = os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            if not body.is_partial:
                segment.forget()
            for chunk in body.chunks:
                if segment.end is not None and segment.position + len(chunk) > segment.end:
                    raise DownloadError(
                        f"{self.remote.path}: the server sends more than the {self.size_bytes} bytes that were promised; "
                        "do not trust it: try again later, or another source"
                    )
                view = memoryview(chunk)
                while view:
                    n_written = os.pwrite(descriptor, view, segment.position)
                    segment.add(view[:n_written])
                    view = view[n_written:]
                if stop.is_set():
                    return
            segment.is_ended = True
        finally:
            os.close(descriptor)

    def claim_check(self) -> bool:
        """Whether the file is whole and the caller is the one to check it."""
        with self._lock:
            claims = self.is_whole and not self._is_claimed
            self._is_claimed = self._is_claimed or claims
            return claims

    def check_resumed(self, stop: threading.Event) -> int:
        """Hold what an earlier run left against its note, and forget what is damaged; returns how many bytes that is."""
        lost = 0
        if self.sha256:  # it was whole, and had its name
            if _sha256_of(self.path, stop) in (self.sha256, None):
                self.is_finished = True
            else:
                self.path.unlink()
                self.sha256, lost, self._segments = "", self.size_bytes or 0, self._fresh()
        else:
            lost = self._drop_damaged(stop)
        self.is_unchecked = False
        return lost

    def _drop_damaged(self, stop: threading.Event) -> int:
        """Forget the segments whose bytes on disk are not those that came; returns how many bytes they had."""
        lost = 0
        with self.part.open("rb") as file:
            for segment in self._segments:
                n_done, crc = segment.came
                if not stop.is_set() and _crc32_of(file, segment.start, n_done) != crc:
                    lost += n_done
                    segment.forget()
        return lost

    def check_and_finish(self, stop: threading.Event) -> list[Segment]:
        """Hold the bytes against the hash and give the file its name, or return the segments to be fetched again.

        Those are what the disk has damaged. Raises DownloadError where the source sent other bytes than it promised: then all
        of the file is dropped.
        """
        sha256 = hashlib.sha256()
        remote, size = self.remote, self.size_bytes if self.size_bytes is not None else self._segments[0].n_done
        git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        self.part.touch()  # an empty file has had no bytes to write
        for chunk in _chunks(self.part):
            if stop.is_set():
                return []
            sha256.update(chunk)
            if remote.git_sha1 is not None:
                git.update(chunk)
        found, expected = sha256.hexdigest(), remote.sha256
        if expected is None and remote.git_sha1 is not None:
            found, expected = git.hexdigest(), remote.git_sha1
        n_bytes = self.part.stat().st_size
        if n_bytes != size or (expected is not None and found != expected):
            if not self._was_mended and self._drop_damaged(stop):
                self._was_mended, self._is_claimed, self._are_others_open = True, False, True
                return [segment for segment in self._segments if not segment.is_done]
            self.part.unlink()
            self._note_path.unlink(missing_ok=True)
            self._segments = self._fresh()
            what = f"what came has the hash {found}, and {expected} was promised; it was thrown away"
            if n_bytes != size:
                what = f"{n_bytes} bytes came, and {size} were promised; they were thrown away"
            raise DownloadError(f"{remote.path}: {what}: pull again, and distrust the source if it stays so")
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        self.sha256, self.size_bytes = sha256.hexdigest(), size
        self.part.replace(self.path)
        self.is_finished = True
        self.note()
        return []

    def note(self) -> None:
        """Write down how far the file has come, its bytes first; nothing where a later run could not tell them again."""
        with self._lock:
            identity, known = self.remote.identity, all(segment.end is not None for segment in self._segments)
            if identity is None or not known or (not self.is_finished and not self.part.exists()):
                return
            segments = tuple((s.start, s.end or 0, *s.came) for s in self._segments)
            if not self.is_finished:
                with self.part.open("rb") as file:
                    os.fsync(file.fileno())
            note = _Note(identity=identity, segments=segments, sha256=self.sha256 or None)
            temporary = self._note_path.with_suffix(".tmp")
            with contextlib.suppress(OSError):  # a full disk: an older note, which claims less, stays
                temporary.write_bytes(msgspec.json.encode(note))
                temporary.replace(self._note_path)

    def _fresh(self) -> list[Segment]:
        size = self.size_bytes
        if size is None:
            return [Segment(0, None)]
        if size == 0:
            return [Segment(0, 0)]
        step = self._segment_bytes
        return [Segment(start, min(size, start + step)) for start in range(0, size, step)]

    def _resumed(self) -> list[Segment] | None:
        """The segments that the note of an earlier run tells of, where it is of the same content and the bytes are there."""
        try:
            note = msgspec.json.decode(self._note_path.read_bytes(), type=_Note)
        except (OSError, msgspec.MsgspecError, ValueError):
            return None
        if note.identity != self.remote.identity or self.size_bytes is None:
            return None
        if note.sha256 is not None and self.path.is_file() and self.path.stat().st_size == self.size_bytes:
            self.sha256 = note.sha256
            return [Segment(0, self.size_bytes, self.size_bytes)]
        if not self.part.is_file() or self.part.is_symlink():
            return None
        there, at = self.part.stat().st_size, 0
        for start, end, n_done, _ in note.segments:
            if start != at or end < start or not 0 <= n_done <= end - start or (n_done and start + n_done > there):
                return None
            at = end
        return [Segment(*segment) for segment in note.segments] if at == self.size_bytes and note.segments else None


def _crc32_of(file: IO[bytes], start: int, n_bytes: int) -> int | None:
    """The CRC-32 of some bytes of a file; None where they are not there."""
    file.seek(start)
    crc = 0
    while n_bytes > 0:
        if not (chunk := file.read(min(n_bytes, _CHUNK_BYTES))):
            return None
        crc, n_bytes = zlib.crc32(chunk, crc), n_bytes - len(chunk)
    return crc


def _sha256_of(path: Path, stop: threading.Event) -> str | None:
    """In hexadecimal digits; None where there was no time for it."""
    sha256 = hashlib.sha256()
    for chunk in _chunks(path):
        if stop.is_set():
            return None
        sha256.update(chunk)
    return sha256.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
