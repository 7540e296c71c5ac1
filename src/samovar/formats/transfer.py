"""Files from servers into a folder: in parallel, resumed, each held against its hash before it gets its name.

A file grows as `NAME.part` in segments that several connections fill; a note beside the folder says how far each has come, so
that a later run goes on from there. It is renamed to NAME when it is whole and its hash is right.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samovar.errors import DownloadError
from samovar.formats.growing_file import GrowingFile, Segment
from samovar.formats.http_fetch import AccessDenied, HttpFetcher, PastEnd, TemporaryFailure
from samovar.formats.remote import RemoteFile

_NOTE_EVERY_S: Final = 1.0  # what came since is lost with a killed process
_REPORT_EVERY_S: Final = 0.1
_STOP_WAIT_S: Final = 1.0
_MAX_WAIT_S: Final = 60.0
_MAX_SMALL_BYTES: Final = 64 << 20
_DISTRUST: Final = "; do not trust it: try again later, or another source"

Report = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSettings:
    """`n_streams` connections at once, each on a segment of `segment_bytes`. A request that brings no byte is tried `n_tries`
    times, `first_wait_s` seconds apart at first, and twice as long each time. `on_retry` is told the reason, by any thread."""

    n_streams: int = 4
    segment_bytes: int = 64 << 20
    n_tries: int = 6
    first_wait_s: float = 1.0
    on_retry: Callable[[str], None] = lambda _: None

    def wait_s(self, n_failed: int, asked_s: float) -> float:
        """Seconds to wait after `n_failed` failures in a row; a server may ask for more."""
        return float(min(_MAX_WAIT_S, max(self.first_wait_s * 2 ** (n_failed - 1), asked_s)))


class Transfer:
    """Files on their way into `folder`. `notes` is a folder for what a later run needs; `denied` is advice for 401 and 403."""

    def __init__(
        self,
        files: Sequence[RemoteFile],
        folder: Path,
        notes: Path,
        settings: TransferSettings,
        *,
        denied: str = "",
    ) -> None:
        self._files = [GrowingFile(file, folder, notes, settings.segment_bytes) for file in files]
        self._settings, self._denied = settings, denied
        self._jobs: queue.SimpleQueue[tuple[GrowingFile, Segment] | None] = queue.SimpleQueue()
        self._stop, self._has_news = threading.Event(), threading.Event()
        self._failure: Exception | None = None

    @property
    def n_missing_bytes(self) -> int:
        """Bytes that are still to come, as far as the sizes are known."""
        return sum(file.n_missing_bytes for file in self._files)

    def run(self, report: Report) -> dict[str, str]:
        """Fetch what is missing; returns the sha256 of each file, by its path in the folder.

        Raises DownloadError where a source fails or what came is not what was promised, OSError where the disk refuses. What
        has come by then is kept for the next run, but for files whose hash is wrong.
        """
        fetcher = HttpFetcher()
        for file in self._files:
            if not file.is_finished:
                self._jobs.put((file, file.first_open))
        threads = [threading.Thread(target=self._work, args=(fetcher,), daemon=True) for _ in range(self._settings.n_streams)]
        for thread in threads:
            thread.start()
        try:
            self._watch(report)
        finally:
            self._stop.set()
            for _ in threads:
                self._jobs.put(None)
            _join(threads, _STOP_WAIT_S)
            fetcher.close()  # ends those that wait for a server
            _join(threads, _STOP_WAIT_S)
            for file in self._files:
                file.note()
        if self._failure is not None:
            raise self._failure
        return {file.remote.local_path: file.sha256 for file in self._files}

    def _watch(self, report: Report) -> None:
        """Report until all is done or a worker failed."""
        noted_s = time.monotonic()
        while self._failure is None and not all(file.is_finished for file in self._files):
            active = next((file for file in self._files if not file.is_finished), None)
            is_checked = active is not None and (active.is_whole or active.is_unchecked)
            what = "" if active is None else f"checking {active.name}" if is_checked else active.name
            report(sum(file.n_done for file in self._files), self._total, what)
            self._has_news.wait(_REPORT_EVERY_S)
            self._has_news.clear()
            if time.monotonic() - noted_s > _NOTE_EVERY_S:
                noted_s = time.monotonic()
                for file in self._files:
                    file.note()
        if self._failure is None:
            report(self._total, self._total, "")

    @property
    def _total(self) -> int:
        return sum(max(file.size_bytes or 0, file.n_done) for file in self._files)

    def _work(self, fetcher: HttpFetcher) -> None:
        """Take jobs until there are no more."""
        while not self._stop.is_set() and (job := self._jobs.get()) is not None:
            file, segment = job
            try:
                if file.is_unchecked:  # the first job of the file, and its only one so far
                    self._tell_damage(file, file.check_resumed(self._stop))
                    segment = file.first_open
                if not file.is_finished:
                    self._fill(fetcher, file, segment)
                if not file.is_finished and file.claim_check():
                    again = file.check_and_finish(self._stop)
                    self._tell_damage(file, sum((other.end or 0) - other.start for other in again))
                    for other in again:
                        self._jobs.put((file, other))
                self._has_news.set()
            except Exception as error:  # raised again by the thread that waits for it
                if self._failure is None and not self._stop.is_set():
                    self._failure = error
                self._stop.set()
                self._has_news.set()
                return

    def _tell_damage(self, file: GrowingFile, n_bytes: int) -> None:
        if n_bytes:
            self._settings.on_retry(
                f"{file.name}: {n_bytes / 1e6:.1f} MB of what had come are damaged on this disk; fetching these again"
            )

    def _fill(self, fetcher: HttpFetcher, file: GrowingFile, segment: Segment) -> None:
        """Fetch one segment, going on after cuts."""
        n_failed = 0
        while not segment.is_done and not self._stop.is_set():
            before = segment.n_done
            try:
                self._request(fetcher, file, segment)
                if segment.is_done or self._stop.is_set():
                    return
                reason = TemporaryFailure(
                    f"{file.remote.url.partition('?')[0]}: the connection ended at byte {segment.position} of {file.size_bytes}"
                )
            except TemporaryFailure as error:
                reason = error
            except AccessDenied as error:
                raise DownloadError(f"{error}; {self._denied}" if self._denied else str(error)) from None
            except PastEnd as error:
                _check_size(file, error.total_bytes)
                raise DownloadError(f"{error}, though {file.size_bytes} bytes were promised{_DISTRUST}") from None
            n_failed = n_failed + 1 if segment.n_done <= before else 1
            if n_failed >= self._settings.n_tries:
                raise DownloadError(f"{reason}; tried {n_failed} times; what has come is kept: pull again to go on")
            wait_s = self._settings.wait_s(n_failed, reason.wait_s)
            self._settings.on_retry(f"{reason}; trying again in {wait_s:.0f} s")
            self._stop.wait(wait_s)

    def _request(self, fetcher: HttpFetcher, file: GrowingFile, segment: Segment) -> None:
        """One request for the rest of a segment."""
        remote = file.remote
        whole = segment.end is None or (segment.position == 0 and segment.end == file.size_bytes)
        end = None if whole else segment.end
        with fetcher.get(remote.url, remote.headers, start=segment.position, end=end, validator=remote.validator) as body:
            _check_size(file, body.total_bytes)
            if not body.is_partial and not whole:
                file.start_over(segment)  # the server does not do ranges: all of it comes, from the start
            elif body.is_partial:
                for other in file.open_others():
                    self._jobs.put((file, other))
            file.write(segment, body, self._stop)


def _join(threads: Sequence[threading.Thread], wait_s: float) -> None:
    """Wait for the threads to end, for so long at most."""
    deadline = time.monotonic() + wait_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _check_size(file: GrowingFile, total_bytes: int | None) -> None:
    """Hold the size that a server states against what was promised."""
    if total_bytes is not None and file.size_bytes is not None and total_bytes != file.size_bytes:
        raise DownloadError(
            f"{file.remote.url.partition('?')[0]}: {file.size_bytes} bytes were promised, and the server has "
            f"{total_bytes}{_DISTRUST}"
        )


def read_small(file: RemoteFile, scratch: Path, settings: TransferSettings, *, denied: str = "") -> bytes:
    """The content of a small file, checked; it passes through the folder `scratch`."""
    if file.size_bytes is not None and file.size_bytes > _MAX_SMALL_BYTES:
        raise DownloadError(f"{file.path}: {file.size_bytes} bytes, and at most {_MAX_SMALL_BYTES} are expected of such a file")
    files, notes = scratch / "files", scratch / "notes"
    Transfer((file,), files, notes, settings, denied=denied).run(lambda *_: None)
    path = files / file.local_path
    if path.stat().st_size > _MAX_SMALL_BYTES:
        path.unlink()
        raise DownloadError(f"{file.path}: larger than {_MAX_SMALL_BYTES} bytes, the most that is expected of such a file")
    return path.read_bytes()
