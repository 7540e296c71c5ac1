"""What the tokenizers of the known releases hold: a digest of pieces and merges, and the tokens that are matched as a whole.

Source: the official tokenizer.json of Qwen3; for Qwen2.5 and SmolLM2 the files of `formats.catalogue`, whose sha256 is known.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_QWEN_SPECIAL: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_QWEN_TEXTUAL: Final = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>",
)  # fmt: skip
_QWEN3_TEXTUAL: Final = ("<tool_response>", "</tool_response>", "<think>", "</think>")
_SMOL: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>",
    "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>",
    "<jupyter_output>", "<jupyter_script>", "<empty_output>",
)  # fmt: skip
_N_QWEN_PIECES: Final = 151_643
_QWEN_DIGEST: Final = "ad061afcfc26a5ff7b7611ace84657fe939d902af56b06ba07d823fec5668050"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTable:
    """A release's tokenizer. `digest` is that of its first `n_pieces` pieces and of its merges, see `vocabulary_digest`.

    `control` has the tokens that are matched as a whole, by id; those of `special` are markup, the others part of answers.
    `words` is GGUF's name of the rule by which texts are cut into words.
    """

    n_pieces: int
    digest: str
    control: Mapping[int, str]
    special: frozenset[int]
    words: str


def _numbered(first: int, *texts: str) -> dict[int, str]:
    return dict(enumerate(texts, first))


_QWEN_SPECIAL_IDS: Final = frozenset(_numbered(_N_QWEN_PIECES, *_QWEN_SPECIAL))

TOKEN_TABLES: Final[Mapping[str, TokenTable]] = {
    "qwen3": TokenTable(
        n_pieces=_N_QWEN_PIECES,
        digest=_QWEN_DIGEST,
        control=_numbered(_N_QWEN_PIECES, *_QWEN_SPECIAL, *_QWEN_TEXTUAL, *_QWEN3_TEXTUAL),
        special=_QWEN_SPECIAL_IDS,
        words="qwen2",
    ),
    "qwen2.5": TokenTable(
        n_pieces=_N_QWEN_PIECES,
        digest=_QWEN_DIGEST,
        control=_numbered(_N_QWEN_PIECES, *_QWEN_SPECIAL, *_QWEN_TEXTUAL),
        special=_QWEN_SPECIAL_IDS,
        words="qwen2",
    ),
    "smollm2": TokenTable(
        n_pieces=49_152,
        digest="ae74b2a2c5bed17762861623bca674411d40387a0202d53c03c8bdafb2b81679",
        control=_numbered(0, *_SMOL),
        special=frozenset(range(len(_SMOL))),
        words="smollm",
    ),
}


def vocabulary_digest(pieces: Iterable[str], merges: Iterable[str]) -> str:
    """The sha256 of pieces, in the order of their ids, and of merges ("left right"), in theirs.

    Pieces are as files spell them, in the byte alphabet, which has no line feed; so the same from GGUF and tokenizer.json.
    """
    return hashlib.sha256(("\n".join(pieces) + "\n\n" + "\n".join(merges)).encode()).hexdigest()
