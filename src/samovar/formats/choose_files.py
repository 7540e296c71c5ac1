"""Which files of a repository make a model: one GGUF file (or its parts), or a folder's configs, tokenizer and safetensors.

Pickles, Python files and everything else are never among them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from samovar.errors import DownloadError, FormatError, ModelNotFound, UnsupportedModel
from samovar.formats.json_object import parse_json_object
from samovar.formats.remote import Listing, RemoteFile, safe_path

_SIDE_FILES: Final = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "modules.json", "1_Pooling/config.json",
    "config_sentence_transformers.json",
)  # fmt: skip
_CONFIG, _SINGLE, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_SPLIT: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
_QUANTISATION: Final = re.compile(r"(?:.*[-._])?((?:UD-)?(?:I?Q\d|TQ\d|BF16|F16|F32|FP16|MXFP4|NVFP4)\w*)", re.IGNORECASE)
_NO_MODELS: Final = re.compile(r"mmproj|imatrix", re.IGNORECASE)
_PREFERRED: Final = ("q4_k_m", "q8_0")
_N_SHOWN: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The files of one model. `label` tells it from others of the same repository; empty for a folder."""

    label: str
    quantisation: str | None
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gguf:
    """A GGUF model of a repository, in one or several files. `stem` is its name without endings."""

    stem: str
    quantisation: str | None
    files: tuple[RemoteFile, ...]


def choose_files(listing: Listing, selector: str | None, read: Callable[[RemoteFile], bytes]) -> Choice:
    """The files of the model that `selector` (a path, a quantisation, or None) names.

    `read` fetches the content of a small file: the index that names the shards. Raises ModelNotFound where there is no such
    model, UnsupportedModel for repositories of pickles, DownloadError where the listing is not to be trusted.
    """
    names = {file.path for file in listing.files}
    has_folder = _CONFIG in names and not names.isdisjoint((_SINGLE, _INDEX))
    if selector is None and has_folder:
        return Choice(label="", quantisation=None, files=_folder(listing, read))
    models = _ggufs(listing)
    if not models:
        raise _no_model(listing, selector, has_folder=has_folder)
    model = _chosen(models, selector, listing)
    where = f"{listing.repo}"
    files = tuple(
        replace(file, local_path=safe_path(PurePosixPath(safe_path(file.path, where)).name, where)) for file in model.files
    )
    return Choice(label=model.stem, quantisation=model.quantisation, files=files)


def is_part(name: str) -> bool:
    """Whether a GGUF file's name says that it is one part of several."""
    return _SPLIT.fullmatch(PurePosixPath(name).stem) is not None


def _folder(listing: Listing, read: Callable[[RemoteFile], bytes]) -> tuple[RemoteFile, ...]:
    by_path = {file.path: file for file in listing.files}
    side = [by_path[path] for path in _SIDE_FILES if path in by_path]
    if _INDEX not in by_path:
        return (*side, by_path[_SINGLE])
    index = by_path[_INDEX]
    where = f"{listing.repo}: {_INDEX}"
    try:
        weight_map = parse_json_object(read(index), where).get("weight_map")
    except FormatError as error:
        raise DownloadError(str(error)) from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise DownloadError(f"{where}: weight_map has to map tensor names to file names")
    shards = sorted({safe_path(str(shard), where) for shard in weight_map.values()})
    if strange := [shard for shard in shards if "/" in shard or not shard.endswith(".safetensors")]:
        raise DownloadError(f"{where}: names {strange[0]!r}; the name of a safetensors file beside it is expected")
    if missing := [shard for shard in shards if shard not in by_path]:
        raise DownloadError(
            f"{listing.repo}: {len(missing)} of the {len(shards)} weight files that {_INDEX} names are not there: "
            f"{', '.join(missing[:5])}"
        )
    return (*side, index, *(by_path[shard] for shard in shards))


def _ggufs(listing: Listing) -> list[_Gguf]:
    """The GGUF models of a repository whose parts are all there."""
    groups: dict[str, list[RemoteFile]] = {}
    n_parts: dict[str, int] = {}
    for file in sorted(listing.files, key=lambda file: file.path):
        path = PurePosixPath(file.path)
        if path.suffix.lower() != ".gguf" or _NO_MODELS.search(path.name):
            continue
        split = _SPLIT.fullmatch(path.stem)
        key = str(path.with_name(split[1] if split else path.stem))
        groups.setdefault(key, []).append(file)
        n_parts[key] = int(split[3]) if split else 1
    found = []
    for key, files in groups.items():
        if len(files) == n_parts[key]:
            stem = PurePosixPath(key).name
            quantisation = _QUANTISATION.fullmatch(stem)
            found.append(_Gguf(stem=stem, quantisation=quantisation[1] if quantisation else None, files=tuple(files)))
    return found


def _chosen(models: list[_Gguf], selector: str | None, listing: Listing) -> _Gguf:
    if selector is None:
        if len(models) == 1:
            return models[0]
        for wanted in _PREFERRED:
            if fitting := [m for m in models if (m.quantisation or "").lower() == wanted]:
                return _only(fitting, listing)
        raise ModelNotFound(f"{listing.repo} holds several models; name one: {_offers(models, listing)}")
    low = selector.lower()
    by_path = [m for m in models if any(file.path.lower() == low for file in m.files)]
    by_name = [m for m in models if low in ((m.quantisation or "").lower(), m.stem.lower())]
    if not (fitting := by_path or by_name):
        raise ModelNotFound(f"{listing.repo} holds no {selector}; it holds: {_offers(models, listing)}")
    return _only(fitting, listing)


def _only(models: list[_Gguf], listing: Listing) -> _Gguf:
    if len(models) > 1:
        raise ModelNotFound(f"{listing.repo} holds several of that quantisation; name one: {_offers(models, listing)}")
    return models[0]


def _offers(models: list[_Gguf], listing: Listing) -> str:
    """What can be asked for, as it can be typed."""
    quantisations = [m.quantisation or "" for m in models]
    names = [
        f"{listing.repo}:{m.quantisation if m.quantisation and quantisations.count(m.quantisation) == 1 else m.files[0].path}"
        for m in models
    ]
    more = f" and {len(names) - _N_SHOWN} more" if len(names) > _N_SHOWN else ""
    return ", ".join(names[:_N_SHOWN]) + more


def _no_model(listing: Listing, selector: str | None, *, has_folder: bool) -> ModelNotFound | UnsupportedModel:
    paths = [file.path for file in listing.files]
    if selector is not None and has_folder:
        return ModelNotFound(
            f"{listing.repo} holds no {selector}: it holds safetensors weights and no GGUF file; pull {listing.repo}"
        )
    if pickles := [path for path in paths if path.endswith(_PICKLES)]:
        return UnsupportedModel(
            f"{listing.repo} holds its weights as pickle only ({pickles[0]}): loading pickle can run any code that is hidden "
            "in it, so it is neither fetched nor read; look for a repository with safetensors or GGUF files"
        )
    shown = ", ".join(sorted(paths)[:_N_SHOWN]) or "nothing"
    return ModelNotFound(
        f"{listing.repo} holds no model: a GGUF file, or {_CONFIG} with {_SINGLE}, is expected; it holds {shown}"
    )
