"""A Hugging Face model folder: configs, tokenizer, chat template, and tensors out of one or several safetensors files.

Code in a checkpoint is never run: pickle files are refused, and `auto_map` in a config has no effect.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samovar.errors import FormatError, ModelNotFound, UnsupportedModel
from samovar.formats.json_object import read_json_object, read_limited
from samovar.formats.mapped_file import MappedFile, identity_of, open_plain, unreadable
from samovar.formats.safetensors import tensors_of
from samovar.formats.sentence_files import SentenceFiles, read_sentence_files
from samovar.tensors.stored import StoredTensor, Tensor

if TYPE_CHECKING:
    from samovar.formats.quantized import Quantisation

CONFIG: Final = "config.json"
_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_SHARD_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")
_SHARD: Final = re.compile(r"model-\d+-of-\d+\.safetensors")  # as transformers names them; other names are other things
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_MAX_TEMPLATE_BYTES: Final = 1 << 20
_MAX_README_BYTES: Final = 16 << 10
_FRONT_MATTER: Final = re.compile(r"\A---\n.*?^---$", re.M | re.S)
_HEADING: Final = re.compile(r"^#[ \t]+(.*)$", re.M)
_AGAIN: Final = "; copy or download the whole folder again"
_MIXED: Final = f": files of different models are mixed, or the index is of another one{_AGAIN}"
_QUANTISATION_KEYS: Final = ("quantization_config", "compression_config")


@dataclass(frozen=True, slots=True, kw_only=True)
class HfCheckpoint:
    """A model folder. Configs are raw JSON objects, empty where the file is absent; `files` hold the tensors. `vectors` is what
    sentence-transformers wrote beside them. `title` is the first heading of the README, which names the release."""

    path: Path
    config: dict[str, object]
    generation_config: dict[str, object]
    tokenizer_config: dict[str, object]
    tokenizer_json: Path | None
    chat_template: str | None
    tensors: dict[str, Tensor]
    files: tuple[MappedFile, ...]
    quantisation: "Quantisation | None" = None
    vectors: SentenceFiles | None = None
    title: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors' files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def identity(self) -> str:
        """Stands for the bytes of all tensors, see `MappedFile.identity`, and for how they are quantised."""
        of_files = identity_of(self.files)
        if self.quantisation is None:
            return of_files
        return hashlib.sha256(f"{of_files} {self.quantisation.config}".encode()).hexdigest()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know of the weights, a line each."""
        return () if self.quantisation is None else self.quantisation.warnings


def read_hf_folder(path: Path) -> HfCheckpoint:
    """Read a folder with config.json and safetensors weights.

    Raises FormatError for damage and for what does not fit together, ModelNotFound for absent files, UnsupportedModel for
    pickle-only folders and ways of quantising that are not read, StoreError for unreadable files.
    """
    config = read_json_object(path / CONFIG)
    raw = _quantisation_config(config, path / CONFIG)
    stored, files = _read_tensors(path, with_parts=raw is not None)
    tensors: dict[str, Tensor] = {**stored}
    quantisation: Quantisation | None = None
    if raw is not None:
        from samovar.formats.quantized import read_quantised  # start-up waits for imports, and most folders need none of it

        tensors, quantisation = read_quantised(raw[1], stored, f"{path / CONFIG}: {raw[0]}")
    tokenizer_config = _optional_json(path / "tokenizer_config.json")
    tokenizer_json = path / "tokenizer.json"
    return HfCheckpoint(
        path=path,
        config=config,
        generation_config=_optional_json(path / "generation_config.json"),
        tokenizer_config=tokenizer_config,
        tokenizer_json=tokenizer_json if tokenizer_json.is_file() else None,
        chat_template=_chat_template(path, tokenizer_config),
        tensors=tensors,
        files=files,
        quantisation=quantisation,
        vectors=read_sentence_files(path),
        title=_title(path / "README.md"),
    )


def has_safetensors(path: Path) -> bool:
    """Whether the folder holds weights under the names that are read."""
    return (path / _SINGLE).exists() or (path / _INDEX).exists()


def pickle_files(path: Path) -> list[str]:
    """Names of the files in a folder that are pickle checkpoints by their names."""
    try:
        return sorted(p.name for p in path.iterdir() if p.suffix in _PICKLES and p.name != "training_args.bin")
    except OSError as error:
        raise unreadable(path, error) from None


def pickle_refusal(where: str) -> UnsupportedModel:
    """The error for a pickle checkpoint; `where` names the file."""
    return UnsupportedModel(
        f"{where}: a pickle checkpoint; loading pickle can run any code that is hidden in it, so it is not read: "
        "convert the model to safetensors, or use a GGUF file"
    )


def _quantisation_config(config: dict[str, object], where: Path) -> tuple[str, dict[str, object]] | None:
    """Take what a config says of quantised weights out of it: under which key, and what."""
    found = {key: value for key in _QUANTISATION_KEYS if (value := config.pop(key, None)) is not None}
    if not found:
        return None
    key, value = next(iter(found.items()))
    if len(found) > 1 or not isinstance(value, dict):
        raise FormatError(f"{where}: {' and '.join(found)}: one object that says how the weights are quantised is expected")
    return key, value


