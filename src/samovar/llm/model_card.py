"""What a model is, its weights apart: sizes, format, tokenizer and template, read without loading it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from samovar.errors import BadRequest, SamovarError
from samovar.formats import Checkpoint, open_checkpoint
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.hub import default_cache, default_store, resolve
from samovar.formats.mapped_file import MappedFile, identity_of
from samovar.llm.fill_in import can_fill_in
from samovar.llm.model_text import ModelText, RenderSettings, read_model_text
from samovar.llm.options import Defaults, own_defaults
from samovar.llm.recipe import EmbeddingRecipe, Recipe, RerankRecipe, read_recipe
from samovar.models.config import DecoderConfig
from samovar.models.loader import read_config

Capability = Literal["completion", "tools", "thinking", "insert", "embedding", "rerank"]

# `general.file_type` of a GGUF file: llama.cpp's names for mixtures of types (include/llama.h).
_FILE_TYPES: Final[Mapping[object, str]] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 21: "Q2_K_S", 25: "IQ4_NL",
    30: "IQ4_XS", 32: "BF16", 38: "MXFP4_MOE", 39: "NVFP4",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """`quantization` is the type of the weights, in llama.cpp's words; `files` are those of the weights; `recipe` is how it
    makes vectors or scores, None for a model that writes text."""

    container: Literal["gguf", "safetensors"]
    config: DecoderConfig
    text: ModelText
    n_parameters: int
    quantization: str
    files: tuple[MappedFile, ...]
    recipe: Recipe | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def changed_s(self) -> float:
        """When the files were last written (time.time)."""
        return max(file.changed_s for file in self.files)

    @cached_property
    def identity(self) -> str:
        """Stands for the files' bytes, see `MappedFile.identity`."""
        return identity_of(self.files)

    @cached_property
    def thinks(self) -> bool:
        """Whether an answer begins with thoughts where nobody says anything about it."""
        if self.text.template_source is None:
            return False
        try:
            return self.text.render([{"role": "user", "content": "?"}], RenderSettings()).is_thinking
        except SamovarError:  # a template that takes no such conversation; a chat says why
            return False

    @property
    def writes_text(self) -> bool:
        """Whether it has an output head, and was not trained to make vectors alone."""
        return self.config.outputs.kind == "vocabulary" and not isinstance(self.recipe, EmbeddingRecipe)

    def check_writes_text(self) -> None:
        """Raises BadRequest for a model that writes none."""
        if not self.writes_text:
            what = (
                "embedding model, which makes vectors (embed)"
                if isinstance(self.recipe, EmbeddingRecipe)
                else ("classifier, which scores texts (rerank)")
            )
            kind = "an" if what.startswith("e") else "a"
            raise BadRequest(
                f"{self.text.origin} is {kind} {what} and writes no text: use a chat model for this", param="model"
            )

    @cached_property
    def capabilities(self) -> tuple[Capability, ...]:
        """What requests can ask of it."""
        source, tokenizer = self.text.template_source or "", self.text.tokenizer
        found: dict[Capability, bool] = {
            "completion": self.writes_text,
            "tools": self.writes_text and "tool_calls" in source and "tools" in source,
            "thinking": self.writes_text and (self.thinks or "enable_thinking" in source),
            "insert": self.writes_text and can_fill_in(tokenizer),
            "embedding": isinstance(self.recipe, EmbeddingRecipe),
            "rerank": isinstance(self.recipe, RerankRecipe),
        }
        return tuple(name for name, is_there in found.items() if is_there)

    @cached_property
    def defaults(self) -> Defaults:
        """Where sampling values come from that a request does not give. Raises FormatError for some out of range."""
        own = own_defaults(self.text.generation_config, self.text.metadata, self.text.origin)
        return Defaults(own=own, architecture=self.config.architecture, is_coder=self.text.is_coder)

    @property
    def sampling(self) -> Mapping[str, float]:
        """The sampling values used where a request gives none."""
        return self.defaults.sampling(is_thinking=self.thinks)


def quantization_of(checkpoint: Checkpoint) -> str:
    """The type of the weights: the mixture that a GGUF file names, else the one that takes most bytes."""
    if isinstance(checkpoint, GgufCheckpoint) and (named := _FILE_TYPES.get(checkpoint.metadata.get("general.file_type"))):
        return named
    bytes_by_type: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        bytes_by_type[tensor.type.name] += tensor.size_bytes
    return bytes_by_type.most_common(1)[0][0] if bytes_by_type else "none"


def read_card(checkpoint: Checkpoint, config: DecoderConfig, text: ModelText) -> ModelCard:
    """The card of an open checkpoint."""
    return ModelCard(
        container="gguf" if isinstance(checkpoint, GgufCheckpoint) else "safetensors",
        config=config,
        text=text,
        n_parameters=sum(tensor.n_elements for tensor in checkpoint.tensors.values()),
        quantization=quantization_of(checkpoint),
        files=checkpoint.files,
        recipe=read_recipe(checkpoint, config, text.tokenizer, text.template_source),
    )


def card_at(path_or_name: str) -> ModelCard:
    """The card of a model file, folder, or name in the store. Raises a SamovarError for whatever is wrong with it."""
    cache = default_cache()
    checkpoint = open_checkpoint(resolve(path_or_name, default_store()), cache)
    return read_card(checkpoint, read_config(checkpoint), read_model_text(checkpoint, cache))
