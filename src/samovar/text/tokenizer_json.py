"""A tokenizer.json (with tokenizer_config.json) to a Vocabulary.

Byte-pair tokenizers only, byte-level or in SentencePiece's spelling. Post-processors may put tokens before and after a text;
what they would do with pairs of texts is not read.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.mapped_file import unreadable
from samovar.kernels.native import native_missing_reason
from samovar.text.bpe_table import HIDDEN, ORDINARY, PackageEncoder, TableEncoder
from samovar.text.control_tokens import ControlToken
from samovar.text.gguf_vocabulary import LLAMA_3, QWEN_2
from samovar.text.unicode_classes import compose
from samovar.text.vocabulary import SPACE_MARK, PieceKind, Vocabulary

_State: TypeAlias = dict[str, object]
_ROLES: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_MAX_GAP: Final = 4096  # ids without a piece in a vocabulary that becomes a table


def read_tokenizer_json(path: Path, tokenizer_config: Mapping[str, object]) -> Vocabulary:
    """Read the file at `path`. Raises FormatError or UnsupportedModel, naming it."""
    encoder = _load(path)
    if not isinstance(encoder.model, models.BPE):
        raise UnsupportedModel(f"{path}: the tokenizer is a {type(encoder.model).__name__}; byte-pair ones (BPE) are read")
    kind, n_spaces_dropped = _decoding(path, _state(encoder.decoder))
    control_tokens = _control_tokens(path, encoder)
    _check_added_tokens(path, encoder, tokenizer_config.get("added_tokens_decoder"))
    special_tokens = _special_tokens(path, tokenizer_config)
    prefix_ids, suffix_ids = _surroundings(path, _state(encoder.post_processor), encoder)
    bos_id = _id_of(path, encoder, special_tokens, "bos_token")
    eos_id = _id_of(path, encoder, special_tokens, "eos_token")
    normalizer = _normalizer(encoder.normalizer)
    table = _table(encoder) if kind is PieceKind.BYTE_LEVEL and native_missing_reason() is None else None
    first_prefix = _prefix_once(path, encoder)
    n_tokens = max([encoder.get_vocab_size(with_added_tokens=False), *(t.id + 1 for t in control_tokens)])
    _make_plain(encoder, control_tokens)
    return Vocabulary(
        encoder=table or PackageEncoder(encoder, kind),
        normalize=normalizer,
        control_tokens=control_tokens,
        n_tokens=n_tokens,
        kind=kind,
        first_prefix=first_prefix,
        n_spaces_dropped=n_spaces_dropped,
        prefix_ids=prefix_ids,
        suffix_ids=suffix_ids,
        special_tokens=special_tokens,
        bos_id=bos_id if bos_id is not None or not prefix_ids else prefix_ids[0],
        eos_ids=() if eos_id is None else (eos_id,),
    )


def words_rule(path: Path) -> str | None:
    """The name that GGUF has for the rule by which a byte-level tokenizer.json cuts texts into words; None where it has none.

    Raises as `read_tokenizer_json`.
    """
    return _words(_state(_load(path).pre_tokenizer))


def _load(path: Path) -> tokenizers.Tokenizer:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        return tokenizers.Tokenizer.from_buffer(content)
    except ValueError as error:
        raise FormatError(f"{path}: no sound tokenizer.json: {error}") from None


def _normalizer(normalizer: normalizers.Normalizer | None) -> Callable[[str], str] | None:
    if normalizer is None:
        return None
    normalize: Callable[[str], str] = normalizer.normalize_str
    return compose if _state(normalizer) == {"type": "NFC"} else normalize


def _table(encoder: tokenizers.Tokenizer) -> TableEncoder | None:
    """The encoder as a table, where it is one of the common kinds. `encoder` is as it was read."""
    words = _words(_state(encoder.pre_tokenizer))
    state = _state(encoder.model)
    unusual = {k: v for k, v in state.items() if k not in ("type", "vocab", "merges", "ignore_merges") and v}
    vocabulary, merges = state["vocab"], state["merges"]
    if words is None or unusual or not isinstance(vocabulary, dict) or not isinstance(merges, list):
        return None
    n_pieces = max(vocabulary.values(), default=-1) + 1
    if n_pieces > 2 * len(vocabulary) + _MAX_GAP:
        return None
    pieces = [""] * n_pieces
    roles = np.full(n_pieces, HIDDEN, np.uint8)
    for text, token_id in vocabulary.items():
        pieces[token_id] = text
        roles[token_id] = ORDINARY
    joined = [" ".join(merge) if isinstance(merge, list) else merge for merge in merges]
    try:
        return TableEncoder.build(pieces, joined, roles, words=words, looks_up_words=bool(state["ignore_merges"]))
    except ValueError:  # pieces that are not spelled in bytes
        return None


def _words(state: _State) -> str | None:
    """The name of a rule that cuts texts into words; None where it is another one, or has other settings."""
    steps = state.get("pretokenizers") if state.get("type") == "Sequence" else [state]
    if not isinstance(steps, list) or not steps or steps[-1].get("type") != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    before, use_regex = steps[:-1], steps[-1]["use_regex"]
    if use_regex:
        digits = {"type": "Digits", "individual_digits": True}
        return "gpt-2" if not before else "smollm" if before == [digits] else None
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    rules = (("qwen2", QWEN_2), ("llama-bpe", LLAMA_3))
    return next((name for name, rule in rules if before == [{**split, "pattern": {"Regex": rule}}]), None)


def _state(part: object) -> _State:
    """The settings of a part of a tokenizer, as they stand in the file; empty where there is no such part."""
    if part is None:
        return {}
    state: _State = json.loads(str(part.__getstate__(), "utf-8"))  # type: ignore[call-overload]
    return state


def _decoding(path: Path, decoder: _State) -> tuple[PieceKind, int]:
    """How pieces become text: their kind, and the number of spaces dropped at the beginning of a text."""
    if decoder.get("type") == "ByteLevel":
        return PieceKind.BYTE_LEVEL, 0
    steps = decoder.get("decoders")
    steps = steps if decoder.get("type") == "Sequence" and isinstance(steps, list) else [decoder]
    kinds = [step.get("type") for step in steps]
    n_spaces_dropped = 0
    if kinds[-1:] == ["Strip"]:
        strip = steps[-1]
        n_spaces_dropped = int(str(strip["start"]))
        kinds = kinds[:-1] if strip["content"] == " " and strip["stop"] == 0 else kinds
    if kinds != ["Replace", "ByteFallback", "Fuse"] or (steps[0]["pattern"], steps[0]["content"]) != (
        {"String": SPACE_MARK},
        " ",
    ):
        raise UnsupportedModel(f"{path}: its decoder, {json.dumps(decoder)[:200]}, is not implemented")
    return PieceKind.SENTENCEPIECE, n_spaces_dropped


def _control_tokens(path: Path, encoder: tokenizers.Tokenizer) -> tuple[ControlToken, ...]:
    tokens = []
    for token_id, token in sorted(encoder.get_added_tokens_decoder().items()):
        if not token.content:
            raise FormatError(f"{path}: added token {token_id} is empty; expected text")
        tokens.append(
            ControlToken(
                id=token_id,
                text=token.content,
                is_special=token.special,
                takes_left_space=token.lstrip,
                takes_right_space=token.rstrip,
                is_whole_word=token.single_word,
                is_normalized=token.normalized,
            )
        )
    return tuple(tokens)


def _check_added_tokens(path: Path, encoder: tokenizers.Tokenizer, listed: object) -> None:
    """Raise where tokenizer_config.json lists an added token that tokenizer.json has not, or has under another id."""
    for key, token in listed.items() if isinstance(listed, dict) else ():
        text = token.get("content") if isinstance(token, dict) else token
        found = encoder.token_to_id(text) if isinstance(text, str) else None
        if str(found) != key:
            config = path.with_name("tokenizer_config.json")
            raise FormatError(f"{config}: added token {key} is {text!r}; {path.name} has it as {found}")


def _special_tokens(path: Path, tokenizer_config: Mapping[str, object]) -> dict[str, str]:
    """The tokens with a role: as a string, or as an object with `content`."""
    found = {}
    for role in _ROLES:
        token = tokenizer_config.get(role)
        text = token.get("content") if isinstance(token, dict) else token
        if text is None:
            continue
        if not isinstance(text, str):
            raise FormatError(f"{path.with_name('tokenizer_config.json')}: {role} is {token!r}; expected text")
        found[role] = text
    return found


def _id_of(path: Path, encoder: tokenizers.Tokenizer, special_tokens: dict[str, str], role: str) -> int | None:
    if (text := special_tokens.get(role)) is None:
        return None
    token_id = encoder.token_to_id(text)
    if token_id is None:
        raise FormatError(f"{path}: {text!r}, the {role} of tokenizer_config.json, is not in the vocabulary")
    return token_id


def _surroundings(path: Path, post_processor: _State, encoder: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that go before and after every text."""
    if post_processor:
        states = post_processor["processors"] if post_processor["type"] == "Sequence" else [post_processor]
        for state in states if isinstance(states, list) else []:
            if state["type"] not in ("ByteLevel", "TemplateProcessing"):
                raise UnsupportedModel(f"{path}: its post-processor, {state['type']}, is not implemented")
            if state["type"] == "TemplateProcessing":
                return _template_ids(path, state, encoder)
    return (), ()


