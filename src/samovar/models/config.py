"""What a decoder's config.json says, as one typed object. Every key is read, known to be harmless, or refused by name.

GGUF metadata is first brought into the same form by `samovar.models.gguf_config`.
"""

from dataclasses import dataclass, replace

from samovar.errors import FormatError, UnsupportedModel
from samovar.models.long_context import LongContext, read_long_context
from samovar.models.rope import Rope, read_rope

HARMLESS_KEYS = frozenset(
    {
        # bookkeeping of the files and of the library that wrote them
        "_name_or_path", "architectures", "auto_map", "dtype", "model_type", "torch_dtype", "transformers_version",
        # ids: the tokenizer and generation_config.json are read for these
        "bos_token_id", "eos_token_id", "pad_token_id",
        # training and reporting only
        "attention_dropout", "initializer_range", "output_attentions", "output_hidden_states", "pretraining_tp",
        "return_dict", "use_cache", "chunk_size_feed_forward", "id2label", "label2id", "is_encoder_decoder", "problem_type",
        "_attn_implementation_autoset", "unsloth_version", "unsloth_fixed",
        # read only together with a sliding window, which is refused
        "max_window_layers",
    }
)  # fmt: skip


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
class DecoderConfig:
    """Sizes and switches that decoders share. Widths in elements; `max_context` in tokens; `d_ffn` is that of dense layers.

    `long_context` is what goes beyond `max_context`, where something does.
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
    long_context: LongContext | None = None

    @property
    def product_weights(self) -> int:
        """Weights of the layers' matrices that one token is multiplied with, routers left out."""
        attention = self.d_model * (2 * self.n_heads + 2 * self.n_kv_heads) * self.d_head
        n_dense, active = self.n_layers, 0
        if self.experts is not None:
            n_dense = len(self.experts.dense_layers)
            active = (self.n_layers - n_dense) * self.experts.n_chosen * self.experts.d_ffn
        return self.n_layers * attention + 3 * self.d_model * (n_dense * self.d_ffn + active)


class ConfigReader:
    """Takes keys out of a raw config one by one, checking each; what is left over at the end is refused."""

    def __init__(self, raw: dict[str, object], where: str) -> None:
        self._rest = {key: value for key, value in raw.items() if key not in HARMLESS_KEYS}
        self.where = where

    def size(self, key: str, *, default: int | None = None, maximum: int = 1 << 24) -> int:
        """A positive whole number. A missing or null key takes the default, where there is one."""
        value = self._rest.pop(key, None)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= maximum:
            raise FormatError(f"{self.where}: {key} is {value!r}; expected a whole number from 1 to {maximum}")
        return value

    def number(self, key: str, *, default: float) -> float:
        """A positive number."""
        value = self._rest.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise FormatError(f"{self.where}: {key} is {value!r}; expected a positive number")
        return float(value)

    def switch(self, key: str, *, default: bool = False) -> bool:
        """True or false; null counts as the default."""
        value = self._rest.pop(key, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise FormatError(f"{self.where}: {key} is {value!r}; expected true or false")
        return value

    def take(self, key: str) -> object:
        """Whatever stands there, or None."""
        return self._rest.pop(key, None)

    def finish(self) -> None:
        """Refuse what nobody read. Null values say nothing and pass."""
        if unread := sorted(key for key, value in self._rest.items() if value is not None):
            raise UnsupportedModel(
                f"{self.where}: keys that this architecture does not read: {unread}; "
                "a model that needs them would answer wrongly, so it is not loaded"
            )


def read_decoder_config(
    raw: dict[str, object], where: str, *, attention_bias: bool = False, default_theta: float = 10_000.0
) -> DecoderConfig:
    """Read the keys that Llama-like decoders share, as transformers 4 or 5 writes them.

    `attention_bias` is the architecture's default for biases on the projections; a key of that name in the file wins.
    Raises FormatError for a missing or impossible value, UnsupportedModel for what this version does not compute.
    """
    reader = ConfigReader(raw, where)
    d_model, n_heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    n_kv_heads = reader.size("num_key_value_heads", default=n_heads)
    d_head = reader.size("head_dim", default=max(1, d_model // n_heads), maximum=1024)
    if n_heads % n_kv_heads:
        raise FormatError(f"{where}: {n_heads} attention heads do not divide among {n_kv_heads} key/value heads")
    if d_head % 4:
        raise UnsupportedModel(f"{where}: a head width of {d_head} is not implemented; expected a multiple of 4")
    activation = reader.take("hidden_act")
    if activation not in ("silu", None):
        raise UnsupportedModel(f"{where}: hidden_act {activation!r} is not implemented; expected 'silu'")
    max_context = reader.size("max_position_embeddings", default=2048, maximum=1 << 31)
    n_layers = reader.size("num_hidden_layers", maximum=1 << 12)
    _refuse_sliding_windows(reader, max_context)
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
        rope=_read_rope_keys(reader, d_head, max_context, default_theta),
        is_tied=reader.switch("tie_word_embeddings"),
        has_attention_bias=reader.switch("attention_bias", default=attention_bias),
        has_mlp_bias=reader.switch("mlp_bias"),
        max_context=max_context,
    )
    reader.finish()
    return replace(config, long_context=read_long_context(config.architecture, config.rope, max_context, where))


def _read_rope_keys(reader: ConfigReader, d_head: int, max_context: int, default_theta: float) -> Rope:
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
    if partial not in (None, 1, 1.0):
        raise UnsupportedModel(f"{reader.where}: partial_rotary_factor {partial!r} is not implemented; expected 1")
    if theta is not None and parameters.setdefault("rope_theta", theta) != theta:
        raise FormatError(f"{reader.where}: rope_theta is {theta!r}, and rope_parameters say {parameters['rope_theta']!r}")
    parameters.setdefault("rope_theta", default_theta)
    return read_rope(parameters, d_rotary=d_head, max_context=max_context, where=reader.where)


def _refuse_sliding_windows(reader: ConfigReader, max_context: int) -> None:
    """A window that never bites is accepted; one that would is refused, since attention here is full."""
    is_used = reader.take("use_sliding_window")
    window = reader.take("sliding_window")
    layer_types = reader.take("layer_types") or []
    if not isinstance(layer_types, list):
        raise FormatError(f"{reader.where}: layer_types is {layer_types!r}; expected a list")
    if others := sorted({str(kind) for kind in layer_types} - {"full_attention"}):
        raise UnsupportedModel(f"{reader.where}: layer_types {others} are not implemented; expected full_attention only")
    if not window or is_used is False:
        return
    if not isinstance(window, int) or window < max_context:
        raise UnsupportedModel(
            f"{reader.where}: sliding-window attention (sliding_window {window!r}, context {max_context}) is not implemented"
        )
