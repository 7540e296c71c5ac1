"""The `tokenizer.*` keys of a GGUF file from a tokenizer.json, as llama.cpp's converter writes them.

Byte-level pairs become the model `gpt2`, with the name of the rule that cuts texts into words (`pre`). Pairs in SentencePiece's
spelling become the model `llama`: a piece's score is its rank among the merges, which is the order that SentencePiece would
put pieces together in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.gguf_values import EncodedValue, encode_as, encode_list
from samovar.formats.hf_folder import HfCheckpoint
from samovar.formats.json_object import read_json_object
from samovar.text.gguf_vocabulary import TokenKind
from samovar.text.tokenizer_json import read_tokenizer_json, words_rule
from samovar.text.vocabulary import PieceKind, Vocabulary

_KEY: Final = "tokenizer.ggml."
_ROLES: Final = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
    "sep_token": "seperator",
}
_NO_SCORE: Final = -1e6


def vocabulary_keys(checkpoint: HfCheckpoint, vocab_size: int) -> dict[str, EncodedValue]:
    """Tokens up to `vocab_size`, their kinds, how they are put together, and the template.

    Raises FormatError for a tokenizer that is not sound, UnsupportedModel for one that GGUF has no words for.
    """
    path = checkpoint.tokenizer_json
    if path is None:
        raise FormatError(f"{checkpoint.path}: tokenizer.json is missing; expected it beside config.json")
    vocabulary, raw = read_tokenizer_json(path, checkpoint.tokenizer_config), read_json_object(path)
    model = raw["model"]
    assert isinstance(model, dict)  # it was read by the package before
    pieces: dict[str, int] = dict(model["vocab"])
    tokens, kinds = _tokens(path, pieces, vocabulary, vocab_size)
    merges = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in model["merges"]]
    keys = {"tokens": encode_list("string", tokens)}
    if vocabulary.kind is PieceKind.BYTE_LEVEL:
        keys |= _byte_level(path, merges)
    else:
        keys |= _sentencepiece(tokens, kinds, merges, model.get("unk_token"), vocabulary)
    keys["token_type"] = encode_list("i32", [int(kind) for kind in kinds])
    keys |= _special_ids(path, tokens, vocabulary, checkpoint)
    found = {_KEY + key: value for key, value in keys.items()}
    if checkpoint.chat_template is not None:
        found["tokenizer.chat_template"] = encode_as("string", checkpoint.chat_template)
    return found


def _tokens(path: Path, pieces: dict[str, int], vocabulary: Vocabulary, vocab_size: int) -> tuple[list[str], list[TokenKind]]:
    """The text and kind of each id; ids without a token are unused."""
    most = max([*pieces.values(), *(token.id for token in vocabulary.control_tokens)])
    if most >= vocab_size:
        raise FormatError(f"{path}: has a token with id {most}; the model's embedding has {vocab_size} rows")
    tokens, kinds = [f"[PAD{i}]" for i in range(vocab_size)], [TokenKind.UNUSED] * vocab_size
    for text, token_id in pieces.items():
        tokens[token_id], kinds[token_id] = text, TokenKind.NORMAL
    for token in vocabulary.control_tokens:
        tokens[token.id], kinds[token.id] = token.text, TokenKind.CONTROL if token.is_special else TokenKind.USER_DEFINED
    if len(set(tokens)) < len(tokens):
        raise FormatError(f"{path}: two ids have the same token; expected each token once")
    return tokens, kinds


def _byte_level(path: Path, merges: list[list[str]]) -> dict[str, EncodedValue]:
    rule = words_rule(path)
    if rule is None:
        raise UnsupportedModel(
            f"{path}: GGUF has no name known here for the rule that cuts texts into words: write no GGUF file of this model"
        )
    joined = [" ".join(merge) for merge in merges]
    return {
        "model": encode_as("string", "gpt2"),
        "pre": encode_as("string", rule),
        "merges": encode_list("string", joined),
    }


def _sentencepiece(
    tokens: list[str], kinds: list[TokenKind], merges: list[list[str]], unknown: object, vocabulary: Vocabulary
) -> dict[str, EncodedValue]:
    """Changes `kinds` where a token is a byte or the unknown one."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    bytes_ = {f"<0x{byte:02X}>" for byte in range(256)}
    for token_id, text in enumerate(tokens):
        if text in bytes_:
            kinds[token_id] = TokenKind.BYTE
        elif text == unknown:
            kinds[token_id] = TokenKind.UNKNOWN
    scores = [
        -float(ranks[t]) if t in ranks and kind is TokenKind.NORMAL else _NO_SCORE
        for t, kind in zip(tokens, kinds, strict=True)
    ]
    return {
        "model": encode_as("string", "llama"),
        "pre": encode_as("string", "default"),
        "scores": encode_list("f32", scores),
        "add_space_prefix": encode_as("bool", vocabulary.n_spaces_dropped > 0),
    }


def _special_ids(path: Path, tokens: list[str], vocabulary: Vocabulary, checkpoint: HfCheckpoint) -> dict[str, EncodedValue]:
    ids = {text: i for i, text in enumerate(tokens)}
    found = {
        f"{role}_token_id": ids[text]
        for key, role in _ROLES.items()
        if (text := vocabulary.special_tokens.get(key)) is not None and text in ids
    }
    ends = _end_ids(checkpoint.generation_config)
    if "eos_token_id" not in found and ends:
        found["eos_token_id"] = ends[0]
    if others := [i for i in ends if i != found.get("eos_token_id")]:
        found["eot_token_id"] = others[0]
    before, after = vocabulary.prefix_ids, vocabulary.suffix_ids
    if len(after) == 1 and after[0] != (old := found.get("eos_token_id")):  # what a GGUF file puts after texts is always this
        found["eos_token_id"] = after[0]
        if old is not None:
            found.setdefault("eot_token_id", old)
    if before not in ((), (found.get("bos_token_id"),)) or after not in ((), (found.get("eos_token_id"),)):
        raise UnsupportedModel(f"{path}: puts tokens {[*before, *after]} around texts, which GGUF cannot say")
    flags = {"add_bos_token": bool(before), "add_eos_token": bool(after)}
    return {key: encode_as("u32", value) for key, value in found.items()} | {
        key: encode_as("bool", value) for key, value in flags.items() if value or key == "add_bos_token"
    }


def _end_ids(generation_config: Mapping[str, object]) -> list[int]:
    found = generation_config.get("eos_token_id")
    given = found if isinstance(found, list) else [found]
    return [i for i in given if isinstance(i, int) and not isinstance(i, bool)]
