"""GGUF files to named tensors and metadata: memory-mapped, single or split into numbered files.

Everything a header promises about tensors is checked here against the size of the file. Tensor data is not read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from samovar.errors import FormatError, ModelNotFound, UnsupportedModel
from samovar.formats.cache import CacheStore
from samovar.formats.gguf_header import MAGIC, GgufHeader, MetadataValue, TensorEntry, read_header
from samovar.formats.gguf_header_cache import facts_of, read_header_once
from samovar.formats.int4_rows import INT4_PREFIX, int4_tensors
from samovar.formats.mapped_file import MappedFile, identity_of, stored_size
from samovar.formats.sentence_files import SentenceFiles
from samovar.formats.sentence_keys import read_sentence_keys
from samovar.tensors.dtypes import I8, TENSOR_TYPES, TYPE_BY_GGML_ID, TensorType
from samovar.tensors.stored import StoredTensor, Tensor

__all__ = ["MAGIC", "GgufCheckpoint", "MetadataValue", "read_gguf"]

_SPLIT_NAME: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_POOLING_TYPES: Final = {1: "mean", 2: "cls", 3: "lasttoken"}  # llama.cpp's enum llama_pooling_type
_MIXED: Final = ": files of different models are mixed; copy or download all of them again, from one place"
_PER_FILE_KEYS: Final = frozenset({"split.no"})

# Types that exist in ggml and are not read, for messages.
_UNREAD_TYPES: Final = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 31: "Q4_0_4_4",
    32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufCheckpoint:
    """A model in GGUF. `path` is the file that was asked for; `files` are all files of a split model.

    `metadata` may read its long lists when they are first asked for. `n_spare_bytes` come after the last tensors of the files
    and their padding.
    """

    path: Path
    version: int
    metadata: Mapping[str, MetadataValue]
    tensors: Mapping[str, Tensor]
    files: tuple[MappedFile, ...]
    n_spare_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the model."""
        return sum(file.size_bytes for file in self.files)

    @property
    def facts(self) -> dict[str, MetadataValue]:
        """The metadata without the tokenizer's long lists, which are slow to read."""
        return facts_of(self.metadata)

    @property
    def pooling(self) -> str | None:
        """How one vector comes of many states, in sentence-transformers' words; None where nothing says so."""
        found = self.facts.get(f"{self.facts.get('general.architecture')}.pooling_type")
        return _POOLING_TYPES.get(found) if isinstance(found, int) else None

    @property
    def vectors(self) -> SentenceFiles | None:
        """What was written of the files of sentence-transformers. Raises FormatError for keys that are unsound."""
        return read_sentence_keys(self.facts, self.pooling, str(self.path))

    @property
    def identity(self) -> str:
        """Stands for the bytes of the model, see `MappedFile.identity`."""
        return identity_of(self.files)


@dataclass(frozen=True, slots=True)
class _Part:
    """One opened file."""

    file: MappedFile
    header: GgufHeader
    tensors: dict[str, StoredTensor]
    n_spare_bytes: int


def read_gguf(path: Path, cache: CacheStore | None = None) -> GgufCheckpoint:
    """Open a GGUF file, and with it all the files of the split model that it belongs to.

    With a cache, a large header is read once.
    Raises FormatError for damage, UnsupportedModel for versions and tensor types that are not read, ModelNotFound for
    absent files, StoreError for unreadable ones.
    """
    part = _read_part(path, cache)
    parts = _all_parts(path, part)
    tensors: dict[str, StoredTensor] = {}
    for other in parts:
        if twice := tensors.keys() & other.tensors.keys():
            raise FormatError(f"{other.file.path}: tensor {min(twice)!r} is also in {tensors[min(twice)].source}")
        tensors |= other.tensors
    _check_split_count(path, parts, len(tensors))
    return GgufCheckpoint(
        path=path,
        version=parts[0].header.version,
        metadata=parts[0].header.metadata,
        tensors=int4_tensors(tensors) if _is_int4(parts[0].header) else tensors,
        files=tuple(p.file for p in parts),
        n_spare_bytes=sum(p.n_spare_bytes for p in parts),
    )


