"""What a hub or a server offers, as plain data: files with their sizes, hashes and addresses. Nothing is fetched here.

Names of files come from a network and end up on disk: `safe_path` is the one gate they pass.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from samovar.errors import DownloadError

Hub = Literal["huggingface", "modelscope"]

_STEP: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,199}")
_MAX_DEPTH: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file at a source. `size_bytes` is None where the server does not say; `local_path` is relative to the model's folder.

    `git_sha1` is git's name for the content: the SHA-1 of a short header and the bytes. `validator` is an ETag or date that
    changes with the content. `headers` may hold a token: they are sent to the address's own host alone.
    """

    path: str
    local_path: str
    url: str
    size_bytes: int | None
    sha256: str | None = None
    git_sha1: str | None = None
    validator: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str | None:
        """Stands for the content as the source describes it; None where nothing of it is said."""
        stands_for = self.sha256 or self.git_sha1 or self.validator
        return None if stands_for is None else f"{stands_for} {self.size_bytes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A repository at one revision: all of its files. `revision` is a commit where the hub gives one, else what was asked.

    `denied` says what to do where the hub refuses a file.
    """

    hub: Hub
    endpoint: str
    repo: str
    revision: str
    licence: str | None
    files: tuple[RemoteFile, ...]
    denied: str


Lister = Callable[[str, str | None], Listing]  # repository, revision


def safe_path(path: str, where: str) -> str:
    """`path` again, where it is relative and stays below the folder that it is relative to. Raises DownloadError."""
    steps = path.split("/")
    if len(path) > 255 or len(steps) > _MAX_DEPTH or not all(_STEP.fullmatch(step) for step in steps):
        raise DownloadError(
            f"{where}: names a file {path[:80]!r}; a plain name of letters, digits and ._+- below the model's folder is "
            "expected, so nothing is fetched from it"
        )
    return path
