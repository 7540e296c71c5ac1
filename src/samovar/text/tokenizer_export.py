"""The tokenizer metadata of a GGUF file as tokenizer.json and tokenizer_config.json.

Source: the `tokenizers` package, which writes the file. What GGUF does not tell, whether added tokens swallow spaces around
them, is written as no.
"""

import json
from collections.abc import Mapping

import tokenizers
from tokenizers import decoders, normalizers, processors

from samovar.errors import UnsupportedModel
from samovar.text.gguf_vocabulary import package_tokenizer, read_gguf_vocabulary
from samovar.text.vocabulary import SPACE_MARK, PieceKind, Vocabulary


def tokenizer_files(metadata: Mapping[str, object], where: str, max_context: int) -> dict[str, str]:
    """The files' texts by name. Raises FormatError or UnsupportedModel for metadata that are unsound or not implemented."""
    vocabulary = read_gguf_vocabulary(metadata)
    encoder = package_tokenizer(metadata)
    _complete(encoder, vocabulary)
    text = encoder.to_str(pretty=False)
    _check(tokenizers.Tokenizer.from_str(text), vocabulary, where)
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_context,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(vocabulary.prefix_ids),
        "add_eos_token": bool(vocabulary.suffix_ids),
        **vocabulary.special_tokens,
    }
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        config["chat_template"] = template
    return {"tokenizer.json": text, "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n"}


def _complete(encoder: tokenizers.Tokenizer, vocabulary: Vocabulary) -> None:
    """Add normaliser, added tokens, what goes around a text, and the way back to text."""
    if vocabulary.kind is PieceKind.BYTE_LEVEL:
        if vocabulary.normalize is not None:
            encoder.normalizer = normalizers.NFC()
        encoder.decoder = decoders.ByteLevel()
    else:
        replace = normalizers.Replace(" ", SPACE_MARK)
        has_prefix = vocabulary.n_spaces_dropped > 0
        encoder.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE_MARK), replace] if has_prefix else [replace])
        steps = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
        encoder.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if has_prefix else steps)
    for token in sorted(vocabulary.control_tokens, key=lambda token: token.id):
        added = tokenizers.AddedToken(token.text, special=token.is_special, normalized=False)
        encoder.add_special_tokens([added]) if token.is_special else encoder.add_tokens([added])
    texts = {token.id: token.text for token in vocabulary.control_tokens}
    around = (*vocabulary.prefix_ids, *vocabulary.suffix_ids)
    if around:
        before = [texts[i] for i in vocabulary.prefix_ids]
        after = [texts[i] for i in vocabulary.suffix_ids]
        encoder.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, *(f"{text}:1" for text in before), "$B:1", *(f"{text}:1" for text in after)],
            special_tokens=[(texts[i], i) for i in dict.fromkeys(around)],
        )


def _check(encoder: tokenizers.Tokenizer, vocabulary: Vocabulary, where: str) -> None:
    """Hold every added token's id against the file's."""
    for token in vocabulary.control_tokens:
        if (found := encoder.token_to_id(token.text)) != token.id:
            raise UnsupportedModel(
                f"{where}: token {token.text!r} has id {token.id}, and would have {found} in a tokenizer.json: ids with a gap "
                "before them are not converted"
            )
