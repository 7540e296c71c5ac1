"""What a model's card says that GGUF has keys for: licence, languages and tags.

A card is the README.md of a Hugging Face folder, whose front matter is YAML (https://huggingface.co/docs/hub/model-cards). The
keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, "General metadata".
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from samovar.errors import FormatError
from samovar.formats.gguf_values import EncodedValue, encode_as, encode_list
from samovar.formats.mapped_file import open_plain

CARD: Final = "README.md"
_TEXTS: Final = {
    "license": "general.license",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
}
_LISTS: Final = {"language": "general.languages", "tags": "general.tags"}
_MOST_BYTES: Final = 64 << 10
_MOST_WORDS: Final = 1000
_FRONT_MATTER: Final = re.compile(rb"\A(?:\xef\xbb\xbf)?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


def keys_of_card(folder: Path) -> dict[str, EncodedValue]:
    """The keys for a GGUF file. A card that is not there or not as it should be says nothing: no value depends on it."""
    try:
        with open_plain(folder / CARD) as file:
            found = _FRONT_MATTER.match(file.read(_MOST_BYTES))
        # texts and lists alone: `no` is Norwegian, and no object is made
        front = yaml.load(found[1], Loader=yaml.BaseLoader) if found else None  # noqa: S506
    except (OSError, FormatError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(front, dict):
        return {}
    keys = {}
    for name, key in _TEXTS.items():
        if words := _words(front.get(name)):
            keys[key] = encode_as("string", ", ".join(words))
    for name, key in _LISTS.items():
        if words := _words(front.get(name)):
            keys[key] = encode_list("string", words)
    return keys


def card_of(metadata: Mapping[str, object]) -> str | None:
    """The README.md for the metadata of a GGUF file; None where it says nothing of the kind."""
    front: dict[str, object] = {}
    for name, key in _TEXTS.items():
        if words := _words(metadata.get(key)):
            front[name] = words[0]
    for name, key in _LISTS.items():
        if words := _words(metadata.get(key)):
            front[name] = words
    if not front:
        return None
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n"


def _words(value: object) -> list[str]:
    """A text, or the texts of a list, without those that are empty."""
    given = value if isinstance(value, list) else [value]
    return [word for word in given[:_MOST_WORDS] if isinstance(word, str) and word]
