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


def check_same_vocabulary(target: Tokenizer, draft: Tokenizer, draft_path: Path) -> None:
    """Raises UnsupportedModel where the two models spell a token differently. Rows that only pad a vocabulary do not count."""
    for token_id in range(max(target.n_tokens, draft.n_tokens)):
        ours, theirs = (_spelling(tokenizer, token_id) for tokenizer in (target, draft))
        if ours != theirs:
            raise UnsupportedModel(
                f"{draft_path}: token {token_id} is {_shown(theirs)} in the draft model's vocabulary and {_shown(ours)} in the "
                "model's; choose a smaller model of the same family as the draft"
            )


def _spelling(tokenizer: Tokenizer, token_id: int) -> tuple[bytes, bool]:
    """A token's bytes and whether it is a control token; no bytes for padding."""
    try:
        return tokenizer.token_bytes(token_id), tokenizer.is_control(token_id)
    except BadRequest:  # far beyond its vocabulary
        return b"", False


def _shown(spelling: tuple[bytes, bool]) -> str:
    return repr(spelling[0].decode("utf-8", "backslashreplace")) if spelling[0] else "nothing"
