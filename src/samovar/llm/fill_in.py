"""Filling in the middle: the prompts that code models are trained on for a text with a gap, and where what fills it ends.

Source: Qwen2.5-Coder technical report (arXiv 2409.12186), section 3.2, and QwenLM/Qwen3-Coder, examples/Qwen2.5-Coder-fim.py.
Of one file: `<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>`. Of a repository, before that: `<|repo_name|>{name}`, a
line break, and for each other file `<|file_sep|>{path}`, a line break and its text; the file with the gap comes last, by its
path alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from samovar.errors import BadRequest
from samovar.text.tokenizer import Tokenizer

_PREFIX, _SUFFIX, _MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
_REPOSITORY, _FILE = "<|repo_name|>", "<|file_sep|>"
# what ends a filling beside the model's own ends
_ENDS: Final = (_PREFIX, _SUFFIX, "<|fim_pad|>", _REPOSITORY, _FILE, "<|endoftext|>", "<|im_end|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """What surrounds a file with a gap: the repository's `name`, the `path` of that file, and other `files`, path to text, in
    the order in which the model is to read them."""

    name: str
    path: str
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises BadRequest for what is no text, and for the file with the gap among the others."""
        if not isinstance(self.files, Mapping):
            raise BadRequest(f"files is {self.files!r}; expected texts by path", param="files")
        named = {"name": self.name, "path": self.path}
        for what, text in (*named.items(), *(("files", part) for pair in self.files.items() for part in pair)):
            if not isinstance(text, str):
                raise BadRequest(f"{what} holds a {type(text).__name__}; expected texts", param=what)
        for what, text in (*named.items(), *(("files", path) for path in self.files)):
            if not text or "\n" in text:
                raise BadRequest(f"{what}: {text!r} is no name; expected one line", param=what)
        if self.path in self.files:
            raise BadRequest(f"files holds {self.path!r}, which is the file with the gap; leave it out", param="files")

    def pieces(self) -> Iterator[tuple[str, str]]:
        """Tokens, each with the text behind it."""
        yield _REPOSITORY, f"{self.name}\n"
        for path, text in self.files.items():
            yield _FILE, f"{path}\n{text}" + ("" if text.endswith("\n") else "\n")
        yield _FILE, f"{self.path}\n"


def can_fill_in(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary has the tokens."""
    return {_PREFIX, _SUFFIX, _MIDDLE} <= tokenizer.control_tokens.keys()


def fill_in_prompt(
    tokenizer: Tokenizer, before: str | tuple[int, ...], after: str, repository: Repository | None = None
) -> tuple[int, ...]:
    """The ids of a prompt that asks for what stands between two texts. Control tokens in these, and in a repository's files,
    are ordinary text: they may be any file. Raises BadRequest where the vocabulary has no tokens for it."""
    control = tokenizer.control_tokens
    needed = (_PREFIX, _SUFFIX, _MIDDLE, *(() if repository is None else (_REPOSITORY, _FILE)))
    if missing := [token for token in needed if token not in control]:
        raise BadRequest(
            f"suffix is given, and this model cannot fill in: its vocabulary has no {missing[0]}; leave suffix out, or use a "
            "model for code",
            param="suffix",
        )

    def plain(text: str) -> list[int]:
        return tokenizer.encode(text, parse_control=False, add_bos=False)

    if not isinstance(after, str):
        raise BadRequest(f"suffix is {after!r}; expected a text", param="suffix")
    around = () if repository is None else repository.pieces()
    context = [token_id for token, text in around for token_id in (control[token], *plain(text))]
    head = plain(before) if isinstance(before, str) else before
    return (*context, control[_PREFIX], *head, control[_SUFFIX], *plain(after), control[_MIDDLE])


def fill_in_stop_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids that end a filling."""
    return [tokenizer.control_tokens[token] for token in _ENDS if token in tokenizer.control_tokens]
