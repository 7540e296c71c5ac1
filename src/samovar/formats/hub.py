"""The model store: where models lie on this machine, what their names mean, and how they get there.

Layout: `models/` holds model files, each pulled one with a `.sha256` file beside it; `tmp/` holds unfinished pulls,
`cache/` what is made of models at their first start (`formats.cache`).
"""

import errno
import os
import re
from pathlib import Path
from typing import Final, Protocol

from samovar.errors import ModelNotFound, StoreError
from samovar.formats.cache import CacheStore
from samovar.formats.catalogue import CATALOGUE, Catalogue
from samovar.formats.mapped_file import unreadable

EMBEDDED_DEFAULT: Final = "smollm2:135m"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(:[A-Za-z0-9][A-Za-z0-9._-]{0,99})?")
_ADVICE: Final = {
    errno.ENOSPC: "no space is left; free some, or set SAMOVAR_HOME to a folder on another disk",
    errno.EDQUOT: "the disk quota is used up; free some space, or set SAMOVAR_HOME to a folder on another disk",
    errno.EACCES: "permission denied; make it readable and writable (chmod u+rwx), or set SAMOVAR_HOME to a folder that is",
    errno.EPERM: "permission denied; make it readable and writable (chmod u+rwx), or set SAMOVAR_HOME to a folder that is",
    errno.EROFS: "the disk is read-only; set SAMOVAR_HOME to a folder that can be written",
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
        if _NAME.fullmatch(path_or_name):
            for candidate in (store / "models" / path_or_name, store / "models" / f"{path_or_name}.gguf"):
                if candidate.exists():
                    return candidate
    except OSError as error:
        raise unreadable(Path(error.filename or path), error) from None
    if path_or_name.endswith((".gguf", ".safetensors")) or path_or_name.startswith((".", "/", "~")):
        raise ModelNotFound(f"{path_or_name}: no such file or folder; check the path")
    raise ModelNotFound(
        f"{_hint(path_or_name, catalogue)}{path_or_name}: no model of that name is on this machine. "
        "Models cannot be downloaded from a hub by this version; "
        f"give {_what_to_give(catalogue)}"
    )


def pull(name: str, store: Path, progress: Progress, catalogue: Catalogue = CATALOGUE) -> Path:
    """Fetch a model of the catalogue into the store, and return its path. One that is there already needs no network.

    An interrupted pull goes on with the parts that are missing. Raises ModelNotFound for other names, DownloadError where
    the fetch fails or what came is not what was promised, StoreError where the disk refuses.
    """
    if not name:
        raise ModelNotFound(f"'' names no model; these can be pulled: {', '.join(catalogue)}")
    if name not in catalogue:
        raise ModelNotFound(f"{_hint(name, catalogue)}{name} cannot be pulled; these can: {', '.join(catalogue)}")
    from samovar.formats.pull import is_complete, pull_entry

    entry = catalogue[name]
    target = store / "models" / entry.file_name
    try:
        if not is_complete(target, entry):
            pull_entry(name, entry, target, store / "tmp", progress)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise StoreError(f"{error.filename or store}: {advice}") from None
    return target


def _expanded(path: str) -> Path:
    """With `~` replaced; as it stands where that user is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _hint(name: str, catalogue: Catalogue) -> str:
    """A question after a name that was nearly met; empty where there is none."""
    import difflib

    low = name.lower()
    near = [known for known in catalogue if low in (known, known.partition(":")[0])]
    near = near or difflib.get_close_matches(low, catalogue, n=1, cutoff=0.8)
    return f"did you mean {' or '.join(near)}? " if near else ""


def _what_to_give(catalogue: Catalogue) -> str:
    return f"the path of a GGUF file or of a Hugging Face folder, or a name that can be pulled: {', '.join(catalogue)}"
