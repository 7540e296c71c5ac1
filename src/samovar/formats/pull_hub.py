"""Fetching one model from a hub or an address: ask, choose, check the room, transfer, look at it, move it into place at once.

Work lies in `tmp/NAME/` until the model is whole, its hashes are right and its headers can be read; then the folder, with its
record in it, is renamed to `models/NAME/`. What breaks off is gone on with by the next pull.
"""

import difflib
import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from samovar.errors import DownloadError, FormatError, ModelNotFound, UnsupportedModel
from samovar.formats import open_checkpoint
from samovar.formats.choose_files import Choice, choose_files, is_part
from samovar.formats.family import FAMILY
from samovar.formats.gguf import MAGIC, GgufCheckpoint
from samovar.formats.http_fetch import HttpFetcher, TemporaryFailure, Unreachable, is_loopback
from samovar.formats.model_reference import HubReference, Reference, UrlReference
from samovar.formats.pull_lock import check_space, pull_lock, sync_folder
from samovar.formats.pull_record import Checked, PullRecord, RecordedFile, is_intact, read_record, record_path, write_record
from samovar.formats.remote import Hub, Lister, Listing, RemoteFile, safe_path
from samovar.formats.stored_models import StoredModel, opened_path, stored_models
from samovar.formats.transfer import Report, Transfer, TransferSettings, read_small

_SPARE_BYTES: Final = 16 << 20  # notes, and what else is written meanwhile
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def _huggingface(repo: str, revision: str | None) -> Listing:
    from samovar.formats.hub_huggingface import list_repo  # the client libraries take long to import

    return list_repo(repo, revision)


def _modelscope(repo: str, revision: str | None) -> Listing:
    from samovar.formats.hub_modelscope import list_repo

    return list_repo(repo, revision)


LISTERS: Final[Mapping[Hub, Lister]] = {"huggingface": _huggingface, "modelscope": _modelscope}


