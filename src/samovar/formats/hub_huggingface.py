"""Hugging Face through its client library, which reads HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and proxies by itself.

The library is asked what a repository holds, for addresses and for the token. The bytes come by `formats.transfer`, from the
plain addresses: those are resumed, run in parallel and held against the hashes, which the library's own downloads are not,
and Xet is not needed for them.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from samovar.errors import DownloadError, ModelNotFound
from samovar.formats.remote import Listing, RemoteFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo
    from huggingface_hub.errors import HfHubHTTPError

_T = TypeVar("_T")
_TIMEOUT_S: Final = 30.0
_WAITS_S: Final = (1.0, 3.0, 8.0)
_TEMPORARY: Final = (408, 429, 500, 502, 503, 504)


def list_repo(
    repo: str, revision: str | None = None, *, endpoint: str | None = None, sleep: Callable[[float], None] = time.sleep
) -> Listing:
    """The files of a model repository at a revision (None: the default branch), pinned to its commit.

    Raises ModelNotFound for repositories and revisions that do not exist, DownloadError where the hub cannot be asked.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    api = HfApi(endpoint=endpoint)
    info = _asked(api, repo, revision, sleep)
    commit = info.sha or revision or "main"
    headers = build_hf_headers()
    files = []
    for sibling in info.siblings or ():
        url = hf_hub_url(repo, sibling.rfilename, revision=commit, endpoint=api.endpoint)
        lfs = sibling.lfs
        files.append(
            RemoteFile(
                path=sibling.rfilename,
                local_path=sibling.rfilename,
                url=url,
                size_bytes=lfs.size if lfs is not None else sibling.size,
                sha256=lfs.sha256.lower() if lfs is not None else None,
                git_sha1=sibling.blob_id if lfs is None else None,
                headers=headers,
            )
        )
    return Listing(
        hub="huggingface",
        endpoint=api.endpoint,
        repo=repo,
        revision=commit,
        licence=_licence(info),
        files=tuple(files),
        denied=_denied(api.endpoint, repo),
    )


def described(file: RemoteFile) -> RemoteFile:
    """`file` with what the headers of its address say of it, for mirrors that list names alone. Raises DownloadError."""
    from dataclasses import replace

    from huggingface_hub import get_hf_file_metadata

    metadata = _explained(lambda: get_hf_file_metadata(file.url, timeout=_TIMEOUT_S), file.path, file.url)
    etag = metadata.etag or ""
    is_hex = all(c in "0123456789abcdef" for c in etag)
    return replace(
        file,
        size_bytes=metadata.size,
        sha256=etag if is_hex and len(etag) == 64 else None,
        git_sha1=etag if is_hex and len(etag) == 40 else None,
    )


def _asked(api: "HfApi", repo: str, revision: str | None, sleep: Callable[[float], None]) -> "ModelInfo":
    """What the hub says of a repository, asked again a few times where it is busy."""
    for wait_s in (*_WAITS_S, None):
        try:
            return _explained(
                lambda: api.model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S),
                f"{repo}@{revision}" if revision else repo,
                api.endpoint,
            )
        except _Busy as busy:
            if wait_s is None:
                raise DownloadError(str(busy)) from None
            sleep(min(60.0, max(wait_s, busy.wait_s)))
    raise AssertionError


class _Busy(Exception):
    """The hub, or the way to it, failed in a way that may pass."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def _explained(call: Callable[[], _T], what: str, endpoint: str) -> _T:
    """The result of a call to the library, with its exceptions in our words."""
    import httpx2
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo = what.partition("@")[0]
    try:
        return call()
    except OfflineModeIsEnabled:
        raise DownloadError(f"{what} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it: unset it") from None
    except HFValidationError as error:
        raise ModelNotFound(f"{what}: no name of a repository: {error}") from None
    except RevisionNotFoundError:
        raise ModelNotFound(f"{repo} has no revision {what.partition('@')[2]!r}: give a branch, a tag or a commit") from None
    except GatedRepoError:
        raise DownloadError(f"{what}: access is granted to some only; {_denied(endpoint, repo)}") from None
    except RepositoryNotFoundError:
        raise ModelNotFound(f"{what}: {endpoint} has no such repository, or hides it from you; {_hidden()}") from None
    except HfHubHTTPError as error:
        raise _of_status(error, what, endpoint) from None
    except httpx2.HTTPError as error:
        raise _Busy(
            f"{what}: {endpoint} cannot be reached ({str(error) or type(error).__name__}); check the network, set HF_ENDPOINT "
            f"to a mirror or HTTPS_PROXY to a proxy, or try ModelScope: samovar pull ms:{repo}"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # what came is not what the library can read
        raise DownloadError(f"{what}: the reply of {endpoint} is not that of a hub ({error}); check HF_ENDPOINT") from None


def _of_status(error: "HfHubHTTPError", what: str, endpoint: str) -> Exception:
    status = error.response.status_code
    if status in _TEMPORARY:
        after = error.response.headers.get("Retry-After", "")
        said = "too many requests" if status == 429 else "its server failed"
        return _Busy(f"{what}: {endpoint} answers {status}: {said}; try again later", float(after) if after.isdigit() else 0.0)
    if status in (401, 403):
        return DownloadError(f"{what}: {endpoint} answers {status}; {_denied(endpoint, what.partition('@')[0])}")
    return DownloadError(f"{what}: {endpoint} answers {status}: {error.server_message or 'it says no more'}")


def _denied(endpoint: str, repo: str) -> str:
    return f"accept its terms at {endpoint}/{repo}, and set HF_TOKEN to a token of that account (or run: hf auth login)"


def _hidden() -> str:
    return "check the name; for a private one set HF_TOKEN (or run: hf auth login)"


def _licence(info: "ModelInfo") -> str | None:
    """The licence that the model's card states; its own name where it is none of the common ones."""
    card = info.card_data
    if card is not None:
        named = card.get("license_name") if card.get("license") == "other" else None
        licence = named or card.get("license")
        if isinstance(licence, list):
            licence = ", ".join(map(str, licence))
        if isinstance(licence, str) and licence:
            return licence
    return next((tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")), None)
