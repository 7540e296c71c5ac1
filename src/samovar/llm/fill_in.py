"""Filling in the middle: the prompt that code models are trained on for a text with a gap, and where what fills it ends."""

from typing import Final

from samovar.errors import BadRequest
from samovar.text.tokenizer import Tokenizer

_PREFIX, _SUFFIX, _MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
# QwenLM/Qwen3-Coder, examples/Qwen2.5-Coder-fim.py: what ends a filling beside the model's own ends
_ENDS: Final = (_PREFIX, _SUFFIX, "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|endoftext|>", "<|im_end|>")


def can_fill_in(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary has the tokens."""
    return {_PREFIX, _SUFFIX, _MIDDLE} <= tokenizer.control_tokens.keys()


def fill_in_prompt(tokenizer: Tokenizer, before: str | tuple[int, ...], after: str) -> tuple[int, ...]:
    """The ids of a prompt that asks for what stands between two texts. Control tokens in these are ordinary text: they may be
    any file. Raises BadRequest where the vocabulary has no tokens for it."""
    control = tokenizer.control_tokens
    if missing := [token for token in (_PREFIX, _SUFFIX, _MIDDLE) if token not in control]:
        raise BadRequest(
            f"suffix is given, and this model cannot fill in: its vocabulary has no {missing[0]}; leave suffix out, or use a "
            "model for code",
            param="suffix",
        )

    def plain(text: str) -> list[int]:
        return tokenizer.encode(text, parse_control=False, add_bos=False)

    head = plain(before) if isinstance(before, str) else before
    return (control[_PREFIX], *head, control[_SUFFIX], *plain(after), control[_MIDDLE])


def fill_in_stop_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids that end a filling."""
    return [tokenizer.control_tokens[token] for token in _ENDS if token in tokenizer.control_tokens]