@dataclass(frozen=True, slots=True, kw_only=True)
class PullOptions:
    """How to pull. With `is_update` the source is asked even for a model that is there. `hub` is where names of the family are
    looked for, `sha256` what a single file has to have. `listers` ask the hubs; `on_plan` is told
    what is going to be fetched, in how many files and bytes.
    """

    is_offline: bool = False
    is_update: bool = False
    hub: Hub = "huggingface"
    sha256: str | None = None
    allows_http: bool = False
    transfer: TransferSettings = field(default_factory=TransferSettings)
    listers: Mapping[Hub, Lister] = field(default_factory=lambda: LISTERS)
    on_plan: Callable[[PullRecord, int, int], None] = lambda *_: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a pull is going to fetch. `folder_name` is its place among the models; the record still lacks hashes and date."""

    folder_name: str
    record: PullRecord
    files: tuple[RemoteFile, ...]
    denied: str

    @property
    def size_bytes(self) -> int:
        """Bytes of all files whose sizes are known."""
        return sum(file.size_bytes or 0 for file in self.files)


def pull_reference(reference: Reference, asked: str, store: Path, options: PullOptions, report: Report) -> Path:
    """Fetch the model that `reference` leads to, callable by `asked` from then on; returns its folder.

    Raises ModelNotFound, DownloadError, UnsupportedModel (pickles), StoreError or OSError.
    """
    if options.sha256 is not None and not _SHA256.fullmatch(options.sha256.lower()):
        raise DownloadError(f"{options.sha256!r} is no sha256: 64 hexadecimal digits are expected")
    (store / "models").mkdir(parents=True, exist_ok=True)
    (store / "tmp").mkdir(exist_ok=True)
    if isinstance(reference, HubReference):
        plan = _plan_of_hub(reference, asked, store / "tmp", options)
    else:
        plan = _plan_of_url(reference, store, options)
    target, work = store / "models" / plan.folder_name, store / "tmp" / plan.folder_name
    total = plan.size_bytes
    with pull_lock(store / "tmp" / f"{plan.folder_name}.lock", lambda: report(0, total, "waiting for another pull of it")):
        if not _is_there(target, plan) or (options.is_update and not _is_unchanged(target, plan, options)):
            options.on_plan(plan.record, len(plan.files), plan.size_bytes)
            work.mkdir(exist_ok=True)
            _fetch(plan, work, target, options, report)
    return target


def _fetch(plan: Plan, work: Path, target: Path, options: PullOptions, report: Report) -> None:
    """Bring the files into `work`, look at them, and move them to `target`."""
    files, notes = work / "files", work / "notes"
    _drop_others(files, plan)
    transfer = Transfer(plan.files, files, notes, options.transfer, denied=plan.denied)
    check_space(work, transfer.n_missing_bytes + _SPARE_BYTES, target.parent)
    hashes = transfer.run(report)
    own_licence = _look_at(files, plan, work)
    record = msgspec.structs.replace(
        plan.record,
        licence=plan.record.licence or own_licence,
        pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=tuple(_recorded(file, files / file.local_path, hashes[file.local_path]) for file in plan.files),
    )
    write_record(record, record_path(files))
    sync_folder(files)
    if target.exists():  # damaged, or of another revision
        target.rename(Path(tempfile.mkdtemp(prefix="old-", dir=work)) / "files")
    files.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(work, ignore_errors=True)  # the model is in place, whatever is left here


def _plan_of_hub(reference: HubReference, asked: str, tmp: Path, options: PullOptions) -> Plan:
    try:
        listing = options.listers[reference.hub](reference.repo, reference.revision)
    except ModelNotFound as error:
        raise ModelNotFound(f"{error}{_near(reference)}") from None
    reference = replace(reference, repo=listing.repo)
    scratch = Path(tempfile.mkdtemp(prefix="index-", dir=tmp))
    try:
        choice = choose_files(
            listing,
            reference.selector,
            lambda file: read_small(_described(file, listing), scratch, options.transfer, denied=listing.denied),
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    files = tuple(_described(file, listing) for file in choice.files)
    files = _with_sha256(files, options.sha256, str(reference))
    steps = [*(["ms"] if reference.hub == "modelscope" else []), *reference.repo.split("/"), choice.label]
    if reference.revision is not None:
        steps.append("at-" + reference.revision.replace("/", "-"))
    record = PullRecord(
        names=_names(reference, choice, asked),
        source=reference.hub,
        origin=f"{listing.endpoint}/{'models/' if reference.hub == 'modelscope' else ''}{reference.repo}",
        revision=listing.revision,
        licence=listing.licence,
        pulled_at="",
        files=(),
    )
    return Plan(folder_name="--".join(filter(None, steps)), record=record, files=files, denied=listing.denied)


def _near(reference: HubReference) -> str:
    """A question after a repository of the family whose name was nearly met; empty where there is none."""
    known = {entry.repo.lower(): entry.repo for entry in FAMILY.values()}
    low = reference.repo.lower()
    near = [known[name] for name in difflib.get_close_matches(low, known, n=3, cutoff=0.8) if name != low]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _names(reference: HubReference, choice: Choice, asked: str) -> tuple[str, ...]:
    """What the model can be called by: its names in the family, the repository's, and what was asked for."""
    family = []
    if reference.revision is None:
        wanted = (reference.repo, (choice.quantisation or "").lower())
        family = [name for name, entry in FAMILY.items() if (entry.repo, (entry.quantisation or "").lower()) == wanted]
    exact = replace(reference, selector=choice.quantisation or choice.label or None)
    return tuple(dict.fromkeys((*family, str(exact), str(reference), asked)))