def _template_ids(path: Path, state: _State, encoder: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids before and after the text itself."""
    before: list[int] = []
    after: list[int] = []
    target = before
    known = state["special_tokens"]
    for step in state["single"] if isinstance(state["single"], list) else []:
        if "Sequence" in step:
            target = after
        else:
            name = step["SpecialToken"]["id"]
            ids = known[name]["ids"] if isinstance(known, dict) and name in known else []
            if not ids or any(encoder.id_to_token(i) is None for i in ids):
                raise FormatError(f"{path}: its post-processor adds {name!r}, which has no token in the vocabulary")
            target += ids
    return tuple(before), tuple(after)


def _prefix_once(path: Path, encoder: tokenizers.Tokenizer) -> str:
    """Take a prefix for the first word out of the pre-tokenizer: it sees pieces of a text, and not which one is first."""
    state = _state(encoder.pre_tokenizer)
    if state.get("type") != "Metaspace" or state["prepend_scheme"] != "first":
        if "Metaspace" in json.dumps(state) and '"first"' in json.dumps(state):
            raise UnsupportedModel(f"{path}: its pre-tokenizer, {json.dumps(state)[:200]}, is not implemented")
        return ""
    mark = str(state["replacement"])
    encoder.pre_tokenizer = pre_tokenizers.Metaspace(mark, prepend_scheme="never", split=bool(state["split"]))
    return mark


def _make_plain(encoder: tokenizers.Tokenizer, control_tokens: tuple[ControlToken, ...]) -> None:
    """Leave nothing but pre-tokenizer and model in force."""
    encoder.no_truncation()
    encoder.no_padding()
    encoder.normalizer = None
    encoder.post_processor = None
    # Added tokens cannot be removed. Special ones can be left unmatched, so all are made special.
    encoder.add_special_tokens([tokenizers.AddedToken(t.text, special=True, normalized=False) for t in control_tokens])
    encoder.encode_special_tokens = True