def _optional_json(path: Path) -> dict[str, object]:
    """The object in a file, empty where there is no such file."""
    return read_json_object(path) if path.exists() else {}


def _title(path: Path) -> str:
    """The first heading of a README in Markdown; empty where there is none. A README that is odd says nothing."""
    try:
        with open_plain(path) as file:
            head = file.read(_MAX_README_BYTES).decode("utf-8", "replace")
    except (OSError, FormatError):
        return ""
    found = _HEADING.search(_FRONT_MATTER.sub("", head))
    return found[1].strip() if found else ""


def _read_tensors(path: Path, *, with_parts: bool) -> tuple[dict[str, StoredTensor], tuple[MappedFile, ...]]:
    """All tensors, and their files."""
    if (path / _INDEX).exists():
        return _read_shards(path, with_parts=with_parts)
    if (path / _SINGLE).exists():
        _check_no_others(path, [], _SINGLE)
        file = MappedFile(path / _SINGLE)
        return tensors_of(file, with_parts=with_parts), (file,)
    if pickles := pickle_files(path):
        raise pickle_refusal(str(path / pickles[0]))
    others = sorted(p.name for p in path.glob("*.safetensors"))
    found = f"; found {', '.join(others[:5])}" if others else ""
    raise FormatError(f"{path}: no weights: {_SINGLE} or {_INDEX} is expected beside {CONFIG}{found}")


def _read_shards(path: Path, *, with_parts: bool) -> tuple[dict[str, StoredTensor], tuple[MappedFile, ...]]:
    """The tensors of a sharded checkpoint: each exactly in the file that the index names."""
    shard_of = _weight_map(path / _INDEX)
    shards = sorted(set(shard_of.values()))
    if missing := [shard for shard in shards if not (path / shard).exists()]:
        raise ModelNotFound(
            f"{path}: {len(missing)} of {len(shards)} weight files are missing: {', '.join(missing[:5])}{_AGAIN}"
        )
    if _SINGLE not in shards and (path / _SINGLE).exists():
        raise FormatError(
            f"{path}: holds both {_SINGLE} and {_INDEX}, which does not name it: remove the one that is out of date"
        )
    _check_no_others(path, shards, _INDEX)
    tensors: dict[str, StoredTensor] = {}
    files = tuple(MappedFile(path / shard) for shard in shards)
    for shard, file in zip(shards, files, strict=True):
        for name, tensor in tensors_of(file, with_parts=with_parts).items():
            if shard_of.get(name) != shard:
                expected = f"in {shard_of[name]}" if name in shard_of else "nowhere"
                raise FormatError(f"{path / shard}: holds tensor {name!r}, which {_INDEX} expects {expected}{_MIXED}")
            tensors[name] = tensor
    if absent := sorted(shard_of.keys() - tensors.keys()):
        raise FormatError(
            f"{path / shard_of[absent[0]]}: lacks tensor {absent[0]!r}, which {_INDEX} expects there "
            f"({len(absent)} are lacking in all){_MIXED}"
        )
    return tensors, files


def _check_no_others(path: Path, shards: list[str], beside: str) -> None:
    """Refuse shards that nothing names: they are what is left of another set, or `beside` is."""
    others = sorted(p.name for p in path.glob("*.safetensors") if _SHARD.fullmatch(p.name) and p.name not in shards)
    if others:
        raise FormatError(
            f"{path}: holds {others[0]}, which is no part of {beside}: remove the one that is out of date{_AGAIN}"
        )


def _weight_map(path: Path) -> dict[str, str]:
    """The index: tensor name to file name. Names that lead out of the folder are refused."""
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{path}: weight_map has to map tensor names to file names")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise FormatError(
                f"{path}: tensor {name!r} is said to be in {str(shard)[:80]!r}; "
                "the name of a safetensors file in this folder is expected"
            )
    return weight_map


def _chat_template(path: Path, tokenizer_config: dict[str, object]) -> str | None:
    """The template: its own file first, then the tokenizer's config, where it is text or a list of named ones."""
    file = path / "chat_template.jinja"
    if file.exists():
        try:
            return read_limited(file, _MAX_TEMPLATE_BYTES).decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{file}: no UTF-8 text: {error.reason} at byte {error.start}") from None
    template = tokenizer_config.get("chat_template")
    where = f"{path / 'tokenizer_config.json'}: chat_template"
    if isinstance(template, list):
        named = {t["name"]: t["template"] for t in template if isinstance(t, dict) and t.keys() == {"name", "template"}}
        if len(named) != len(template) or "default" not in named:
            raise FormatError(f"{where}: a list of named templates with one called default is expected")
        template = named["default"]
    if template is not None and not isinstance(template, str):
        raise FormatError(f"{where}: text, or a list of named templates, is expected")
    return template
