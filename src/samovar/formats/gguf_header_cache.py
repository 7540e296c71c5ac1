"""A GGUF header kept in the cache: most of one is the vocabulary, hundreds of thousands of strings that a start need not read.

The entry holds the list of tensors and all metadata but the tokenizer's lists; those are read from the file when asked for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import astuple
from functools import cached_property
from typing import Any, Final

from samovar.formats.cache import CacheFile, CacheStore
from samovar.formats.gguf_header import GgufHeader, MetadataValue, TensorEntry, read_header
from samovar.formats.mapped_file import MappedFile

_KIND: Final = "header"
_ENTRY_VERSION: Final = 1
_MIN_BYTES: Final = 256 << 10  # smaller headers are read as fast as found
_TOKENIZER: Final = "tokenizer."


class LazyMetadata(Mapping[str, MetadataValue]):
    """Metadata whose long lists are read from the file when one of them is first asked for."""

    def __init__(self, facts: dict[str, MetadataValue], absent: frozenset[str], file: MappedFile) -> None:
        self.facts, self._absent, self._file = facts, absent, file

    @cached_property
    def _whole(self) -> Mapping[str, MetadataValue]:
        return read_header(self._file.path, self._file.memory).metadata

    def __getitem__(self, key: str) -> MetadataValue:
        return self._whole[key] if key in self._absent else self.facts[key]

    def __iter__(self) -> Iterator[str]:
        yield from self.facts
        yield from self._absent

    def __len__(self) -> int:
        return len(self.facts) + len(self._absent)


def facts_of(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    """Metadata without the lists of the tokenizer."""
    if isinstance(metadata, LazyMetadata):
        return metadata.facts
    return {key: value for key, value in metadata.items() if not (key.startswith(_TOKENIZER) and isinstance(value, list))}


def read_header_once(file: MappedFile, cache: CacheStore) -> GgufHeader:
    """The header from the cache; where it is not there, from the file, and it is put there if that is worth it.

    A file of a split model is read each time: its metadata has to be held against that of the others. Raises as `read_header`.
    """
    if (entry := cache.open(_KIND, file.identity)) is not None and (found := _from_entry(entry, file)) is not None:
        return found
    header = read_header(file.path, file.memory)
    if header.data_start >= _MIN_BYTES and header.metadata.get("split.count", 1) == 1:
        facts = facts_of(header.metadata)
        meta = {
            "source": str(file.path.absolute()),
            "entry_version": _ENTRY_VERSION,
            "version": header.version,
            "alignment": header.alignment,
            "data_start": header.data_start,
            "facts": facts,
            "absent": sorted(header.metadata.keys() - facts.keys()),
            "tensors": [astuple(tensor) for tensor in header.tensors],
        }
        cache.write(_KIND, file.identity, meta, {})
    return header


def _from_entry(entry: CacheFile, file: MappedFile) -> GgufHeader | None:
    """The header in an entry; None where another version wrote it."""
    meta: dict[str, Any] = entry.meta
    if meta.get("entry_version") != _ENTRY_VERSION:
        return None
    return GgufHeader(
        version=meta["version"],
        metadata=LazyMetadata(meta["facts"], frozenset(meta["absent"]), file),
        tensors=tuple(
            TensorEntry(name=name, shape=tuple(shape), ggml_type=type_id, offset=offset)
            for name, shape, type_id, offset in meta["tensors"]
        ),
        alignment=meta["alignment"],
        data_start=meta["data_start"],
    )
