"""What sentence-transformers' files say of a model, as keys of a GGUF file; llama.cpp's own say no more than the pooling.

Samovar's converter writes them, `sentence_transformers.*`; other programs pass them over, as the GGUF specification has it.
"""

from collections.abc import Mapping
from typing import Final

from samovar.errors import FormatError
from samovar.formats.gguf_values import EncodedValue, encode_as, encode_list
from samovar.formats.sentence_files import SentenceFiles

_PREFIX: Final = "sentence_transformers."
_NAMES, _TEXTS, _DEFAULT = "prompt_names", "prompt_texts", "default_prompt_name"
_NORMALISED, _MOST, _YES, _NO = "is_normalised", "max_seq_length", "true_token_id", "false_token_id"
_KINDS: Final[Mapping[str, type]] = {
    _NAMES: list,
    _TEXTS: list,
    _DEFAULT: str,
    _NORMALISED: bool,
    _MOST: int,
    _YES: int,
    _NO: int,
}


def sentence_keys(files: SentenceFiles) -> dict[str, EncodedValue]:
    """The keys that say what the files say, but for how states are pooled."""
    keys = {_NORMALISED: encode_as("bool", files.is_normalised)}
    if files.prompts:
        keys |= {_NAMES: encode_list("string", [*files.prompts]), _TEXTS: encode_list("string", [*files.prompts.values()])}
    if files.default_prompt is not None:
        keys[_DEFAULT] = encode_as("string", files.default_prompt)
    if files.max_tokens is not None:
        keys[_MOST] = encode_as("u32", files.max_tokens)
    if files.score_ids is not None:
        keys |= {key: encode_as("u32", found) for key, found in zip((_YES, _NO), files.score_ids, strict=True)}
    return {_PREFIX + key: value for key, value in keys.items()}


def read_sentence_keys(metadata: Mapping[str, object], pooling: str | None, where: str) -> SentenceFiles | None:
    """What the keys of a GGUF file say; None where there are none. `pooling` is what its other keys say of that.

    Raises FormatError for keys that are unsound or not known.
    """
    rest = {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}
    if not rest:
        return None
    for key, value in rest.items():
        if key not in _KINDS or type(value) is not _KINDS[key]:
            expected = f"expected {_KINDS[key].__name__}" if key in _KINDS else f"known are {', '.join(_KINDS)}"
            raise FormatError(f"{where}: {_PREFIX}{key} is {str(value)[:80]!r}; {expected}")
    names, texts = (_texts(rest.get(key), f"{where}: {_PREFIX}{key}") for key in (_NAMES, _TEXTS))
    default = rest.get(_DEFAULT)
    if len(set(names)) != len(texts) or (default is not None and default not in names):
        raise FormatError(
            f"{where}: {_PREFIX}*: {len(names)} names of prompts, {len(texts)} texts, and the default is {default!r}; expected "
            "a text for each name, and one of the names"
        )
    most, yes, no = (found if isinstance(found := rest.get(key), int) else None for key in (_MOST, _YES, _NO))
    if (most is not None and most < 1) or (yes is None) != (no is None):
        raise FormatError(
            f"{where}: {_PREFIX}*: {_MOST} is {most!r}, {_YES} and {_NO} are {yes!r} and {no!r}; expected a length, and two ids"
        )
    return SentenceFiles(
        pooling=pooling,
        is_normalised=rest.get(_NORMALISED) is True,
        score_ids=None if yes is None or no is None else (yes, no),
        prompts=dict(zip(names, texts, strict=True)),
        default_prompt=None if default is None else str(default),
        max_tokens=most,
    )


def _texts(found: object, where: str) -> list[str]:
    listed = [] if found is None else found
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise FormatError(f"{where} is {str(found)[:80]!r}; expected a list of texts")
    return listed