def _read_part(path: Path, cache: CacheStore | None = None) -> _Part:
    """Open one file and check every tensor it lists."""
    file = MappedFile(path)
    header = read_header(path, file.memory) if cache is None else read_header_once(file, cache)
    tensors: dict[str, StoredTensor] = {}
    ranges: list[tuple[int, int, str]] = []
    for entry in header.tensors:
        if entry.name in tensors:
            raise FormatError(f"{path}: tensor {entry.name!r} is listed twice")
        stored_type = I8 if entry.ggml_type == I8.ggml_id and _is_int4(header) else _stored_type(path, entry)
        size = stored_size(entry.name, stored_type, entry.shape, str(path))
        start = header.data_start + entry.offset
        if entry.offset % header.alignment:
            raise FormatError(f"{path}: tensor {entry.name!r} is at offset {entry.offset}, no multiple of {header.alignment}")
        if start + size > file.size_bytes:
            raise FormatError(
                f"{path}: the file is cut short: tensor {entry.name!r} takes bytes {start} to {start + size}, the file has "
                f"{file.size_bytes}; copy or download it again"
            )
        ranges.append((start, start + size, entry.name))
        tensors[entry.name] = file.tensor(entry.name, stored_type, entry.shape, start, size)
    _refuse_overlaps(path, ranges)
    end = max((end for _, end, _ in ranges), default=header.data_start)
    padded_end = -(-end // header.alignment) * header.alignment
    return _Part(file, header, tensors, max(0, file.size_bytes - padded_end))


def _is_int4(header: GgufHeader) -> bool:
    """Whether tensors of bytes are weights in Samovar's own int4."""
    architecture = header.metadata.get("general.architecture")
    return isinstance(architecture, str) and architecture.startswith(INT4_PREFIX)


def _stored_type(path: Path, entry: TensorEntry) -> TensorType:
    """The storage type of a tensor."""
    found = TYPE_BY_GGML_ID.get(entry.ggml_type)
    if found is None:
        name = _UNREAD_TYPES.get(entry.ggml_type, "unknown")
        readable = ", ".join(t.name for t in TENSOR_TYPES)
        raise UnsupportedModel(
            f"{path}: tensor {entry.name!r} has type {entry.ggml_type} ({name}), which is not read; readable: {readable}"
        )
    return found


def _refuse_overlaps(path: Path, ranges: list[tuple[int, int, str]]) -> None:
    """Raise where two tensors share bytes."""
    ranges.sort()
    for (_, end, first), (start, _, second) in pairwise(ranges):
        if start < end:
            raise FormatError(f"{path}: tensors {first!r} and {second!r} overlap at byte {start}: the file is damaged")


def _all_parts(path: Path, part: _Part) -> list[_Part]:
    """The files of the model that `part` belongs to, in order; just itself where it is not split."""
    count = _split_number(path, part.header, "split.count")
    if count is None or count == 1:
        return [part]
    paths = _sibling_paths(path, count)
    parts = [part if sibling == path else _read_part(sibling) for sibling in paths]
    first = parts[0].header.metadata
    for number, other in enumerate(parts):
        where = other.file.path
        if (found := _split_number(where, other.header, "split.no")) != number:
            raise FormatError(f"{where}: split.no is {found}, its name says {number}{_MIXED}")
        for key, value in other.header.metadata.items():
            if key not in _PER_FILE_KEYS and (key not in first or first[key] != value):
                raise FormatError(
                    f"{where}: {key!r} is {str(value)[:80]!r}, and {paths[0].name} has {str(first.get(key))[:80]!r}{_MIXED}"
                )
    return parts


def _sibling_paths(path: Path, count: int) -> list[Path]:
    """The paths of all `count` files of a split model, from the path of one; raises where some are missing."""
    match = _SPLIT_NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise FormatError(
            f"{path}: one of {count} files of a split model, which have to be named NAME-00001-of-{count:05}.gguf and so on: "
            "give the files their names back"
        )
    paths = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    if missing := [p.name for p in paths if not p.exists()]:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ModelNotFound(
            f"{path}: a model of {count} files, of which these are missing: {', '.join(missing[:5])}{more}; "
            "copy or download them again, into this folder"
        )
    return paths


def _split_number(path: Path, header: GgufHeader, key: str) -> int | None:
    """A count from the `split.` keys, None where it is absent."""
    value = header.metadata.get(key)
    if value is not None and (type(value) is not int or value < 0):
        raise FormatError(f"{path}: {key} is {str(value)[:40]}; a count is expected")
    return value if type(value) is int else None


def _check_split_count(path: Path, parts: list[_Part], n_tensors: int) -> None:
    """Hold the number of tensors found against the promised one."""
    promised = _split_number(path, parts[0].header, "split.tensors.count")
    if promised is not None and len(parts) > 1 and promised != n_tensors:
        raise FormatError(f"{path}: {len(parts)} files hold {n_tensors} tensors together, split.tensors.count says {promised}")


def split_heads(names: list[str]) -> list[str]:
    """The file names less the second and later files of split models: one name a model."""
    return [name for name in names if not (match := _SPLIT_NAME.fullmatch(name)) or int(match["number"]) == 1]
