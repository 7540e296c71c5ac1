"""The tokenizer metadata of a GGUF file to a Vocabulary: byte-level pairs (`gpt2`) and SentencePiece's pairs (`llama`)."""

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from samovar.errors import FormatError, UnsupportedModel
from samovar.kernels.native import native_missing_reason
from samovar.text.bpe_table import HIDDEN, NAMED, ORDINARY, PackageEncoder, TableEncoder
from samovar.text.control_tokens import ControlToken
from samovar.text.unicode_classes import compose
from samovar.text.vocabulary import SPACE_MARK, Encoder, PieceKind, Vocabulary

if TYPE_CHECKING:
    import tokenizers

_KEY: Final = "tokenizer.ggml."
_Scalar = TypeVar("_Scalar", str, int, float, bool)

# Regular expressions that cut a text into words, as published in the tokenizer.json files of these models.
LLAMA_3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2: Final = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER, _TAIL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_FIRST = r"[^\r\n\p{L}\p{N}]?"
TEKKEN: Final = rf"{_FIRST}{_UPPER}*{_LOWER}+|{_FIRST}{_UPPER}+{_LOWER}*|\p{{N}}|{_REST}"
GPT_4O: Final = rf"{_FIRST}{_UPPER}*{_LOWER}+{_TAIL}|{_FIRST}{_UPPER}+{_LOWER}*{_TAIL}|\p{{N}}{{1,3}}|{_REST}"
_WORDS: Final = {
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
    "llama-bpe": "llama-bpe",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "smollm": "smollm",
    "gpt-2": "gpt-2",
    "default": "gpt-2",
    "tekken": "tekken",
    "gpt-4o": "gpt-4o",
}
_BY_PACKAGE: Final = {"tekken": TEKKEN, "gpt-4o": GPT_4O}  # words that the package `tokenizers` cuts
_LOOKED_UP: Final = frozenset({"llama-bpe", "tekken"})  # whose words are tokens wherever they can be, as in tiktoken

# Tokens that end an answer, by their names in published vocabularies; a file names only one or two of them by id.
END_NAMES: Final = frozenset({
    "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>", "<｜end▁of▁sentence｜>",
    "<end_of_turn>", "<|end|>",
})  # fmt: skip


