"""What may guess ahead for a model, and whether a draft model speaks its language."""

from pathlib import Path
from typing import Literal, get_args

from samovar.errors import BadRequest, UnsupportedModel
from samovar.text.tokenizer import Tokenizer

SpeculationMode = Literal["auto", "off", "ngram", "draft"]
"""auto: whatever pays of looking up what was said before and, where one is given, the draft model. The others: that alone."""


def check_speculation(mode: object, draft: str | Path | None) -> None:
    """Raises BadRequest for an unknown mode, and for one that the draft model is missing for or left out by."""
    if mode not in get_args(SpeculationMode):
        names = ", ".join(get_args(SpeculationMode))
        raise BadRequest(f"speculation is {mode!r}; expected one of {names}", param="speculation")
    if mode == "draft" and draft is None:
        raise BadRequest("speculation is 'draft', and no draft model is given; name one with draft", param="speculation")
    if mode in ("off", "ngram") and draft is not None:
        raise BadRequest(f"speculation is {mode!r}, which leaves the draft model unused; take 'auto'", param="speculation")


def check_no_speculation(path: Path, mode: SpeculationMode, draft: str | Path | None) -> None:
    """Raises UnsupportedModel where speculation was asked for with a model that has recurrent states: they cannot step back
    from a wrong guess."""
    if mode in ("ngram", "draft") or draft is not None:
        raise UnsupportedModel(
            f"{path}: speculation is not implemented for models with recurrent states, neither to speed them up nor with them "
            "as the draft; leave it out"
        )


def check_same_vocabulary(target: Tokenizer, draft: Tokenizer, draft_path: Path) -> None:
    """Raises UnsupportedModel where the two models spell a token differently. Rows that only pad a vocabulary do not count."""
    if (difference := first_difference(target, draft)) is not None:
        token_id, ours, theirs = difference
        raise UnsupportedModel(
            f"{draft_path}: token {token_id} is {theirs} in the draft model's vocabulary and {ours} in the "
            "model's; choose a smaller model of the same family as the draft"
        )


def first_difference(one: Tokenizer, other: Tokenizer) -> tuple[int, str, str] | None:
    """The first token that two models spell differently, and how each does; None where their vocabularies are the same."""
    for token_id in range(max(one.n_tokens, other.n_tokens)):
        ours, theirs = (_spelling(tokenizer, token_id) for tokenizer in (one, other))
        if ours != theirs:
            return token_id, _shown(ours), _shown(theirs)
    return None


def _spelling(tokenizer: Tokenizer, token_id: int) -> tuple[bytes, bool]:
    """A token's bytes and whether it is a control token; no bytes for padding."""
    try:
        return tokenizer.token_bytes(token_id), tokenizer.is_control(token_id)
    except BadRequest:  # far beyond its vocabulary
        return b"", False


def _shown(spelling: tuple[bytes, bool]) -> str:
    return repr(spelling[0].decode("utf-8", "backslashreplace")) if spelling[0] else "nothing"
