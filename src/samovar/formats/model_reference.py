"""What a user can name: a model of the family, a repository of a hub, a file of one, or an address of a file.

qwen3:0.6b                                  a name of the family (`formats.family`)
owner/repo, hf:owner/repo                   Hugging Face
ms:owner/repo                               ModelScope
owner/repo:Q4_K_M, owner/repo:x.gguf        one quantisation or file of a repository
owner/repo@v1.0, owner/repo:Q4_K_M@v1.0     a branch, tag or commit
https://host/x.gguf                         any server; pages of the hubs are taken for their repositories
"""

import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import unquote, urlsplit

from samovar.errors import ModelNotFound
from samovar.formats.remote import Hub

_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_REPO: Final = re.compile(rf"{_NAME}/{_NAME}")
_SELECTOR: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,199}")
_REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,99}")
_PREFIXES: Final[dict[str, Hub]] = {
    "hf": "huggingface",
    "huggingface": "huggingface",
    "ms": "modelscope",
    "modelscope": "modelscope",
}
_HOSTS: Final[dict[str, Hub]] = {
    "huggingface.co": "huggingface",
    "hf.co": "huggingface",
    "modelscope.cn": "modelscope",
    "modelscope.ai": "modelscope",
}
_SHORT: Final[dict[Hub, str]] = {"huggingface": "", "modelscope": "ms:"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HubReference:
    """A repository. `selector` is a file's path or a quantisation's name, None for the repository's own choice;
    `revision` a branch, tag or commit, None for the hub's default."""

    hub: Hub
    repo: str
    selector: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        selector = f":{self.selector}" if self.selector else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{_SHORT[self.hub]}{self.repo}{selector}{revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlReference:
    """The address of one file."""

    url: str

    def __str__(self) -> str:
        return self.url


Reference = HubReference | UrlReference


def parse_reference(text: str) -> Reference | None:
    """What `text` refers to; None where it has none of the forms. Raises ModelNotFound for a form that is spoilt."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return _of_url(text)
    prefix, colon, rest = text.partition(":")
    hub = _PREFIXES.get(prefix.lower()) if colon else None
    if hub is None:
        return _of_repo(text, "huggingface") if "/" in text and not text.startswith((".", "/", "~")) else None
    found = _of_repo(rest, hub)
    if found is None:
        raise ModelNotFound(f"{text}: {prefix}:OWNER/REPO, with :FILE or :QUANTISATION and @REVISION after it, is expected")
    return found


def _of_repo(text: str, hub: Hub) -> HubReference | None:
    rest, at, revision = text.partition("@")
    repo, colon, selector = rest.partition(":")
    is_sound = (
        _REPO.fullmatch(repo)
        and (not colon or (_SELECTOR.fullmatch(selector) and ".." not in selector))
        and (not at or (_REVISION.fullmatch(revision) and ".." not in revision))
        and ".." not in repo
    )
    return HubReference(hub=hub, repo=repo, selector=selector or None, revision=revision or None) if is_sound else None


def _of_url(text: str) -> Reference:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or any(ord(c) <= 0x20 or ord(c) == 0x7F for c in text):
        raise ModelNotFound(f"{text!r}: no address; https://HOST/PATH/MODEL.gguf is expected")
    if parts.username or parts.password:
        raise ModelNotFound(f"{host}: an address with a password in it is not taken, since it would be recorded; use ~/.netrc")
    hub = _HOSTS.get(host.removeprefix("www."))
    if hub is not None and (found := _of_page(unquote(parts.path), hub)) is not None:
        return found
    return UrlReference(url=text)


def _of_page(path: str, hub: Hub) -> HubReference | None:
    """The repository, revision and file that a page of a hub shows; None for pages of another kind."""
    steps = [step for step in path.split("/") if step]
    if hub == "modelscope":
        if steps[:1] != ["models"]:
            return None
        steps = steps[1:]
    found = _of_repo("/".join(steps[:2]), hub)
    rest = steps[2:]
    if found is None or not rest or rest[0] in ("summary", "files"):
        return found
    if rest[:2] == ["file", "view"]:
        rest = rest[1:]
    if rest[0] not in ("blob", "resolve", "tree", "raw", "view") or len(rest) < 2:
        return None
    selector = "/".join(rest[2:]) or None
    return replace(found, revision=rest[1] if rest[1] not in ("main", "master") else None, selector=selector)
