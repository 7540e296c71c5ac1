"""The model store: where models lie on this machine, what their names mean, and how they get there.

Layout: `models/` holds model files and folders, each pulled one with a record (`formats.pull_record`); `tmp/` holds unfinished
pulls, `cache/` what is made of models at their first start (`formats.cache`).
"""

import errno
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from samovar.errors import DownloadError, ModelNotFound, SamovarError, StoreError
from samovar.formats.cache import CacheStore
from samovar.formats.catalogue import CATALOGUE, Catalogue
from samovar.formats.mapped_file import unreadable

if TYPE_CHECKING:
    from samovar.formats.model_reference import Reference
    from samovar.formats.pull_hub import PullOptions

EMBEDDED_DEFAULT: Final = "smollm2:135m"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(:[A-Za-z0-9][A-Za-z0-9._-]{0,99})?")
_OFFLINE: Final = "{} is not on this machine, and --offline forbids to fetch it"
_ADVICE: Final = {
    errno.ENOSPC: "no space is left; free some, or set SAMOVAR_HOME to a folder on another disk",
    errno.EDQUOT: "the disk quota is used up; free some space, or set SAMOVAR_HOME to a folder on another disk",
    errno.EFBIG: "the file is larger than files may be here (see: ulimit -f); set SAMOVAR_HOME to a folder on another disk",
    errno.EACCES: "permission denied; make it readable and writable (chmod u+rwx), or set SAMOVAR_HOME to a folder that is",
    errno.EPERM: "permission denied; make it readable and writable (chmod u+rwx), or set SAMOVAR_HOME to a folder that is",
    errno.EROFS: "the disk is read-only; set SAMOVAR_HOME to a folder that can be written",
    errno.EXDEV: "models/ and tmp/ of the store have to be on one disk; set SAMOVAR_HOME to a folder that holds both",
    errno.EEXIST: "a file is where a folder has to be; move it away, or set SAMOVAR_HOME to another folder",
    errno.ENOTDIR: "a file is where a folder has to be; move it away, or set SAMOVAR_HOME to another folder",
    errno.EISDIR: "a folder is where a file has to be; move it away",
}


class Progress(Protocol):
    """Told how far a pull has come."""

    def __call__(self, done_bytes: int, total_bytes: int, what: str, /) -> None: ...


def default_store() -> Path:
    """The folder of the model store: SAMOVAR_HOME where it is set, else the platform's data folder. It may not exist yet."""
    if home := os.environ.get("SAMOVAR_HOME"):
        return _expanded(home).absolute()
    import platformdirs  # imported where it is needed: start-up waits for imports

    return platformdirs.user_data_path("samovar", appauthor=False)


def default_cache() -> CacheStore:
    """The cache in the store."""
    return CacheStore(default_store() / "cache")


def resolve(path_or_name: str, store: Path, catalogue: Catalogue = CATALOGUE) -> Path:
    """The path of a model: an existing path as it is, else the name of one in the store.

    Raises ModelNotFound with what to do where there is none, StoreError where the store cannot be read.
    """
    if not path_or_name or "\0" in path_or_name:
        raise ModelNotFound(f"{path_or_name!r} names no model; give {_what_to_give(catalogue)}")
    path = _expanded(path_or_name)
    try:
        if path.exists():
            return path
        if path_or_name in catalogue:
            file = store / "models" / catalogue[path_or_name].file_name
            if file.exists():
                return file
            raise ModelNotFound(f"{path_or_name} is not on this machine yet; get it with: samovar pull {path_or_name}")
        if (found := _pulled(path_or_name, store, catalogue)) is not None:
            return found
    except OSError as error:
        raise unreadable(Path(error.filename or path), error) from None
    ends_as_file = path_or_name.endswith((".gguf", ".safetensors")) and ":" not in path_or_name
    if ends_as_file or path_or_name.startswith((".", "/", "~")):
        raise ModelNotFound(f"{path_or_name}: no such file or folder; check the path")
    if can_be_pulled(path_or_name):
        if "/" in path_or_name and ":" not in path_or_name:
            raise ModelNotFound(
                f"{path_or_name}: no such file or folder, and no repository that was pulled; get one with: samovar pull "
                f"{path_or_name}"
            )
        raise ModelNotFound(f"{path_or_name} is not on this machine yet; get it with: samovar pull {path_or_name}")
    raise ModelNotFound(
        f"{_hint(path_or_name, catalogue)}{path_or_name}: no model of that name is on this machine (see: samovar list); "
        f"give {_what_to_give(catalogue)}"
    )


