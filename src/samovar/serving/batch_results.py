"""The two files that a batch writes: results, and errors. What is in them survives a kill; what is cut off there is removed."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from samovar.errors import StoreError
from samovar.serving.batch_lines import number_of
from samovar.serving.openai_files import private


class ResultFile:
    """Lines that are appended to a file, each group of them made safe before `append` returns. For use from threads."""

    def __init__(self, path: Path) -> None:
        """Open the file, or begin it. A last line that is not whole is cut off. Raises StoreError."""
        self.path, self._lock, self._is_closed = path, threading.Lock(), False
        self.numbers: set[int] = set()
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._file = open(path, "a+b", opener=private)  # noqa: SIM115 (kept open; Path.open takes no opener)
            self._file.seek(0)
            end = 0
            for line in self._file:
                if line.endswith(b"\n"):
                    end += len(line)
                    self.numbers.add(number_of(line))
            os.ftruncate(self._file.fileno(), end)
        except OSError as error:
            raise StoreError(f"{path}: the results of a batch cannot be kept: {error.strerror}") from None

    def append(self, lines: Sequence[bytes], numbers: Sequence[int]) -> None:
        """Write lines, with the numbers of the requests they belong to. Does nothing after `close`. Raises StoreError."""
        with self._lock:
            if self._is_closed:
                return
            try:
                self._file.write(b"".join(lines))
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise StoreError(f"{self.path}: the results of a batch cannot be kept: {error.strerror}") from None
            self.numbers.update(numbers)

    def close(self) -> int:
        """Take no more lines. Returns the size in bytes; an empty file is removed."""
        with self._lock:
            self._is_closed = True
            self._file.close()
            if size_bytes := self.path.stat().st_size:
                return size_bytes
            self.path.unlink()
            return 0
