"""Bytes on disk to named tensors and raw config. What a path holds is told by its content, never by its name."""

from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from samovar.errors import FormatError, ModelNotFound, UnsupportedModel
from samovar.formats.cache import CacheStore
from samovar.formats.gguf import MAGIC, GgufCheckpoint, read_gguf, split_heads
from samovar.formats.mapped_file import open_plain, unreadable

if TYPE_CHECKING:
    from samovar.formats.hf_folder import HfCheckpoint

Checkpoint: TypeAlias = "GgufCheckpoint | HfCheckpoint"

_HEAD_BYTES: Final = 512
_OLD_GGML: Final = (b"lmgg", b"fmgg", b"tjgg", b"algg")  # ggml, ggmf, ggjt and ggla, little-endian
_ARCHIVES: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"\x28\xb5\x2f\xfd")


def open_checkpoint(path: Path, cache: CacheStore | None = None) -> Checkpoint:
    """Open a GGUF file, a folder that holds one, or a Hugging Face folder with safetensors weights. A cache saves time.

    Raises ModelNotFound for absent paths, StoreError for unreadable ones, UnsupportedModel for formats that are known and
    not read (pickle among them), FormatError for everything else.
    """
    if "\0" in str(path):
        raise ModelNotFound(f"{str(path)!r}: no path, it holds a zero byte")
    try:
        is_folder = path.is_dir()
        if not is_folder and not path.exists():
            raise ModelNotFound(f"{path}: no such file or folder; check the path")
    except OSError as error:
        raise unreadable(path, error) from None
    return _open_folder(path, cache) if is_folder else _open_file(path, cache)


def _open_folder(path: Path, cache: CacheStore | None) -> Checkpoint:
    """A Hugging Face folder, or the one GGUF model in a folder."""
    # Imported where it is needed: start-up waits for imports, and a GGUF file needs none of it.
    from samovar.formats.hf_folder import CONFIG, has_safetensors, pickle_files, pickle_refusal, read_hf_folder

    try:
        names = sorted(p.name for p in path.iterdir() if p.suffix == ".gguf" and p.is_file())
        has_config = (path / CONFIG).exists()
    except OSError as error:
        raise unreadable(path, error) from None
    if has_config and (has_safetensors(path) or not names):
        return read_hf_folder(path)
    models = split_heads(names)
    if len(models) == 1:
        return read_gguf(path / models[0], cache)
    if models:
        more = f" and {len(models) - 5} more" if len(models) > 5 else ""
        raise FormatError(f"{path}: holds {len(models)} GGUF models; give the path of one: {', '.join(models[:5])}{more}")
    if pickles := pickle_files(path):
        raise pickle_refusal(str(path / pickles[0]))
    raise FormatError(f"{path}: no model folder: {CONFIG} with safetensors weights, or a .gguf file, is expected in it")


def _open_file(path: Path, cache: CacheStore | None) -> Checkpoint:
    """A GGUF file; for anything else the error that tells what it is."""
    try:
        with open_plain(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise unreadable(path, error) from None
    if head.startswith(MAGIC):
        return read_gguf(path, cache)
    raise _refusal(path, head)


def _refusal(path: Path, head: bytes) -> FormatError | UnsupportedModel:
    """What to say of a file that starts with `head`."""
    from samovar.formats.hf_folder import CONFIG, pickle_refusal

    expected = "a GGUF file or a Hugging Face folder is expected"
    if not head:
        return FormatError(f"{path}: the file is empty; copy or download it again")
    if head.startswith(b"version https://git-lfs"):
        return FormatError(f"{path}: a Git LFS pointer, not the model itself; run `git lfs pull` in that repository")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return FormatError(f"{path}: a web page, saved in place of a model; download the file itself")
    if head.startswith(b"PK\x03\x04") or (head[0] == 0x80 and len(head) > 1 and head[1] in range(1, 6)):
        kind = "a zip archive, as torch.save writes" if head.startswith(b"PK") else "a pickle file"
        return pickle_refusal(f"{path} ({kind})")
    if head.startswith(_OLD_GGML):
        return UnsupportedModel(f"{path}: a GGML file from before GGUF, which is not read; get the model as GGUF")
    if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
        return FormatError(f"{path}: a compressed archive; unpack it first")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return FormatError(
            f"{path}: safetensors weights alone do not say which model they are; give the folder that holds them with {CONFIG}"
        )
    if path.name == CONFIG:
        return FormatError(f"{path}: give the folder that holds this file")
    return FormatError(f"{path}: no model: it starts with {head[:8]!r}; {expected}")
