"""What a decoder's config.json says, as one typed object. Every key is read, known to be harmless, or refused by name.

GGUF metadata is first brought into the same form by `samovar.models.gguf_config`.
"""

from dataclasses import dataclass, replace

from samovar.errors import FormatError, UnsupportedModel
from samovar.models.config_reader import HARMLESS_KEYS, ConfigReader
from samovar.models.long_context import LongContext, read_long_context
from samovar.models.outputs import VOCABULARY, Outputs
from samovar.models.rope import Rope, read_rope, rotated_width
from samovar.models.windows import Sliding, read_windows

__all__ = [
    "HARMLESS_KEYS", "ConfigReader", "DecoderConfig", "DeltaNetConfig", "ExpertsConfig", "read_decoder_config",
    "read_rope_keys",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """The feed-forward layers of which each token takes a few of many: all but `dense_layers`.

    `n_chosen` experts of width `d_ffn` compute a token; `is_renormalised` says that their weights sum up to 1.
    """

    n_experts: int
    n_chosen: int
    d_ffn: int
    is_renormalised: bool
    dense_layers: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaNetConfig:
    """The layers that are gated delta nets instead of attention, by their numbers, and the sizes of their heads.

    `n_taps` inputs are convolved. They keep a state for each sequence instead of keys and values.
    """

    layers: frozenset[int]
    n_key_heads: int
    n_value_heads: int
    d_key: int
    d_value: int
    n_taps: int

    @property
    def d_values(self) -> int:
        """Width of the values of all heads."""
        return self.n_value_heads * self.d_value

    @property
    def n_channels(self) -> int:
        """Width of queries, keys and values of all heads, which is what is convolved."""
        return 2 * self.n_key_heads * self.d_key + self.d_values

    @property
    def state_bytes(self) -> int:
        """Bytes of one sequence's state, over all these layers."""
        return 4 * len(self.layers) * ((self.n_taps - 1) * self.n_channels + self.d_values * self.d_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Sizes and switches that decoders share. Widths in elements; `max_context` in tokens; `d_ffn` is that of dense layers.

    `windows` are those of the layers, see `models.windows`; () where all layers see all positions. `local_rope` is that of the
    layers with a window, where it is another. `attention_scale` None is 1 / sqrt(head width). Where norms are centred, files
    hold how far their weights are from 1. Embeddings are multiplied by `embedding_scale`, rounded to their own type.
    `long_context` is what goes beyond `max_context`, where something does. `d_shared_expert` is the width of an expert that
    computes every token beside those chosen, 0 for none.
    """

    architecture: str
    vocab_size: int
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ffn: int
    norm_eps: float
    rope: Rope
    is_tied: bool
    has_attention_bias: bool
    has_mlp_bias: bool
    max_context: int
    experts: ExpertsConfig | None = None
    windows: tuple[int | None, ...] = ()
    local_rope: Rope | None = None
    attention_scale: float | None = None
    has_centred_norms: bool = False
    embedding_scale: float = 1.0
    outputs: Outputs = VOCABULARY
    long_context: LongContext | None = None
    delta_net: DeltaNetConfig | None = None
    d_shared_expert: int = 0

    @property
    def n_kv_layers(self) -> int:
        """Layers that keep keys and values."""
        return self.n_layers - (0 if self.delta_net is None else len(self.delta_net.layers))

    @property
    def state_bytes(self) -> int:
        """Bytes that a sequence takes beside its keys and values, however long it is."""
        return 0 if self.delta_net is None else self.delta_net.state_bytes

    def window_of(self, layer: int) -> int | None:
        """How many positions a token of this layer attends to, its own the last; None for all."""
        return self.windows[layer] if self.windows else None

    @property
    def product_weights(self) -> int:
        """Weights of the layers' matrices that one token is multiplied with, routers left out."""
        d_attention = (2 * self.n_heads + 2 * self.n_kv_heads) * self.d_head * self.n_kv_layers
        if (net := self.delta_net) is not None:
            d_attention += self.n_heads * self.d_head * self.n_kv_layers  # the gate of outputs
            d_attention += (net.n_channels + 2 * net.d_values + 2 * net.n_value_heads) * len(net.layers)
        n_dense, active = self.n_layers, 0
        if self.experts is not None:
            n_dense = len(self.experts.dense_layers)
            active = (self.n_layers - n_dense) * (self.experts.n_chosen * self.experts.d_ffn + self.d_shared_expert)
        return self.d_model * (d_attention + 3 * (n_dense * self.d_ffn + active))


def read_decoder_config(
    raw: dict[str, object],
    where: str,
    *,
    attention_bias: bool = False,
    default_theta: float = 10_000.0,
    sliding: Sliding = "never",
    is_partly_rotated: bool = False,
) -> DecoderConfig:
    """Read the keys that Llama-like decoders share, as transformers 4 or 5 writes them.

    `attention_bias` is the architecture's default for biases on the projections; a key of that name in the file wins.
    `sliding` says which layers have a window where the config has one, `is_partly_rotated` whether a part of each head may
    stay unrotated.
    Raises FormatError for a missing or impossible value, UnsupportedModel for what this version does not compute.
    """
    reader = ConfigReader(raw, where)
    d_model, n_heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    n_kv_heads = reader.size("num_key_value_heads", default=n_heads)
    d_head = reader.size("head_dim", default=max(1, d_model // n_heads), maximum=1024)
    if n_heads % n_kv_heads:
        raise FormatError(
            f"{where}: {n_heads} attention heads do not divide among {n_kv_heads} key/value heads; get the config again"
        )
    if d_head % 4:
        raise UnsupportedModel(f"{where}: a head width of {d_head} is not implemented; expected a multiple of 4")
    activation = reader.take("hidden_act")
    if activation not in ("silu", None):
        raise UnsupportedModel(f"{where}: hidden_act {activation!r} is not implemented; expected 'silu'")
    max_context = reader.size("max_position_embeddings", default=2048, maximum=1 << 31)
    n_layers = reader.size("num_hidden_layers", maximum=1 << 12)
    config = DecoderConfig(
        architecture=str(raw.get("model_type")),
        vocab_size=reader.size("vocab_size"),
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        d_ffn=reader.size("intermediate_size"),
        norm_eps=reader.number("rms_norm_eps", default=1e-6),
        rope=read_rope_keys(reader, d_head, max_context, default_theta, is_partial=is_partly_rotated),
        windows=read_windows(reader, n_layers, max_context, sliding),
        is_tied=reader.switch("tie_word_embeddings"),
        has_attention_bias=reader.switch("attention_bias", default=attention_bias),
        has_mlp_bias=reader.switch("mlp_bias"),
        max_context=max_context,
    )
    reader.finish()
    return replace(config, long_context=read_long_context(config.architecture, config.rope, max_context, where))


def read_rope_keys(
    reader: ConfigReader, d_head: int, max_context: int, default_theta: float, *, is_partial: bool = False
) -> Rope:
    """`rope_parameters` (transformers 5) or `rope_theta` beside `rope_scaling` (transformers 4)."""
    theta, partial = reader.take("rope_theta"), reader.take("partial_rotary_factor")
    found = {key: value for key in ("rope_parameters", "rope_scaling") if (value := reader.take(key)) is not None}
    parameters: dict[str, object] = {}
    for key, value in found.items():
        if not isinstance(value, dict):
            raise FormatError(f"{reader.where}: {key} is {value!r}; expected an object or null")
        if parameters and parameters != value:
            raise FormatError(f"{reader.where}: rope_parameters and rope_scaling contradict each other; remove one")
        parameters = dict(value)
    partial = parameters.pop("partial_rotary_factor", partial)
    if partial not in (None, 1, 1.0) and not is_partial:
        raise UnsupportedModel(f"{reader.where}: partial_rotary_factor {partial!r} is not implemented; expected 1")
    if theta is not None and parameters.setdefault("rope_theta", theta) != theta:
        raise FormatError(f"{reader.where}: rope_theta is {theta!r}, and rope_parameters say {parameters['rope_theta']!r}")
    parameters.setdefault("rope_theta", default_theta)
    d_rotary = rotated_width(1 if partial is None else partial, d_head, reader.where)
    return read_rope(parameters, d_rotary=d_rotary, max_context=max_context, where=reader.where)