def _plan_of_url(reference: UrlReference, store: Path, options: PullOptions) -> Plan:
    plain = reference.url.partition("#")[0].partition("?")[0]
    parts = urlsplit(reference.url)
    host = parts.hostname or ""
    if parts.scheme not in ("https", "http"):
        raise ModelNotFound(f"{plain}: {parts.scheme} is not spoken here; an address that begins with https:// is expected")
    if parts.scheme == "http" and not (options.allows_http or is_loopback(host)):
        raise DownloadError(
            f"{plain}: http is not encrypted, and anyone on the way can change the file; use https, or --allow-http"
        )
    name = PurePosixPath(unquote(parts.path)).name
    if not name.lower().endswith(".gguf"):
        raise ModelNotFound(f"{plain}: the address of a .gguf file is expected; give a hub's repository as OWNER/REPO")
    if is_part(name):
        raise ModelNotFound(
            f"{plain}: one part of several; a single .gguf file is expected, or a hub's repository as OWNER/REPO"
        )
    safe_path(name, plain)
    file = _with_sha256((_probed(reference.url, plain, name, options.transfer),), options.sha256, plain)[0]
    stem, mark = PurePosixPath(name).stem, hashlib.sha256(plain.encode()).hexdigest()[:8]
    stored = list(stored_models(store))
    same = next((model for model in stored if _is_same_file(model, plain, name, options.sha256)), None)
    folder = same.path.name if same else f"{host.replace(':', '-')}--{stem}-{mark}"
    taken = {own.lower() for model in stored if model.path.name != folder for own in (model.name, *_names_of(model))}
    called = f"{stem}-{mark}" if stem.lower() in taken else stem
    names = (*(own for own in _names_of(same) if "://" not in own), plain) if same else (called, plain)
    record = PullRecord(names=names, source="url", origin=plain, revision=None, licence=None, pulled_at="", files=())
    denied = "the file is not public, and there is no way to give a password for it"
    return Plan(folder_name=folder, record=record, files=(file,), denied=denied)


def _names_of(model: StoredModel) -> tuple[str, ...]:
    return model.record.names if model.record else (model.path.stem,)


def _is_same_file(model: StoredModel, plain: str, name: str, sha256: str | None) -> bool:
    """Whether a model in the store came from this address, or is the file that is asked for by its sha256."""
    record = model.record
    if record is None or not model.path.is_dir() or record.source != "url" or len(record.files) != 1:
        return False
    if sha256 is None:
        return record.origin == plain
    return record.files[0].path == name and record.files[0].sha256 == sha256.lower() and model.is_intact()


def _probed(url: str, plain: str, name: str, settings: TransferSettings) -> RemoteFile:
    """The file at an address, with its size and what tells whether it changes. Raises DownloadError."""
    fetcher = HttpFetcher()
    try:
        for n_failed in range(1, settings.n_tries + 1):
            try:
                with fetcher.get(url, {}, start=0, end=1) as body:
                    return RemoteFile(
                        path=plain, local_path=name, url=url, size_bytes=body.total_bytes, validator=body.validator
                    )
            except TemporaryFailure as failure:
                if n_failed == settings.n_tries or isinstance(failure, Unreachable):
                    raise DownloadError(f"{failure}; check the address and the network, or try again later") from None
                wait_s = settings.wait_s(n_failed, failure.wait_s)
                settings.on_retry(f"{failure}; trying again in {wait_s:.0f} s")
                time.sleep(wait_s)
        raise AssertionError
    finally:
        fetcher.close()


def _with_sha256(files: tuple[RemoteFile, ...], sha256: str | None, where: str) -> tuple[RemoteFile, ...]:
    """The files, where one is asked to have a hash that the user gives."""
    if sha256 is None:
        return files
    if len(files) != 1:
        raise DownloadError(f"{where}: a sha256 stands for one file, and this model has {len(files)}")
    if files[0].sha256 not in (None, sha256.lower()):
        raise DownloadError(
            f"{where}: the source states the sha256 {files[0].sha256}, not the one that is asked for; not fetched"
        )
    return (replace(files[0], sha256=sha256.lower()),)


