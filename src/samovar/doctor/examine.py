"""All checks of one model, in the order of the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samovar.doctor.check_config import check_config
from samovar.doctor.check_layout import check_layout
from samovar.doctor.check_release import check_release
from samovar.doctor.check_template import check_template
from samovar.doctor.check_tokenizer import OpenTokenizer, check_tokenizer, open_tokenizer
from samovar.doctor.check_tokens import check_tokens
from samovar.doctor.check_weights import check_hash, check_opens, check_scan, hash_bytes
from samovar.doctor.finding import Finding, Status
from samovar.doctor.releases import RELEASES, Release
from samovar.doctor.scan_weights import bytes_to_scan, scan
from samovar.doctor.self_test import Scorer, check_scores
from samovar.doctor.subject import Subject, look_at

Progress = Callable[[int, int, str], None]
_TEXT_BYTES: Final = 64 << 20  # about what a tokenizer takes, on the scale of the progress bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found of the model at `path`, checked as `release`, None where nothing tells which it is."""

    path: Path
    release: Release | None
    findings: tuple[Finding, ...]

    def count(self, status: Status) -> int:
        """How many lines ended so."""
        return sum(finding.status is status for finding in self.findings)


def examine(
    path: Path,
    *,
    open_model: Callable[[], Scorer],
    asked: str | None = None,
    is_full: bool = False,
    releases: Sequence[Release] = RELEASES,
    progress: Progress = lambda _done, _total, _what: None,
) -> Report:
    """Check the model at `path`: as release `asked`, or as the one that it claims to be.

    `is_full` looks at all values of large models too. `open_model` loads it, for embedding and reranking models alone.
    `progress(done_bytes, total_bytes, what)` is called as it goes. Raises ModelNotFound for an absent path, BadRequest for an
    `asked` that is not known; whatever is wrong with the file is a finding.
    """
    return examine_subject(
        look_at(path), open_model=open_model, asked=asked, is_full=is_full, releases=releases, progress=progress
    )


def examine_subject(
    subject: Subject,
    *,
    open_model: Callable[[], Scorer],
    asked: str | None = None,
    is_full: bool = False,
    releases: Sequence[Release] = RELEASES,
    progress: Progress = lambda _done, _total, _what: None,
    open_tokenizer: Callable[[Subject], OpenTokenizer] = open_tokenizer,
) -> Report:
    """As `examine`, of what was read already."""
    n_hashed, n_scanned = hash_bytes(subject, releases), bytes_to_scan(subject.tensors, is_full=is_full)
    steps = _Steps(progress, n_hashed + _TEXT_BYTES + n_scanned)
    claim = check_release(subject, releases, asked)
    release = claim.release
    findings = [*claim.findings, *check_opens(subject)]
    if subject.files and not subject.problems:
        findings.append(check_hash(subject, releases, release, lambda n_bytes: steps.advance(n_bytes, "sha256")))
    steps.begin_at(n_hashed, "tokenizer and template")
    if release is not None:
        findings += check_config(subject, release)
        opened = open_tokenizer(subject)
        findings += check_tokenizer(opened, release)
        findings += check_tokens(subject, opened, release)
        findings += check_template(subject, opened, release)
        findings += check_layout(subject, release)
    steps.begin_at(n_hashed + _TEXT_BYTES, "weights")
    if subject.tensors:
        base = n_hashed + _TEXT_BYTES
        seen = scan(subject.tensors, is_full=is_full, progress=lambda done, _total, what: steps.begin_at(base + done, what))
        findings += check_scan(seen)
    if release is not None and not subject.problems:
        findings += check_scores(release, open_model)
    steps.finish()
    return Report(path=subject.path, release=release, findings=tuple(findings))


class _Steps:
    """Where the whole examination is, on one scale of bytes."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def begin_at(self, done: int, what: str) -> None:
        """`done` bytes are behind, and `what` comes."""
        self._done = min(done, self._total - 1)
        self._progress(self._done, self._total, what)

    def advance(self, n_bytes: int, what: str) -> None:
        """`n_bytes` more are behind."""
        self.begin_at(self._done + n_bytes, what)

    def finish(self) -> None:
        """Everything is behind."""
        self._progress(self._total, self._total, "")
