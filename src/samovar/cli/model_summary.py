"""What the headers of a checkpoint say about the model in it. Tensor data is not read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from samovar.engine.page_pool import n_pages_for
from samovar.errors import UnsupportedModel
from samovar.formats import Checkpoint
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.hf_folder import HfCheckpoint
from samovar.kernels import KvType
from samovar.llm.memory import kv_page_bytes
from samovar.llm.setup import kv_type_for
from samovar.models.config import DecoderConfig
from samovar.models.loader import read_config
from samovar.tensors.dtypes import TensorType
from samovar.tensors.stored import Tensor

_CONTEXTS = (4_096, 32_768)
_EMBEDDINGS = ("token_embd.weight", "model.embed_tokens.weight", "embed_tokens.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeShare:
    """The tensors of one storage type, summed up."""

    type: TensorType
    n_tensors: int
    n_elements: int
    size_bytes: int

    @property
    def packed_bytes(self) -> int:
        """What they take in the compute layout."""
        return self.n_elements // self.type.block_elements * self.type.packed_block_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """Bytes for weights, and for keys and values at a context in tokens."""

    context: int
    weights_bytes: int
    kv_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """A model file or folder in figures.

    `config` is None where this version cannot run the model, and `refusal` says why then. `types` is sorted by size.
    """

    path: Path
    format: str
    name: str | None
    architecture: str
    size_bytes: int
    types: tuple[TypeShare, ...]
    config: DecoderConfig | None
    refusal: str | None
    tokenizer: str
    n_vocabulary: int | None
    template: str | None
    kv_type: KvType
    memory: tuple[MemoryNeed, ...]

    @property
    def n_parameters(self) -> int:
        """Values in all tensors."""
        return sum(share.n_elements for share in self.types)


def summarise(checkpoint: Checkpoint) -> ModelSummary:
    """Raises FormatError where the config contradicts itself; what is only not implemented ends up in `refusal`."""
    config, refusal = None, None
    try:
        config = read_config(checkpoint)
    except UnsupportedModel as error:
        refusal = str(error)
    types = _sum_up(checkpoint.tensors)
    weights_bytes = sum(share.packed_bytes for share in types)
    embedding = next((checkpoint.tensors[name] for name in _EMBEDDINGS if name in checkpoint.tensors), None)
    kv_type = kv_type_for(embedding.type.name if embedding else "")
    of_format = _gguf_parts(checkpoint) if isinstance(checkpoint, GgufCheckpoint) else _hf_parts(checkpoint)
    return ModelSummary(
        path=checkpoint.path,
        format=of_format.format,
        name=of_format.name,
        architecture=of_format.architecture,
        size_bytes=checkpoint.size_bytes,
        types=types,
        config=config,
        refusal=refusal,
        tokenizer=of_format.tokenizer,
        n_vocabulary=of_format.n_vocabulary,
        template=of_format.template,
        kv_type=kv_type,
        memory=_memory_needs(config, weights_bytes, kv_type) if config else (),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _FormatParts:
    """What the two formats keep in different places."""

    format: str
    name: str | None
    architecture: str
    tokenizer: str
    n_vocabulary: int | None
    template: str | None


def _gguf_parts(checkpoint: GgufCheckpoint) -> _FormatParts:
    metadata = checkpoint.metadata
    tokens = metadata.get("tokenizer.ggml.tokens")
    names = (_text(metadata, "tokenizer.ggml.model"), _text(metadata, "tokenizer.ggml.pre"))
    return _FormatParts(
        format=f"GGUF version {checkpoint.version}",
        name=_text(metadata, "general.name"),
        architecture=_text(metadata, "general.architecture") or "not stated",
        tokenizer=", ".join(name for name in names if name) or "none",
        n_vocabulary=len(tokens) if isinstance(tokens, list) else None,
        template=_text(metadata, "tokenizer.chat_template"),
    )


def _hf_parts(checkpoint: HfCheckpoint) -> _FormatParts:
    n_vocabulary = checkpoint.config.get("vocab_size")
    kind = _text(checkpoint.tokenizer_config, "tokenizer_class") or "tokenizer.json"
    return _FormatParts(
        format="Hugging Face folder" + (f", {checkpoint.quantisation.method}" if checkpoint.quantisation else ""),
        name=checkpoint.path.resolve().name,
        architecture=_text(checkpoint.config, "model_type") or "not stated",
        tokenizer=kind if checkpoint.tokenizer_json else "none",
        n_vocabulary=n_vocabulary if isinstance(n_vocabulary, int) else None,
        template=checkpoint.chat_template,
    )


def _text(mapping: Mapping[str, object], key: str) -> str | None:
    value = mapping.get(key)
    return value if isinstance(value, str) else None


def _sum_up(tensors: Mapping[str, Tensor]) -> tuple[TypeShare, ...]:
    by_type: dict[TensorType, list[Tensor]] = {}
    for tensor in tensors.values():
        by_type.setdefault(tensor.type, []).append(tensor)
    shares = [
        TypeShare(
            type=kind,
            n_tensors=len(group),
            n_elements=sum(t.n_elements for t in group),
            size_bytes=sum(t.size_bytes for t in group),
        )
        for kind, group in by_type.items()
    ]
    return tuple(sorted(shares, key=lambda share: (-share.size_bytes, share.type.name)))


def _memory_needs(config: DecoderConfig, weights_bytes: int, kv_type: KvType) -> tuple[MemoryNeed, ...]:
    contexts = [n for n in _CONTEXTS if n < config.max_context] + [config.max_context]
    page_bytes, state_bytes = kv_page_bytes(config, kv_type), config.state_bytes
    return tuple(
        MemoryNeed(context=n, weights_bytes=weights_bytes, kv_bytes=n_pages_for(n) * page_bytes + state_bytes) for n in contexts
    )


def _experts(config: DecoderConfig) -> dict[str, object] | None:
    """What the config says of experts; None for a dense model."""
    if (experts := config.experts) is None:
        return None
    return {
        "n_experts": experts.n_experts,
        "n_chosen": experts.n_chosen,
        "d_ffn": experts.d_ffn,
        "is_renormalised": experts.is_renormalised,
        "n_dense_layers": len(experts.dense_layers),
    }


def to_json(summary: ModelSummary) -> dict[str, object]:
    """The summary as what becomes one JSON object; sizes in bytes, contexts in tokens."""
    config = summary.config
    sizes = ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ffn", "vocab_size", "is_tied", "max_context")
    return {
        "path": str(summary.path),
        "format": summary.format,
        "name": summary.name,
        "architecture": summary.architecture,
        "is_supported": summary.refusal is None,
        "refusal": summary.refusal,
        "n_parameters": summary.n_parameters,
        "size_bytes": summary.size_bytes,
        "config": {name: getattr(config, name) for name in sizes} | {"experts": _experts(config)} if config else None,
        "types": [
            {
                "type": share.type.name,
                "n_tensors": share.n_tensors,
                "n_parameters": share.n_elements,
                "size_bytes": share.size_bytes,
                "bits_per_weight": share.type.bits_per_weight,
            }
            for share in summary.types
        ],
        "tokenizer": {"kind": summary.tokenizer, "n_vocabulary": summary.n_vocabulary},
        "template": summary.template,
        "memory": [
            {
                "context": need.context,
                "weights_bytes": need.weights_bytes,
                "kv_bytes": need.kv_bytes,
                "kv_type": summary.kv_type,
            }
            for need in summary.memory
        ],
    }
