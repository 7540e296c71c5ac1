"""The note that a pull leaves with a model: where it came from, which revision, its hashes, its licence, and when."""

import os
from pathlib import Path
from typing import Final, Literal

import msgspec

from samovar.errors import FormatError
from samovar.formats.json_object import read_limited

_FILE_NAME: Final = "samovar.json"
_MAX_BYTES: Final = 4 << 20

Source = Literal["huggingface", "modelscope", "url", "package-index"]
Checked = Literal["sha256", "git-sha1", "size"]


class RecordedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file as it came. `checked` is what the source gave to hold it against; `validator` the ETag or date that the server of
    an address gave, by which a later pull tells whether the file has changed."""

    path: str
    size_bytes: int
    sha256: str
    checked: Checked
    validator: str | None = None


class PullRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`names` are those under which the model can be called; `revision` is a commit where the source has them."""

    names: tuple[str, ...]
    source: Source
    origin: str
    revision: str | None
    licence: str | None
    pulled_at: str
    files: tuple[RecordedFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


def record_path(model: Path) -> Path:
    """Where the record of a model lies: in its folder, or beside its file."""
    return model / _FILE_NAME if model.is_dir() else model.with_name(f"{model.name}.json")


def read_record(model: Path) -> PullRecord | None:
    """The record of a model; None where there is none, as for one that was put there by hand.

    Raises FormatError where there is one that cannot be read.
    """
    path = record_path(model)
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(read_limited(path, _MAX_BYTES), type=PullRecord)
    except (msgspec.MsgspecError, ValueError) as error:
        raise FormatError(f"{path}: no record of a pull ({error}); remove it, or pull the model again") from None


def write_record(record: PullRecord, path: Path) -> None:
    """Write it so that it is there whole or not at all. Raises OSError."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def is_intact(folder: Path, record: PullRecord) -> bool:
    """Whether all files of a record are there in their sizes."""
    paths = ((folder / file.path, file.size_bytes) for file in record.files)
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)
