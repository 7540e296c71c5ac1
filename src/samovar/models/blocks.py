"""The pieces that dense decoders are made of, and the frame that joins them. No caches and no kernels here.

`ops` computes, `attend` knows where keys and values live; both are arguments. Shape letters: see `samovar.kernels`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samovar.kernels import Activation, DeltaNet, Linear, Ops
from samovar.models.config import DecoderConfig
from samovar.models.lora import AdaptedRows
from samovar.models.weights import Projection, WeightSource
from samovar.tensors.dtypes import F16 as F16_TYPE
from samovar.tensors.dtypes import F32 as F32_TYPE
from samovar.tensors.dtypes import TensorType
from samovar.tensors.stored import StoredTensor

F32 = NDArray[np.float32]


class Attend(Protocol):
    """(layer, q_THK, k_TGK, v_TGK) -> o_THK: stores the keys and values, and attends to what precedes.

    That is all, or the last `window` positions, the token's own among them. `scale` None is 1 / sqrt(head width). Layers are
    counted among those that keep keys and values.
    """

    def __call__(
        self, layer: int, q_THK: F32, k_TGK: F32, v_TGK: F32, /, *, scale: float | None = None, window: int | None = None
    ) -> F32: ...

    def recur(self, layer: int, x_TM: F32, gates_TM: F32, net: DeltaNet, /) -> F32:
        """[T, H, U]: x convolved, and what the sequences' memories answer to it, see `Ops.delta_rule`; their states go on.

        Layers are counted among those that have such states.
        """
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """What every layer of one pass shares. `adapted` names the rows that adapters change; most passes have none. `local` are
    the cosines and sines of layers with a window, in models that rotate those by other angles."""

    ops: Ops
    attend: Attend
    cos_TR: F32
    sin_TR: F32
    adapted: tuple[AdaptedRows, ...] = ()
    local: tuple[F32, F32] | None = None


class Layer(Protocol):
    """One decoder layer: hidden states in, hidden states out."""

    def __call__(self, index: int, x_TD: F32, step: Step) -> F32: ...


Norm = tuple[F32, float]
"""Weight [D] and epsilon of an RMS norm."""

Mlp = Callable[[Step, F32, Norm], F32]
"""(step, x_TD, norm) -> x_TD: what a feed-forward block makes of the normalised input, added to the input."""


def project(step: Step, x_TD: F32, norm: Norm, *projections: Projection) -> tuple[F32, ...]:
    """The projections of the normalised input, biases and adapters added."""
    weights, biases = tuple(p.weight for p in projections), tuple(p.bias_N for p in projections)
    outs_TN = step.ops.linears(x_TD, weights, biases, norm=norm)
    for part in step.adapted:
        part.add(step.ops, projections, outs_TN, x_TD, norm=norm)
    return outs_TN


def project_onto(
    residual_TN: F32 | None,
    step: Step,
    x_TD: F32,
    projection: Projection,
    *,
    gate_TD: F32 | None = None,
    activation: Activation = "silu",
) -> F32:
    """The residual, where there is one, + the projection of x, or of activation(gate) * x; bias and adapters added."""
    out_TN = step.ops.linear(
        x_TD, projection.weight, projection.bias_N, gate_TD=gate_TD, activation=activation, residual_TN=residual_TN
    )
    for part in step.adapted:
        part.add(step.ops, (projection,), (out_TN,), x_TD, gate_TD=gate_TD, activation=activation)
    return out_TN


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedMlp:
    """x + down(activation(gate(norm(x))) * up(norm(x))) (Shazeer, 2020, arXiv 2002.05202)."""

    gate: Projection
    up: Projection
    down: Projection

    @classmethod
    def load(cls, source: WeightSource, name: str, config: DecoderConfig) -> "GatedMlp":
        """Take the three projections under `name`."""
        wide, narrow, has_bias = config.d_ffn, config.d_model, config.has_mlp_bias
        return cls(
            gate=source.projection(f"{name}.gate_proj", wide, narrow, has_bias=has_bias),
            up=source.projection(f"{name}.up_proj", wide, narrow, has_bias=has_bias),
            down=source.projection(f"{name}.down_proj", narrow, wide, has_bias=has_bias),
        )

    def __call__(self, step: Step, x_TD: F32, norm: Norm) -> F32:
        """[T, D] to [T, D]."""
        gate_TF, up_TF = project(step, x_TD, norm, self.gate, self.up)
        return project_onto(x_TD, step, up_TF, self.down, gate_TD=gate_TF)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionProjections:
    """Queries, keys, values and output of grouped-query attention."""

    q: Projection
    k: Projection
    v: Projection
    o: Projection

    @classmethod
    def load(cls, source: WeightSource, name: str, config: DecoderConfig, *, has_output_bias: bool) -> "AttentionProjections":
        """Take the four projections under `name`; whether q, k and v have biases is in the config."""
        width, has_bias = config.d_model, config.has_attention_bias
        d_query, d_key = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
        return cls(
            q=source.projection(f"{name}.q_proj", d_query, width, has_bias=has_bias),
            k=source.projection(f"{name}.k_proj", d_key, width, has_bias=has_bias),
            v=source.projection(f"{name}.v_proj", d_key, width, has_bias=has_bias),
            o=source.projection(f"{name}.o_proj", width, d_query, has_bias=has_output_bias),
        )

    def heads(self, step: Step, x_TD: F32, norm: Norm, d_head: int) -> tuple[F32, F32, F32]:
        """q_THK, k_TGK and v_TGK of the normalised input, before their own norms and rotation."""
        q, k, v = (out.reshape(len(x_TD), -1, d_head) for out in project(step, x_TD, norm, self.q, self.k, self.v))
        return q, k, v

    def output(self, step: Step, o_THK: F32, x_TD: F32) -> F32:
        """x + the output projection of [T, H, K]."""
        return project_onto(x_TD, step, o_THK.reshape(len(o_THK), -1), self.o)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainLayer:
    """The Llama layer: norm, rotated grouped-query attention, norm, gated MLP, each added to its input."""

    attention_norm_D: F32
    attention: AttentionProjections
    mlp_norm_D: F32
    mlp: GatedMlp
    norm_eps: float
    d_head: int
    window: int | None

    @classmethod
    def load(cls, source: WeightSource, index: int, config: DecoderConfig, *, has_output_bias: bool) -> "PlainLayer":
        """Take layer `index`."""
        name = f"model.layers.{index}"
        return cls(
            attention_norm_D=source.vector(f"{name}.input_layernorm.weight", config.d_model),
            attention=AttentionProjections.load(source, f"{name}.self_attn", config, has_output_bias=has_output_bias),
            mlp_norm_D=source.vector(f"{name}.post_attention_layernorm.weight", config.d_model),
            mlp=GatedMlp.load(source, f"{name}.mlp", config),
            norm_eps=config.norm_eps,
            d_head=config.d_head,
            window=config.window_of(index),
        )

    def __call__(self, index: int, x_TD: F32, step: Step) -> F32:
        """[T, D] to [T, D]."""
        ops, eps = step.ops, self.norm_eps
        q_THK, k_TGK, v_TGK = self.attention.heads(step, x_TD, (self.attention_norm_D, eps), self.d_head)
        q_THK, k_TGK = (ops.rope(heads, step.cos_TR, step.sin_TR) for heads in (q_THK, k_TGK))
        x_TD = self.attention.output(step, step.attend(index, q_THK, k_TGK, v_TGK, window=self.window), x_TD)
        return self.mlp(step, x_TD, (self.mlp_norm_D, eps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Embedding, layers, final norm and output head. The head is the embedding's own matrix where the two are tied; models
    that make vectors may have none, and those that score texts have `labels` in its place (see `models.outputs`).

    `projections` are the linear layers but for the head and experts, by Hugging Face name: (n_out, n_in). `read_bytes` are
    those of `packed_bytes` that one token needs.
    `wait(n)` returns when layer n, or the head for n = the number of layers, can be computed on.
    """

    config: DecoderConfig
    ops: Ops
    embedding: StoredTensor
    layers: tuple[Layer, ...]
    norm_D: F32
    head: Linear | None
    labels: Projection | None
    packed_bytes: int
    read_bytes: int
    projections: Mapping[str, tuple[int, int]]
    wait: Callable[[int], None]
    embedding_scale: float = 1.0

    def __call__(
        self,
        ids_T: NDArray[np.int64],
        positions_T: NDArray[np.int64],
        attend: Attend,
        rows_S: NDArray[np.int64],
        adapted: tuple[AdaptedRows, ...] = (),
        factors_T: NDArray[np.int64] | None = None,
    ) -> F32:
        """Logits [S, V] after the tokens at `rows_S` of this pass; `positions_T` are positions in their sequences, `factors_T`
        as in `angles`."""
        step = Step(self.ops, attend, *self.angles(positions_T, factors_T), adapted, self.local_angles(positions_T))
        return self.logits(self.hidden(ids_T, rows_S, step), self.ops)

    def angles(self, positions_T: NDArray[np.int64], factors_T: NDArray[np.int64] | None = None) -> tuple[F32, F32]:
        """Cosines and sines [T, R] of the rotation at these positions, by each one's YaRN factor (`models.long_context`); all 1
        where none are given."""
        if factors_T is None:
            return self.config.rope.tables(positions_T)
        assert self.config.long_context is not None
        return self.config.long_context.tables(positions_T, factors_T)

    def local_angles(self, positions_T: NDArray[np.int64]) -> tuple[F32, F32] | None:
        """Those of layers with a window, where they are others."""
        return None if self.config.local_rope is None else self.config.local_rope.tables(positions_T)

    def hidden(self, ids_T: NDArray[np.int64], rows_S: NDArray[np.int64], step: Step) -> F32:
        """[S, D]: the rows `rows_S` after the last layer, by `step.ops`."""
        x_TD = step.ops.embed(self.embedding, ids_T, self.embedding_scale)
        for index, layer in enumerate(self.layers):
            self.wait(index)
            x_TD = layer(index, x_TD, step)
        return step.ops.take_rows(x_TD, rows_S)

    def normalised(self, x_SD: F32) -> F32:
        """[S, D]: rows of `hidden` after the final norm, which is what an embedding is made of."""
        return self.ops.rms_norm(x_SD, self.norm_D, self.config.norm_eps)

    def logits(self, x_SD: F32, ops: Ops) -> F32:
        """Logits [S, V] of the rows of `hidden`, in one call of `ops`; none for no rows."""
        if not len(x_SD):
            return np.empty((0, self.config.vocab_size), np.float32)
        assert self.head is not None, "whoever asks for text looks at config.outputs first"
        self.wait(len(self.layers))
        (out_SV,) = ops.linears(x_SD, (self.head,), norm=(self.norm_D, self.config.norm_eps))
        return out_SV

    def label_logits(self, normalised_SD: F32) -> F32:
        """Logits [S, L] of the classifier, of rows after the final norm. For models whose outputs are labels alone."""
        assert self.labels is not None, "whoever asks for labels looks at config.outputs first"
        self.wait(len(self.layers))
        (out_SL,) = self.ops.linears(normalised_SD, (self.labels.weight,), (self.labels.bias_N,))
        return out_SL


