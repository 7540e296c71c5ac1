"""ModelScope through its client library (package `modelscope-hub`), which reads MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN and
proxies by itself. As with Hugging Face, the library lists and authorises, and `formats.transfer` fetches the bytes.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from samovar.errors import DownloadError, ModelNotFound
from samovar.formats.remote import Listing, RemoteFile

if TYPE_CHECKING:
    from modelscope_hub import HubApi

_T = TypeVar("_T")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_INSTALL: Final = (
    "ModelScope's client library is not installed; install it with: pip install 'samovar[modelscope]' "
    "(or: pip install modelscope-hub)"
)


def list_repo(repo: str, revision: str | None = None, *, endpoint: str | None = None) -> Listing:
    """The files of a model repository at a revision (None: its default branch).

    Raises ModelNotFound for repositories and revisions that do not exist, DownloadError where the hub cannot be asked or its
    library is absent.
    """
    try:
        from modelscope_hub import HubApi
    except ImportError:
        raise DownloadError(f"ms:{repo} cannot be fetched: {_INSTALL}") from None
    what = f"ms:{repo}@{revision}" if revision else f"ms:{repo}"
    api = _explained(lambda: _api(HubApi, endpoint, repo), what, endpoint)
    at = api.legacy.endpoint
    listed = _explained(lambda: api.list_repo_files(repo, "model", revision=revision), what, at)
    info = _explained(lambda: api.get_repo(repo, "model"), what, at)
    asked = revision or "master"
    token = api.legacy.token
    headers = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}
    files = [
        RemoteFile(
            path=file.path,
            local_path=file.path,
            url=api.legacy.get_download_url(repo, "model", file.path, asked),
            size_bytes=file.size,
            sha256=file.sha256.lower() if file.sha256 and _SHA256.fullmatch(file.sha256.lower()) else None,
            headers=headers,
        )
        for file in listed
        if not file.is_dir
    ]
    return Listing(
        hub="modelscope",
        endpoint=at,
        repo=repo,
        revision=asked,
        licence=info.license or None,
        files=tuple(files),
        denied=f"accept its terms at {at}/models/{repo}, and set MODELSCOPE_API_TOKEN to a token of that account",
    )


def _api(api_class: type["HubApi"], endpoint: str | None, repo: str) -> "HubApi":
    """The library's client for the site that has the repository (modelscope.cn, .ai, or the endpoint that is set)."""
    api = api_class(endpoint=endpoint)
    found = api.resolve_endpoint_for_read(repo)
    return api if found == api.legacy.endpoint else api_class(endpoint=found)


def _explained(call: Callable[[], _T], what: str, endpoint: str | None) -> _T:
    """The result of a call to the library, with its exceptions in our words."""
    from modelscope_hub import AuthenticationError, HubError, NetworkError, NotExistError, PermissionDeniedError

    at = endpoint or "ModelScope"
    try:
        return call()
    except NotExistError:
        raise ModelNotFound(
            f"{what}: {at} has no such repository or revision, or hides it from you; check the name; for a private one set "
            "MODELSCOPE_API_TOKEN"
        ) from None
    except (AuthenticationError, PermissionDeniedError):
        raise DownloadError(f"{what}: {at} denies access; set MODELSCOPE_API_TOKEN to a token that has it") from None
    except NetworkError:  # its text may be Chinese
        raise DownloadError(
            f"{what}: {at} cannot be reached; check the network, or set MODELSCOPE_ENDPOINT or HTTPS_PROXY"
        ) from None
    except HubError as error:
        raise DownloadError(f"{what}: {at} answers: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # what came is not what the library can read
        raise DownloadError(f"{what}: the reply of {at} is not that of a hub ({error}); check MODELSCOPE_ENDPOINT") from None
