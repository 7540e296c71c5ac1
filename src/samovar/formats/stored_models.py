"""What is in the store: each model with its record, found by name, listed, removed."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from samovar.errors import FormatError, ModelNotFound
from samovar.formats.catalogue import CATALOGUE, Catalogue
from samovar.formats.model_reference import HubReference, parse_reference
from samovar.formats.pull_record import PullRecord, is_intact, read_record, record_path


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model in the store: a GGUF file, or a folder. `record` is None for what was put there by hand."""

    name: str
    path: Path
    record: PullRecord | None

    @property
    def model_path(self) -> Path:
        """What to open: the file where there is one GGUF file, else the folder."""
        return opened_path(self.path)

    def is_intact(self, sha256: str | None = None) -> bool:
        """Whether its files are there in the sizes that were recorded; with `sha256`, whether one of them came with it."""
        if self.record is None:
            return sha256 is None
        has_hash = sha256 is None or any(file.sha256 == sha256.lower() for file in self.record.files)
        folder = self.path if self.path.is_dir() else self.path.parent
        return has_hash and is_intact(folder, self.record)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of all its files, its record aside."""
        files = [self.path] if not self.path.is_dir() else [p for p in self.path.rglob("*") if not p.is_symlink()]
        return sum(p.stat().st_size for p in files if p.is_file() and p != record_path(self.path))

    @property
    def changed_s(self) -> float:
        """When it came (time.time)."""
        return self.path.stat().st_mtime


def catalogue_licence(path: Path, catalogue: Catalogue = CATALOGUE) -> str | None:
    """The licence of the catalogue's model that has this file name and size; None for other files. Raises OSError."""
    entry = next((entry for entry in catalogue.values() if entry.file_name == path.name), None)
    return entry.licence if entry is not None and path.is_file() and path.stat().st_size == entry.size_bytes else None


def opened_path(path: Path) -> Path:
    """The one GGUF file of a folder that holds no other, else `path`. Raises OSError."""
    if not path.is_dir():
        return path
    files = [file for file in path.iterdir() if file.suffix == ".gguf" and file.is_file()]
    return files[0] if len(files) == 1 and not (path / "config.json").exists() else path


def stored_models(store: Path, catalogue: Catalogue = CATALOGUE) -> Iterator[StoredModel]:
    """The models in the store, by the names of their files. Raises OSError."""
    folder = store / "models"
    known = {entry.file_name: name for name, entry in catalogue.items()}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_model = path.suffix == ".gguf" or (path.is_dir() and not path.name.startswith("."))
        if not is_model or not path.exists():
            continue
        record = None
        with suppress(FormatError):  # a damaged record: the model is as one that was put there by hand
            record = read_record(path)
        own = path.name if path.is_dir() else path.stem
        yield StoredModel(name=known.get(path.name) or (record.names[0] if record else own), path=path, record=record)


def find_stored(name: str, store: Path, catalogue: Catalogue = CATALOGUE) -> StoredModel | None:
    """The model that `name` calls: by a name of its record, its file or its folder; the latest where there are several.

    Raises OSError.
    """
    wanted = {name.lower()}
    with suppress(ModelNotFound):
        if reference := parse_reference(name):
            wanted |= {str(reference).lower(), str(reference).partition("?")[0].lower()}
    found = []
    for model in stored_models(store, catalogue):
        names = {model.name, model.path.name, model.path.stem, *(model.record.names if model.record else ())}
        if not wanted.isdisjoint(own.lower() for own in names):
            found.append(model)
    return max(found, key=lambda model: (model.name.lower() in wanted, model.changed_s), default=None)


def find_repository(name: str, store: Path) -> StoredModel | None:
    """The latest model that came from the repository `name`, whichever file of it was chosen. Raises OSError."""
    with suppress(ModelNotFound):
        wanted = parse_reference(name)
        if isinstance(wanted, HubReference) and wanted == HubReference(hub=wanted.hub, repo=wanted.repo):
            prefix = f"{wanted}:".lower()
            found = [
                model
                for model in stored_models(store)
                if model.record and any(own.lower().startswith(prefix) and "@" not in own for own in model.record.names)
            ]
            return max(found, key=lambda model: model.changed_s, default=None)
    return None


def remove_stored(model: StoredModel) -> int:
    """Remove a model's files and notes; returns the bytes that are free again. Raises OSError."""
    n_bytes = model.size_bytes
    if model.path.is_symlink() or not model.path.is_dir():
        record_path(model.path).unlink(missing_ok=True)
        model.path.with_name(f"{model.path.name}.sha256").unlink(missing_ok=True)
        model.path.unlink()
    else:
        record_path(model.path).unlink(missing_ok=True)  # first: what is left of it does not look whole
        shutil.rmtree(model.path)
    return n_bytes