def _no_wait(part: int) -> None:
    """For weights that were packed at once."""


def load_decoder(
    config: DecoderConfig,
    source: WeightSource,
    ops: Ops,
    load_layer: Callable[[WeightSource, int, DecoderConfig], Layer],
    wait: Callable[[int], None] = _no_wait,
) -> Decoder:
    """Take every tensor of a decoder; `load_layer` takes those of one layer. Raises FormatError for any that does not fit."""
    shape = (config.vocab_size, config.d_model)
    embedding = source.stored("model.embed_tokens.weight", shape)
    layers = []
    for index in range(config.n_layers):
        layers.append(load_layer(source, index, config))
        source.end_part()
    norm_D = source.norm("model.norm.weight", config.d_model)
    head, labels = _load_outputs(config, source, embedding)
    source.finish()
    return Decoder(
        config=config,
        ops=ops,
        embedding=embedding,
        layers=tuple(layers),
        norm_D=norm_D,
        head=head,
        labels=labels,
        packed_bytes=source.packed_bytes,
        read_bytes=source.read_bytes,
        projections=source.projections,
        wait=wait,
        embedding_scale=rounded_scale(config.embedding_scale, embedding.type),
    )


def rounded_scale(scale: float, stored_as: TensorType) -> float:
    """The scale in the type of the embedding's values; bf16 for quantised ones, which is what the models are published in."""
    if stored_as is F32_TYPE:
        return float(np.float32(scale))
    if stored_as is F16_TYPE:
        return float(np.float16(scale))
    bits = int(np.float32(scale).view(np.uint32))
    return float(np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32))


def _load_outputs(
    config: DecoderConfig, source: WeightSource, embedding: StoredTensor
) -> tuple[Linear | None, Projection | None]:
    """The output head, or the classifier that is there in its place."""
    outputs = config.outputs
    if config.is_tied:
        source.accept_copy("lm_head.weight", of=embedding)
    if outputs.kind == "none":
        return None, None
    if outputs.kind == "labels":
        if outputs.keeps_head:
            source.tensor("lm_head.weight", (config.vocab_size, config.d_model))
        weight = source.pack(source.tensor("score.weight", (outputs.n_labels, config.d_model)))
        bias_N = source.vector("score.bias", outputs.n_labels) if outputs.has_label_bias else None
        return None, Projection("score", weight, bias_N)
    if config.is_tied:
        return source.pack(embedding), None
    return source.pack(source.tensor("lm_head.weight", (config.vocab_size, config.d_model))), None
