"""Which release a file claims to be, whether its names agree, and whether it can be what they say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from samovar.doctor.figures import Figures, figures_of
from samovar.doctor.finding import Finding, failed, passed, unknown
from samovar.doctor.release_names import NamedRelease, find_release, no_such_release, read_name
from samovar.doctor.releases import Release
from samovar.doctor.subject import Subject
from samovar.errors import BadRequest

SECTION: Final = "release"
_SIZES: Final = (
    "model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "num_experts", "moe_intermediate_size",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a file is checked as, None where nothing tells; and the lines about that."""

    release: Release | None
    findings: tuple[Finding, ...]


def check_release(subject: Subject, releases: Sequence[Release], asked: str | None = None) -> Claim:
    """Find out which release to hold the file against: `asked`, or what its names say, or what its figures fit.

    Raises BadRequest for an `asked` that is no known release.
    """
    figures = figures_of(subject)
    if asked is not None:
        release = find_release(asked, releases)
        if release is None:
            raise BadRequest(no_such_release(asked, releases))
        return Claim(release=release, findings=(_fits(release, figures, releases, f"{release.name}, as asked"),))
    named = [found for where, name in subject.names if (found := read_name(where, name, releases))]
    if not named:
        return _by_figures(subject, figures, releases)
    best = max(named, key=lambda found: found.n_words)
    findings = [_fits(best.release, figures, releases, f"{best.release.name}, by {_places(named, best)}")]
    if others := [found for found in named if not _agree(found, best)]:
        findings.append(_contradiction(best, others[0]))
    if best.others:
        findings.append(_derived(best))
    return Claim(release=best.release, findings=tuple(findings))


def _places(named: Sequence[NamedRelease], best: NamedRelease) -> str:
    *places, last = [found.where for found in named if found.release is best.release]
    return f"{', '.join(places)} and {last}" if places else last


def _agree(one: NamedRelease, best: NamedRelease) -> bool:
    """Whether a name is the best one's, or a shorter form of it."""
    return best.release.name.lower().startswith(one.release.name.lower())


def _contradiction(best: NamedRelease, other: NamedRelease) -> Finding:
    return failed(
        SECTION,
        "names agree",
        f"{other.where} says {other.release.name}, {best.where} says {best.release.name}",
        "one release",
        f"find out which of the two it is; checked here as {best.release.name}: --as NAME checks it as another",
    )


def _derived(best: NamedRelease) -> Finding:
    words = " ".join(best.others)
    return unknown(
        SECTION,
        "original",
        f"the name says more than the release's: {words}",
        advice=f"it may be a fine-tune of {best.release.name}, which may differ from it on purpose",
    )


def _fits(release: Release, figures: Figures, releases: Sequence[Release], claimed: str) -> Finding:
    """Whether the file's sizes are those of the release, or of another."""
    if _has_sizes_of(release, figures):
        return passed(SECTION, "claim", claimed)
    others = list(dict.fromkeys(r.name for r in releases if _has_sizes_of(r, figures)))
    if not figures.keys() & {*_SIZES[1:]}:
        return unknown(SECTION, "claim", f"{claimed}; no sizes could be read to hold against it")
    if not others:
        return passed(SECTION, "claim", claimed)  # the config's own lines say what differs
    return failed(
        SECTION,
        "claim",
        f"{claimed}; but its sizes are those of {others[0]}",
        f"the sizes of {release.name}",
        f"the name contradicts what is inside: get {release.name} again, or check it as what it is: --as {others[0]}",
    )


def _has_sizes_of(release: Release, figures: Figures) -> bool:
    wanted = {key: release.figures[key] for key in _SIZES if key in release.figures}
    return all(figures.get(key) == value for key, value in wanted.items())


def _by_figures(subject: Subject, figures: Figures, releases: Sequence[Release]) -> Claim:
    """No name helps: take the first release whose sizes, context and rotation fit."""
    fitting = [r for r in releases if _has_sizes_of(r, figures)]
    keys = ("max_position_embeddings", "rope_theta")
    closer = [r for r in fitting if all(figures.get(key) == r.figures[key] for key in keys)]
    names = "; ".join(f"{where} is {name!r}" for where, name in subject.names) or "it bears no name"
    if not fitting:
        finding = unknown(
            SECTION,
            "claim",
            f"no release known here: {names}",
            advice="if it is one of the Qwen3 family, say which: --as NAME; without that there is nothing to hold it against",
        )
        return Claim(release=None, findings=(finding,))
    release = (closer or fitting)[0]
    finding = unknown(
        SECTION,
        "claim",
        f"no release is named ({names}); its sizes are those of {release.name}, which it is checked as",
        advice="say which release it is: --as NAME",
    )
    return Claim(release=release, findings=(finding,))
