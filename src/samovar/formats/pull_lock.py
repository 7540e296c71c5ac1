"""What every pull needs of the store: one pull of a model at a time, room on the disk, folders that survive a power cut."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from samovar.errors import StoreError

_LOCK_POLL_S: Final = 0.2


@contextmanager
def pull_lock(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock, which ends with the process, however that ends. `waiting` is called while another has it."""
    if sys.platform == "win32":
        raise StoreError("pulling models is not implemented on Windows; give the path of a GGUF file")
    import fcntl

    while True:
        with path.open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                time.sleep(_LOCK_POLL_S)
                continue
            if not _is_open_file(path, file.fileno()):  # removed meanwhile: another may hold the one that took its place
                continue
            yield
            return


def _is_open_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def check_space(work: Path, n_bytes: int, models: Path) -> None:
    """Raise StoreError unless the disk of `work` has room for `n_bytes`."""
    free = shutil.disk_usage(work).free
    if free < n_bytes:
        raise StoreError(
            f"{models}: {n_bytes / 1e6:,.0f} MB are needed to pull this model, {free / 1e6:,.0f} MB are free; free some, "
            "or set SAMOVAR_HOME to a folder on another disk"
        )


def sync_folder(path: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