def can_be_pulled(name: str, catalogue: Catalogue = CATALOGUE) -> bool:
    """Whether `pull` takes the name. A hub may still know no such repository."""
    from samovar.formats.family import FAMILY
    from samovar.formats.model_reference import parse_reference

    try:
        return name in catalogue or name.lower() in FAMILY or parse_reference(name) is not None
    except SamovarError:
        return False


def pull(
    name: str, store: Path, progress: Progress, catalogue: Catalogue = CATALOGUE, options: "PullOptions | None" = None
) -> Path:
    """Fetch a model into the store, and return its path: a name of the catalogue or of the family, a repository, or an address.

    One that is there already needs no network. An interrupted pull goes on with what is missing. Raises ModelNotFound for what
    does not exist, DownloadError where the fetch fails or what came is not what was promised, UnsupportedModel for pickles,
    StoreError where the disk refuses.
    """
    if not name:
        raise ModelNotFound(f"'' names no model; these can be pulled: {_pullable(catalogue)}")
    from samovar.formats.pull_hub import PullOptions, pull_reference
    from samovar.formats.stored_models import find_stored, opened_path

    options = options or PullOptions()
    try:
        if name in catalogue:
            return _pull_entry(name, store, progress, catalogue, options)
        reference = _reference(name, catalogue, options)
        there = find_stored(name, store, catalogue)
        if there is not None and not options.is_update and there.is_intact(options.sha256):
            return there.model_path
        if options.is_offline:
            raise ModelNotFound(_OFFLINE.format(name))
        return opened_path(pull_reference(reference, name, store, options, progress))
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise StoreError(f"{error.filename or store}: {advice}") from None


def _pull_entry(name: str, store: Path, progress: Progress, catalogue: Catalogue, options: "PullOptions") -> Path:
    """As `pull`, for a model whose parts are in packages. Raises OSError, too."""
    from samovar.formats.pull import entry_record, is_complete, pull_entry, record_entry

    entry = catalogue[name]
    target = store / "models" / entry.file_name
    if options.sha256 is not None and options.sha256.lower() != entry.sha256:
        raise DownloadError(f"{name} has the sha256 {entry.sha256}, not the one that is asked for; nothing is fetched")
    if not is_complete(target, entry):
        if options.is_offline:
            raise ModelNotFound(_OFFLINE.format(name))
        options.on_plan(entry_record(name, entry), len(entry.parts), entry.size_bytes)
        pull_entry(name, entry, target, store / "tmp", progress, options.transfer.on_retry)
    with suppress(OSError):  # in a store that is read-only, or full: the model itself is there
        record_entry(name, entry, target)
    return target


def _reference(name: str, catalogue: Catalogue, options: "PullOptions") -> "Reference":
    """What a name outside the catalogue leads to. Raises ModelNotFound."""
    from samovar.formats.family import FAMILY
    from samovar.formats.model_reference import parse_reference

    if (entry := FAMILY.get(name.lower())) is not None:
        return entry.at(options.hub)
    if (reference := parse_reference(name)) is not None:
        return reference
    raise ModelNotFound(f"{_hint(name, catalogue)}{name} cannot be pulled; these can: {_pullable(catalogue)}")


def _pulled(name: str, store: Path, catalogue: Catalogue) -> Path | None:
    """A model in the store by its name. Raises OSError."""
    from samovar.formats.stored_models import find_repository, find_stored, opened_path

    if _NAME.fullmatch(name):
        for candidate in (store / "models" / name, store / "models" / f"{name}.gguf"):
            if candidate.exists():
                return opened_path(candidate)
    found = find_stored(name, store, catalogue) or find_repository(name, store)
    return None if found is None else found.model_path


def _expanded(path: str) -> Path:
    """With `~` replaced; as it stands where that user is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _hint(name: str, catalogue: Catalogue) -> str:
    """A question after a name that was nearly met; empty where there is none."""
    import difflib

    from samovar.formats.family import FAMILY

    low, names = name.lower(), [*catalogue, *FAMILY]
    near = [known for known in catalogue if low in (known, known.partition(":")[0])]
    near = near or difflib.get_close_matches(low, names, n=3, cutoff=0.8)
    near = near or [known for known in FAMILY if known.partition(":")[0] == low and known.count("-") <= low.count("-")]
    return f"did you mean {' or '.join(near)}? " if near else ""


def _what_to_give(catalogue: Catalogue) -> str:
    return f"the path of a GGUF file or of a Hugging Face folder, or a name that can be pulled: {_pullable(catalogue)}"


def _pullable(catalogue: Catalogue) -> str:
    return f"{', '.join(catalogue)}, qwen3:0.6b and others (see: samovar pull --help), OWNER/REPO of a hub, https://..."
