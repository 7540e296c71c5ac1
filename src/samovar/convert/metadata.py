"""The metadata of a GGUF file that is written from a model: that of its source, where that is GGUF too, to the byte."""

from pathlib import Path
from typing import Final

from samovar.convert.card import keys_of_card
from samovar.convert.config_keys import config_keys
from samovar.convert.importance import Importance
from samovar.convert.source import SourceModel
from samovar.convert.text_scoring import scoring_keys
from samovar.convert.vocabulary_keys import vocabulary_keys
from samovar.formats import Checkpoint
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.gguf_header import read_encoded_metadata
from samovar.formats.gguf_values import EncodedValue, Kind, encode_as
from samovar.formats.hf_folder import CONFIG, HfCheckpoint
from samovar.models.gguf_config import gguf_architecture

_NOT_COPIED: Final = ("split.", "general.alignment", "general.file_type", "general.quantization_version", "quantize.imatrix.")
_SAMPLING: Final[dict[str, tuple[str, Kind]]] = {
    "temperature": ("temp", "f32"),
    "top_k": ("top_k", "i32"),
    "top_p": ("top_p", "f32"),
    "min_p": ("min_p", "f32"),
    "repetition_penalty": ("penalty_repeat", "f32"),
}
_BLOCK_LAYOUTS: Final = 2  # `general.quantization_version` of today's block types (ggml's GGML_QNT_VERSION)


def file_metadata(
    checkpoint: Checkpoint, source: SourceModel, file_type: int, importance: Importance | None = None
) -> dict[str, EncodedValue]:
    """All keys for a file of `file_type` (llama.cpp's number for a mix of types). Raises FormatError or UnsupportedModel."""
    if isinstance(checkpoint, GgufCheckpoint):
        first = checkpoint.files[0]
        encoded = read_encoded_metadata(first.path, first.memory)
        keys = {k: EncodedValue(v) for k, v in encoded.items() if not k.startswith(_NOT_COPIED)}
    else:
        keys = _of_folder(checkpoint, source)
    keys["general.architecture"] = encode_as("string", gguf_architecture(source.config.architecture))
    keys["general.quantization_version"] = encode_as("u32", _BLOCK_LAYOUTS)
    keys["general.file_type"] = encode_as("u32", file_type)
    if importance is not None:
        keys["quantize.imatrix.dataset"] = encode_as("string", Path(importance.origin).name)  # other folders say nothing here
        keys["quantize.imatrix.entries_count"] = encode_as("i32", len(importance.mean_squares))
    return keys


def _of_folder(checkpoint: HfCheckpoint, source: SourceModel) -> dict[str, EncodedValue]:
    """Name, what the card says, sizes, sampling, tokenizer, templates, kept values, how vectors and scores are made."""
    keys = config_keys(checkpoint.config, source, str(checkpoint.path / CONFIG))
    keys["general.type"] = encode_as("string", "model")
    keys["general.name"] = encode_as("string", checkpoint.path.resolve().name)
    defaults = checkpoint.generation_config
    for key, (name, kind) in _SAMPLING.items():
        value = defaults.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and defaults.get("do_sample") is not False:
            keys[f"general.sampling.{name}"] = encode_as(kind, value)
    if defaults.get("do_sample") is False:
        keys["general.sampling.temp"] = encode_as("f32", 0.0)
    keys |= keys_of_card(checkpoint.path) | vocabulary_keys(checkpoint, source.config.vocab_size)
    keys |= {key: encode_as("string", text) for key, text in source.kept.items()}
    return keys if source.scoring is None else keys | scoring_keys(source.scoring)