def _described(file: RemoteFile, listing: Listing) -> RemoteFile:
    """The file with its size and hash, asked for where the listing lacks them."""
    safe_path(file.local_path, listing.repo)
    if file.size_bytes is not None or listing.hub != "huggingface":
        return file
    from samovar.formats.hub_huggingface import described

    return described(file)


def _is_there(target: Path, plan: Plan) -> bool:
    """Whether the model is in place already; it can be called by the plan's names, too, from then on."""
    record = read_record(target) if target.is_dir() else None
    if record is None or not is_intact(target, record):
        return False
    there = {file.path: file for file in record.files}
    for file in plan.files:
        found = there.get(file.local_path)
        if found is None or file.size_bytes not in (None, found.size_bytes) or file.sha256 not in (None, found.sha256):
            return False
    if plan.record.revision != record.revision and any(file.sha256 is None for file in plan.files):
        return False
    names = tuple(dict.fromkeys((*record.names, *plan.record.names)))
    if names != record.names:
        write_record(msgspec.structs.replace(record, names=names), record_path(target))
    return True


def _is_unchanged(target: Path, plan: Plan, options: PullOptions) -> bool:
    """Whether the file at an address is still the one that came; where nothing tells, `on_retry` is told so.

    Of hubs, and where a sha256 is asked for, `_is_there` knows.
    """
    record = read_record(target)
    if plan.record.source != "url" or record is None or plan.files[0].sha256 is not None:
        return True
    noted, given = record.files[0].validator, plan.files[0].validator
    if noted is None or given is None:
        who = "the server gives no ETag and no date" if given is None else "the last pull has noted no ETag and no date"
        options.transfer.on_retry(f"{plan.record.origin}: {who} to tell by whether the file has changed; fetching it again")
    return noted is not None and noted == given


def _drop_others(files: Path, plan: Plan) -> None:
    """Remove what an earlier pull of another revision left among the files."""
    wanted = {file.local_path for file in plan.files}
    for path in sorted(files.rglob("*"), reverse=True) if files.is_dir() else ():
        name = path.relative_to(files).as_posix()
        if path.is_symlink() or (path.is_file() and name.removesuffix(".part") not in wanted):
            path.unlink()


def _look_at(files: Path, plan: Plan, work: Path) -> str | None:
    """Read the headers of what came; returns the licence that a GGUF file states. What cannot be read is thrown away."""
    try:
        checkpoint = open_checkpoint(opened_path(files))
    except (FormatError, ModelNotFound, UnsupportedModel) as error:
        if isinstance(error, UnsupportedModel) and _holds_weights(files):  # sound, and for another version or program
            return None
        shutil.rmtree(work, ignore_errors=True)
        raise DownloadError(
            f"{plan.record.origin}: what came is no sound model, and was thrown away: {str(error).replace(str(files), '...')}"
        ) from None
    licence = checkpoint.metadata.get("general.license") if isinstance(checkpoint, GgufCheckpoint) else None
    return licence if isinstance(licence, str) and licence else None


def _holds_weights(files: Path) -> bool:
    """Whether each file of weights begins as its name says: GGUF, or safetensors. Pickles under such names do not."""
    weights = [path for path in files.rglob("*") if path.suffix.lower() in (".gguf", ".safetensors")]
    heads = []
    for path in weights:
        with path.open("rb") as file:
            head = file.read(9)
        heads.append(head.startswith(MAGIC) if path.suffix.lower() == ".gguf" else head[8:] == b"{")
    return bool(heads) and all(heads)


def _recorded(file: RemoteFile, path: Path, sha256: str) -> RecordedFile:
    checked: Checked = "sha256" if file.sha256 else "git-sha1" if file.git_sha1 else "size"
    return RecordedFile(
        path=file.local_path, size_bytes=path.stat().st_size, sha256=sha256, checked=checked, validator=file.validator
    )
