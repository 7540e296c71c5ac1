"""Prompts for what belongs between two pieces of code, in the order that models were trained on: prefix, suffix, middle."""

from typing import Final

from samovar.errors import BadRequest
from samovar.text.tokenizer import Tokenizer

# Qwen's tags, and those of StarCoder: prefix, suffix, middle.
_TAGS: Final = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
)
# What a model writes when the gap is filled, beside its own end.
_ENDS: Final = (
    *(tag for tags in _TAGS for tag in tags),
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<|endoftext|>",
    "<fim_pad>",
    "<file_sep>",
)


def can_fill(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary has the tags."""
    return _tags(tokenizer) is not None


def fill_prompt(tokenizer: Tokenizer, prefix: str, suffix: str) -> tuple[int, ...]:
    """The ids of a prompt whose continuation belongs between the two. Control tokens in them count as plain text.

    Raises BadRequest where the vocabulary has no tags for it.
    """
    tags = _tags(tokenizer)
    if tags is None:
        raise BadRequest("this model has no tokens for filling a gap, so that suffix cannot be honoured", param="suffix")
    before, after = (tokenizer.encode(text, parse_control=False, add_bos=False) for text in (prefix, suffix))
    start = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    return (*start, tags[0], *before, tags[1], *after, tags[2])


def fill_ends(tokenizer: Tokenizer) -> list[int]:
    """The tokens after which nothing more belongs into the gap."""
    return [tokenizer.control_tokens[text] for text in _ENDS if text in tokenizer.control_tokens]


def _tags(tokenizer: Tokenizer) -> tuple[int, int, int] | None:
    known = tokenizer.control_tokens
    return next(((known[a], known[b], known[c]) for a, b, c in _TAGS if {a, b, c} <= known.keys()), None)
