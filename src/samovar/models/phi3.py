"""Phi-3, Phi-3.5, Phi-4-mini and Phi-4: the layer of Llama, its matrices joined in files, and long contexts by LongRoPE.

Source: Phi-3 technical report (arXiv 2404.14219), section 2, and `transformers.models.phi3`. Queries, keys and values are one
tensor, and so are gate and up. A part of each head may stay unrotated. A text of more than `original_max_position_embeddings`
tokens is rotated by other factors than a shorter one, from its first token on: which ones is decided by the request, as
`models.long_context` has it.
"""

from dataclasses import replace

from samovar.errors import FormatError, UnsupportedModel
from samovar.models.blocks import AttentionProjections, GatedMlp, PlainLayer
from samovar.models.config import ConfigReader, DecoderConfig, read_decoder_config
from samovar.models.long_context import LongContext
from samovar.models.rope import read_longrope, read_rope, rotated_width
from samovar.models.weights import WeightSource

_OWN_KEYS = (
    "original_max_position_embeddings", "partial_rotary_factor", "rope_parameters", "rope_scaling", "rope_theta",
    "attention_factor", "short_factor", "long_factor", "resid_pdrop", "embd_pdrop",
)  # fmt: skip
_THETA = 10_000.0
_PUBLISHED: dict[str, object] = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_LONG = ("longrope", "su", "yarn")  # three names of one type, as transformers takes them


def read_config(raw: dict[str, object], where: str) -> DecoderConfig:
    """Where there are long factors, `max_context` is the length that the short ones serve. Raises as `read_decoder_config`."""
    own = ConfigReader({key: raw[key] for key in _OWN_KEYS if key in raw}, where)
    rest = {key: value for key, value in raw.items() if key not in _OWN_KEYS}
    config = read_decoder_config({**_PUBLISHED, **rest}, where, sliding="everywhere")
    if config.has_attention_bias or config.has_mlp_bias:
        raise UnsupportedModel(f"{where}: attention_bias and mlp_bias are not implemented for phi3; expected false")
    for of_training in ("resid_pdrop", "embd_pdrop"):
        own.take(of_training)
    parameters = _rope_parameters(own)
    original = own.size("original_max_position_embeddings", default=config.max_context, maximum=1 << 31)
    if (within := parameters.pop("original_max_position_embeddings", original)) != original:
        raise FormatError(f"{where}: original_max_position_embeddings is {original}, and rope parameters say {within!r}")
    d_rotary = rotated_width(parameters.pop("partial_rotary_factor", 1.0), config.d_head, where)
    own.finish()
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind not in _LONG:
        return replace(config, rope=read_rope(parameters, d_rotary=d_rotary, max_context=config.max_context, where=where))
    if original > config.max_context:
        raise FormatError(f"{where}: original_max_position_embeddings is {original}, and the context {config.max_context}")
    short, long = read_longrope(parameters, d_rotary=d_rotary, max_context=config.max_context, original=original, where=where)
    n_times = config.max_context // original  # a whole number in all releases; what is over is not used
    if n_times == 1:
        return replace(config, rope=short)
    reach = LongContext(native=original, trained=original, ropes={1: short, n_times: long})
    return replace(config, rope=short, max_context=original, long_context=reach)


def _rope_parameters(own: ConfigReader) -> dict[str, object]:
    """`rope_parameters` (transformers 5), or `rope_scaling` beside other keys (transformers 4), or what GGUF files say."""
    found: dict[str, object] = {}
    for key in ("rope_parameters", "rope_scaling"):
        value = own.take(key)
        if not isinstance(value, dict | None):
            raise FormatError(f"{own.where}: {key} is {value!r}; expected an object or null")
        found |= value or {}
    for key in ("rope_theta", "partial_rotary_factor", "attention_factor", "short_factor", "long_factor"):
        value = own.take(key)
        if value is not None and found.setdefault(key, value) != value:
            raise FormatError(f"{own.where}: {key} is {value!r}, and rope parameters say {found[key]!r}")
    found.setdefault("rope_theta", _THETA)
    if "long_factor" in found and found.get("rope_type", "default") == "default" and "type" not in found:
        found["rope_type"] = "longrope"
    return found


def load_layer(source: WeightSource, index: int, config: DecoderConfig) -> PlainLayer:
    """Take layer `index`."""
    name, d_model, d_ffn = f"model.layers.{index}", config.d_model, config.d_ffn
    d_query, d_key = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    q, k, v = source.split_projection(f"{name}.self_attn.qkv_proj", {"q": d_query, "k": d_key, "v": d_key}, d_model)
    gate, up = source.split_projection(f"{name}.mlp.gate_up_proj", {"gate": d_ffn, "up": d_ffn}, d_model)
    return PlainLayer(
        attention_norm_D=source.vector(f"{name}.input_layernorm.weight", d_model),
        attention=AttentionProjections(
            q=q, k=k, v=v, o=source.projection(f"{name}.self_attn.o_proj", d_model, d_query, has_bias=False)
        ),
        mlp_norm_D=source.vector(f"{name}.post_attention_layernorm.weight", d_model),
        mlp=GatedMlp(gate=gate, up=up, down=source.projection(f"{name}.mlp.down_proj", d_model, d_ffn, has_bias=False)),
        norm_eps=config.norm_eps,
        d_head=config.d_head,
        window=config.window_of(index),
    )
