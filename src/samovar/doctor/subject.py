"""What the doctor looks at: a model as far as it can be read. What cannot is a problem to report, and no reason to stop."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

from samovar.errors import ModelNotFound, SamovarError
from samovar.formats import open_checkpoint
from samovar.formats.gguf import MAGIC, GgufCheckpoint
from samovar.formats.gguf_header import read_header
from samovar.formats.hf_folder import CONFIG, HfCheckpoint
from samovar.formats.json_object import read_json_object, read_limited
from samovar.formats.mapped_file import MappedFile
from samovar.formats.pull_record import PullRecord, read_record
from samovar.formats.safetensors import tensors_of
from samovar.tensors.dtypes import TYPE_BY_GGML_ID
from samovar.tensors.stored import Tensor

_MAX_TEMPLATE_BYTES: Final = 1 << 20
_HUBS: Final = ("huggingface", "modelscope")
_MAX_NAME: Final = 300  # characters
Json: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A tensor by its entry in a header: the type's name, the shape, and the bits of a value, 0 where not known."""

    type: str
    shape: tuple[int, ...]
    bits: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A GGUF file or a Hugging Face folder. Parts that could not be read are empty, and `problems` says why.

    `names` are what the model is called, with the place of each name. `metadata` is GGUF's, `config` and its companions are
    Hugging Face's. `tensors` can be read; `listed` is there for more of them, where a file is damaged. `quantisation` is how
    a folder's weights are quantised, in words, and `quantisation_config` as its config has it. `record` is the note that a pull
    has left; `n_spare_bytes` are after the last tensor.
    """

    path: Path
    is_gguf: bool
    names: tuple[tuple[str, str], ...]
    metadata: Json
    config: Json
    generation_config: Json
    tokenizer_config: Json
    tokenizer_json: Path | None
    template: str | None
    tensors: Mapping[str, Tensor]
    listed: Mapping[str, Listed]
    files: tuple[Path, ...]
    quantisation: str = ""
    quantisation_config: Json = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    record: PullRecord | None = None
    n_spare_bytes: int = 0


def look_at(path: Path) -> Subject:
    """Read what can be read. Raises ModelNotFound and nothing else for an absent path; for all that is damaged, `problems`."""
    subject = _open(path)
    record = _record_of(path)
    if record is None or record.source not in _HUBS:
        return replace(subject, record=record)
    repository = "/".join(record.origin.rstrip("/").split("/")[-2:])[:_MAX_NAME]
    return replace(subject, record=record, names=(("the record of its pull", repository), *subject.names))


def _record_of(path: Path) -> PullRecord | None:
    """The record of a model that was pulled: in its folder, or beside its file. A damaged one is none."""
    for place in (path, path.parent):
        with contextlib.suppress(SamovarError, OSError):
            if (record := read_record(place)) is not None:
                return record
    return None


def _open(path: Path) -> Subject:
    try:
        checkpoint = open_checkpoint(path)
    except ModelNotFound as error:
        if not path.exists():
            raise
        return _broken(path, error)
    except SamovarError as error:
        return _broken(path, error)
    if isinstance(checkpoint, GgufCheckpoint):
        return of_gguf(checkpoint)
    return of_folder(checkpoint)


def of_gguf(checkpoint: GgufCheckpoint) -> Subject:
    """An open GGUF file."""
    template = checkpoint.metadata.get("tokenizer.chat_template")
    return Subject(
        path=checkpoint.path,
        is_gguf=True,
        names=_gguf_names(checkpoint.path, checkpoint.metadata),
        metadata=checkpoint.metadata,
        config={},
        generation_config={},
        tokenizer_config={},
        tokenizer_json=None,
        template=template if isinstance(template, str) else None,
        tensors=checkpoint.tensors,
        listed=_listed(checkpoint.tensors),
        files=tuple(file.path for file in checkpoint.files),
        n_spare_bytes=checkpoint.n_spare_bytes,
    )


def of_folder(checkpoint: HfCheckpoint) -> Subject:
    """An open Hugging Face folder."""
    return Subject(
        path=checkpoint.path,
        is_gguf=False,
        names=_folder_names(checkpoint.path, checkpoint.config),
        metadata={},
        config=checkpoint.config,
        generation_config=checkpoint.generation_config,
        tokenizer_config=checkpoint.tokenizer_config,
        tokenizer_json=checkpoint.tokenizer_json,
        template=checkpoint.chat_template,
        tensors=checkpoint.tensors,
        listed=_listed(checkpoint.tensors),
        files=tuple(file.path for file in checkpoint.files),
        quantisation=checkpoint.quantisation.method if checkpoint.quantisation else "",
        quantisation_config=json.loads(checkpoint.quantisation.config) if checkpoint.quantisation else {},
    )


def _listed(tensors: Mapping[str, Tensor]) -> dict[str, Listed]:
    return {n: Listed(type=t.type.name, shape=t.shape, bits=t.type.bits_per_weight) for n, t in tensors.items()}


def _gguf_names(path: Path, metadata: Json) -> tuple[tuple[str, str], ...]:
    keys = ("general.basename", "general.size_label", "general.finetune")
    parts = [value for key in keys if isinstance(value := metadata.get(key), str)]
    name = metadata.get("general.name")
    stated = [("general.name", name[:_MAX_NAME])] if isinstance(name, str) else []
    built = [("general.basename", "-".join(parts)[:_MAX_NAME])] if parts else []
    return (*stated, *built, ("the file's name", path.name))


def _folder_names(path: Path, config: Json) -> tuple[tuple[str, str], ...]:
    """The folder's name; in a hub's cache that of the repository, some levels up."""
    resolved = path.resolve()
    repository = next((p.name for p in resolved.parents if p.name.startswith("models--")), None)
    name = repository.removeprefix("models--").replace("--", "/") if repository else resolved.name
    stated = config.get("_name_or_path")
    return (
        *([("_name_or_path", stated[:_MAX_NAME])] if isinstance(stated, str) and stated else []),
        ("the folder's name", name),
    )


def _broken(path: Path, error: SamovarError) -> Subject:
    """What is left of a model that does not open."""
    if path.is_dir():
        return _broken_folder(path, str(error))
    problems = [str(error)]
    metadata: Json = {}
    listed: dict[str, Listed] = {}
    try:
        file = MappedFile(path)
        if file.memory[: len(MAGIC)] == MAGIC:
            header = read_header(path, file.memory)
            metadata = header.metadata
            for entry in header.tensors:
                kind = TYPE_BY_GGML_ID.get(entry.ggml_type)
                name, bits = (kind.name, kind.bits_per_weight) if kind else (f"type {entry.ggml_type}", 0.0)
                listed[entry.name] = Listed(type=name, shape=entry.shape, bits=bits)
    except SamovarError as worse:
        problems += [str(worse)] if str(worse) != problems[0] else []
    template = metadata.get("tokenizer.chat_template")
    return Subject(
        path=path,
        is_gguf=True,
        names=_gguf_names(path, metadata),
        metadata=metadata,
        config={},
        generation_config={},
        tokenizer_config={},
        tokenizer_json=None,
        template=template if isinstance(template, str) else None,
        tensors={},
        listed=listed,
        files=(path,),
        problems=tuple(problems),
    )


def _broken_folder(path: Path, problem: str) -> Subject:
    problems = [problem]

    def read(name: str) -> Json:
        try:
            return read_json_object(path / name) if (path / name).exists() else {}
        except SamovarError as error:
            problems.append(str(error))
            return {}

    config, tokenizer_config = read(CONFIG), read("tokenizer_config.json")
    template = tokenizer_config.get("chat_template")
    if (file := path / "chat_template.jinja").is_file():
        try:
            template = read_limited(file, _MAX_TEMPLATE_BYTES).decode()
        except (SamovarError, UnicodeDecodeError) as error:
            problems.append(f"{file}: {error}")
    tokenizer_json = path / "tokenizer.json"
    return Subject(
        path=path,
        is_gguf=False,
        names=_folder_names(path, config),
        metadata={},
        config=config,
        generation_config=read("generation_config.json"),
        tokenizer_config=tokenizer_config,
        tokenizer_json=tokenizer_json if tokenizer_json.is_file() else None,
        template=template if isinstance(template, str) else None,
        tensors={},
        listed=_listed_in_folder(path) if not any("quantization" in key for key in config) else {},
        files=(),
        problems=tuple(dict.fromkeys(problems)),
    )


def _listed_in_folder(path: Path) -> dict[str, Listed]:
    """The tensors of the weight files that can be read, each by itself."""
    listed: dict[str, Listed] = {}
    for file in sorted(path.glob("*.safetensors")):
        with contextlib.suppress(SamovarError):  # `problems` says what is wrong with it
            listed |= _listed(tensors_of(MappedFile(file), with_parts=True))
    return listed