class TokenKind(IntEnum):
    """tokenizer.ggml.token_type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Sets of plain numbers: hundreds of thousands of kinds are looked up, and comparing members of an enumeration takes long.
_MATCHED: Final = frozenset({int(TokenKind.CONTROL), int(TokenKind.USER_DEFINED)})
_SPELLED: Final = frozenset({int(TokenKind.NORMAL), int(TokenKind.BYTE), int(TokenKind.UNKNOWN)})
_UNUSED: Final = int(TokenKind.UNUSED)


def read_gguf_vocabulary(metadata: Mapping[str, object]) -> Vocabulary:
    """Build the vocabulary. Raises FormatError for metadata that is not sound, UnsupportedModel for kinds not implemented."""
    model = _one(metadata, "model", str)
    if model not in ("gpt2", "llama"):
        found = "nothing" if model is None else repr(model)
        raise UnsupportedModel(f"{_KEY}model is {found}; implemented are 'gpt2' (byte-level pairs) and 'llama' (SentencePiece)")
    for key in ("precompiled_charsmap", "remove_extra_whitespaces"):
        if metadata.get(_KEY + key):
            raise UnsupportedModel(f"{_KEY}{key} is set, which is not implemented")
    tokens = _column(metadata, "tokens", str)
    kinds = _kinds(metadata, tokens)
    encoder = _byte_level(metadata, tokens, kinds) if model == "gpt2" else _sentencepiece(metadata, tokens, kinds)
    is_spm = model == "llama"
    matched = _MATCHED | {int(TokenKind.UNKNOWN)} if is_spm else _MATCHED
    has_prefix = is_spm and _flag(metadata, "add_space_prefix", default=True)
    ids = {role: _id(metadata, role, tokens) for role in ("bos", "eos", "eot", "eom", "unknown", "padding")}
    bos_by_default = is_spm or _WORDS.get(str(metadata.get(_KEY + "pre"))) in _LOOKED_UP
    return Vocabulary(
        encoder=encoder,
        normalize=_spm_normalizer(has_prefix=has_prefix) if is_spm else _normalizer(metadata),
        control_tokens=tuple(
            ControlToken(id=i, text=text, is_special=kind != TokenKind.USER_DEFINED)
            for i, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind in matched
        ),
        n_tokens=len(tokens),
        kind=PieceKind.SENTENCEPIECE if is_spm else PieceKind.BYTE_LEVEL,
        n_spaces_dropped=int(has_prefix),
        prefix_ids=_added(metadata, "add_bos_token", ids["bos"], default=bos_by_default),
        suffix_ids=_added(metadata, "add_eos_token", ids["eos"], default=False),
        unused_ids=frozenset(i for i, kind in enumerate(kinds) if kind == _UNUSED),
        special_tokens={
            f"{short}_token": tokens[token_id]
            for short, role in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
            if (token_id := ids[role]) is not None
        },
        bos_id=ids["bos"],
        eos_ids=_end_ids(tokens, kinds, (ids["eos"], ids["eot"], ids["eom"])),
    )


def package_tokenizer(metadata: Mapping[str, object]) -> "tokenizers.Tokenizer":
    """The file's byte pairs in the package `tokenizers`, nothing around them: no normaliser, decoder or added tokens.

    Control tokens whose ids lie among the ordinary ones are pieces of it. Raises as `read_gguf_vocabulary`.
    """
    tokens = _column(metadata, "tokens", str)
    kinds = _kinds(metadata, tokens)
    if _one(metadata, "model", str) == "llama":
        return _package_sentencepiece(metadata, tokens, kinds, with_control=True)
    pairs = _pairs(_column(metadata, "merges", str))
    return _package_byte_level(tokens, kinds, pairs, _words_of(metadata), with_control=True)


def _words_of(metadata: Mapping[str, object]) -> str:
    name = _one(metadata, "pre", str)
    words = _WORDS.get(name or "")
    if words is None:
        found = "missing" if name is None else repr(name)
        raise UnsupportedModel(
            f"{_KEY}pre is {found}: the file does not say in a way known here how texts are cut into words; "
            f"implemented are {', '.join(_WORDS)}"
        )
    return words


def _byte_level(metadata: Mapping[str, object], tokens: list[str], kinds: list[int]) -> Encoder:
    words = _words_of(metadata)
    merges = _column(metadata, "merges", str)
    if native_missing_reason() is not None or words in _BY_PACKAGE:
        return PackageEncoder(_package_byte_level(tokens, kinds, _pairs(merges), words), PieceKind.BYTE_LEVEL)
    role_of = np.full(max(TokenKind) + 1, HIDDEN, np.uint8)
    role_of[[*_MATCHED, TokenKind.NORMAL]] = [*[NAMED] * len(_MATCHED), ORDINARY]
    roles = role_of[np.array(kinds)]
    try:
        return TableEncoder.build(tokens, merges, roles, words=words, looks_up_words=words in _LOOKED_UP)
    except ValueError as error:
        _pairs(merges)  # says so where a merge is no pair
        raise FormatError(f"{_KEY}merges do not fit {_KEY}tokens: {error}") from None


def _pairs(merges: list[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for number, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise FormatError(f"{_KEY}merges: number {number} is {merge!r}; expected two pieces with a space between")
        pairs.append((left, right))
    return pairs


def _package_byte_level(
    tokens: list[str], kinds: list[int], pairs: list[tuple[str, str]], words: str, *, with_control: bool = False
) -> "tokenizers.Tokenizer":
    from tokenizers import Regex, pre_tokenizers

    vocabulary = {text: i for i, (text, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == TokenKind.NORMAL}
    # Some vocabularies mark as user-defined or control what words are built from.
    others = {text: i for i, (text, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind in _MATCHED}
    vocabulary |= {p: others[p] for left, right in pairs for p in (left, right, left + right) if p in others}
    if with_control:
        vocabulary |= _control_within(tokens, kinds, max(vocabulary.values()))
    encoder = _encoder(vocabulary, pairs, ignore_merges=words in _LOOKED_UP)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words in ("gpt-2", "smollm"))
    if words == "smollm":
        encoder.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    elif words == "gpt-2":
        encoder.pre_tokenizer = byte_level
    else:
        rule = QWEN_2 if words == "qwen2" else _BY_PACKAGE.get(words, LLAMA_3)
        split = pre_tokenizers.Split(Regex(rule), behavior="isolated")
        encoder.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    return encoder


def _control_within(tokens: list[str], kinds: list[int], last: int) -> dict[str, int]:
    """The control tokens with ids up to `last`."""
    return {text: i for i, (text, kind) in enumerate(zip(tokens[:last], kinds[:last], strict=True)) if kind in _MATCHED}


def _sentencepiece(metadata: Mapping[str, object], tokens: list[str], kinds: list[int]) -> Encoder:
    return PackageEncoder(_package_sentencepiece(metadata, tokens, kinds), PieceKind.SENTENCEPIECE)


def _package_sentencepiece(
    metadata: Mapping[str, object], tokens: list[str], kinds: list[int], *, with_control: bool = False
) -> "tokenizers.Tokenizer":
    scores = _column(metadata, "scores", float)
    if len(scores) != len(tokens):
        raise FormatError(f"{_KEY}scores has {len(scores)} entries, {_KEY}tokens {len(tokens)}; expected one for each")
    vocabulary = {t: i for i, (t, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind in _SPELLED}
    bytes_ = {t for t, kind in zip(tokens, kinds, strict=True) if kind == TokenKind.BYTE}
    if missing := [b for b in range(256) if f"<0x{b:02X}>" not in bytes_]:
        raise UnsupportedModel(f"{_KEY}tokens has no token for byte 0x{missing[0]:02X}; expected one for each byte")
    unknown_id = kinds.index(TokenKind.UNKNOWN) if TokenKind.UNKNOWN in kinds else _id(metadata, "unknown", tokens)
    if unknown_id is None:
        raise FormatError(f"{_KEY}token_type marks no token as unknown (2), and no unknown_token_id is given; expected one")
    unknown = tokens[unknown_id]
    vocabulary[unknown] = unknown_id
    pairs = _pairs_by_score({t: i for t, i in vocabulary.items() if kinds[i] == TokenKind.NORMAL}, scores)
    if with_control:
        vocabulary |= _control_within(tokens, kinds, max(vocabulary.values()))
    return _encoder(vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)


def _pairs_by_score(pieces: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """All ways to put a piece together from two, best first: what SentencePiece merges next is the pair whose whole has the
    highest score."""
    ranked: list[tuple[float, int, int, str, str]] = []
    for piece, token_id in pieces.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                ranked.append((-scores[token_id], pieces[left], pieces[right], left, right))
    ranked.sort(key=lambda entry: entry[:3])
    return [(left, right) for _, _, _, left, right in ranked]


def _encoder(vocabulary: dict[str, int], pairs: list[tuple[str, str]], **options: bool | str) -> "tokenizers.Tokenizer":
    import tokenizers

    try:
        return tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, pairs, **options))
    except Exception as error:  # the package raises plain Exception
        raise FormatError(f"{_KEY}merges do not fit {_KEY}tokens: {error}") from None


def _normalizer(metadata: Mapping[str, object]) -> Callable[[str], str] | None:
    """The file does not name it: Qwen composes characters, the others take text as it is."""
    return compose if _WORDS.get(str(metadata.get(_KEY + "pre"))) == "qwen2" else None


def _spm_normalizer(*, has_prefix: bool) -> Callable[[str], str]:
    from tokenizers import normalizers

    replace = normalizers.Replace(" ", SPACE_MARK)
    made = normalizers.Sequence([normalizers.Prepend(SPACE_MARK), replace]) if has_prefix else replace
    normalize: Callable[[str], str] = made.normalize_str
    return normalize


def _kinds(metadata: Mapping[str, object], tokens: list[str]) -> list[int]:
    """The type of each token; checks that no ordinary token appears twice."""
    kinds = _column(metadata, "token_type", int)
    if len(kinds) != len(tokens):
        raise FormatError(f"{_KEY}token_type has {len(kinds)} entries, {_KEY}tokens {len(tokens)}; expected one for each")
    if unknown := set(kinds) - set(TokenKind):
        raise FormatError(f"{_KEY}token_type has {min(unknown)}; expected 1 to {max(TokenKind)}")
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = next(t for t in tokens if t in seen or seen.add(t))  # type: ignore[func-returns-value]
        raise FormatError(f"{_KEY}tokens has {twice!r} twice; expected each token once")
    return kinds


def _end_ids(tokens: list[str], kinds: list[int], named: tuple[int | None, ...]) -> tuple[int, ...]:
    """The ids that end an answer: those the file names, then those with a name that is known for it."""
    known = [i for i, (t, kind) in enumerate(zip(tokens, kinds, strict=True)) if t in END_NAMES and kind == TokenKind.CONTROL]
    return tuple(dict.fromkeys([*(i for i in named if i is not None), *known]))


def _added(metadata: Mapping[str, object], key: str, token_id: int | None, *, default: bool) -> tuple[int, ...]:
    """What the flag `key` puts before or after texts."""
    is_added = _flag(metadata, key, default=default)
    if is_added and token_id is None:
        if metadata.get(_KEY + key) is None:
            return ()
        raise FormatError(f"{_KEY}{key} is true, and the file names no such token")
    return (token_id,) if is_added and token_id is not None else ()


def _flag(metadata: Mapping[str, object], key: str, *, default: bool) -> bool:
    found = _one(metadata, key, bool)
    return default if found is None else found


def _id(metadata: Mapping[str, object], role: str, tokens: list[str]) -> int | None:
    found = _one(metadata, f"{role}_token_id", int)
    if found is not None and not 0 <= found < len(tokens):
        raise FormatError(f"{_KEY}{role}_token_id is {found}; expected 0 to {len(tokens) - 1}")
    return found


def _one(metadata: Mapping[str, object], key: str, kind: type[_Scalar]) -> _Scalar | None:
    """A single value, or None where it is missing."""
    found = metadata.get(_KEY + key)
    if found is None:
        return None
    if type(found) is not kind:
        raise FormatError(f"{_KEY}{key} is a {type(found).__name__}; expected {kind.__name__}")
    return found


def _column(metadata: Mapping[str, object], key: str, kind: type[_Scalar]) -> list[_Scalar]:
    """A list with a value of one type for each token or merge."""
    found = metadata.get(_KEY + key)
    if not isinstance(found, list) or not found:
        what = "missing" if found is None else f"a {type(found).__name__}" if not isinstance(found, list) else "empty"
        raise FormatError(f"{_KEY}{key} is {what}; expected a list of {kind.__name__}")
    if wrong := {type(value) for value in found} - {kind}:
        raise FormatError(f"{_KEY}{key} holds a {min(t.__name__ for t in wrong)}; expected {kind.__name__} throughout")
    return found
