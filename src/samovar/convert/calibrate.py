"""The importance of columns, measured: the model reads a text, and the inputs of its linear layers are squared and summed.

The model is the one that answers, on operations that look at what passes through them; it is in memory as a whole meanwhile.
The text is cut into windows, each of which is read from its own beginning.

Shape letters: see `samovar.kernels`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.convert.importance import Importance
from samovar.convert.source import SourceTensor, read_source
from samovar.errors import BadRequest
from samovar.formats import open_checkpoint
from samovar.kernels import (
    F32,
    PAGE_TOKENS,
    Activation,
    DeltaNet,
    Experts,
    KvPages,
    Linear,
    LinearStack,
    Ops,
    Spans,
    Stack,
    States,
    WeightForm,
)
from samovar.llm.model_text import read_model_text
from samovar.models.blocks import Decoder
from samovar.models.loader import load_model
from samovar.tensors.stored import StoredTensor

WINDOW_TOKENS: Final = 512
_LEAST_TOKENS: Final = 64
_HEAD_STEP: Final = 4  # the output head, which is large, is computed after one in so many tokens
Progress = Callable[[int, int, str], None]


@dataclass(slots=True)
class _Inputs:
    """What came into a weight [N, K] so far."""

    squares_K: NDArray[np.float64]
    n_rows: int = 0

    def add(self, x_TK: F32) -> None:
        """Count some more rows."""
        self.squares_K += np.einsum("tk,tk->k", x_TK, x_TK, dtype=np.float64)
        self.n_rows += len(x_TK)

    @property
    def mean_K(self) -> F32:
        """Mean squares; zeros where nothing came."""
        return (self.squares_K / max(1, self.n_rows)).astype(np.float32)


@dataclass(slots=True)
class _Watched:
    """A weight of the real operations, and what comes into it."""

    weight: Linear
    inputs: _Inputs

    @property
    def n_out(self) -> int:
        """Rows of the weight."""
        return self.weight.n_out

    @property
    def n_in(self) -> int:
        """Columns of the weight."""
        return self.weight.n_in

    @property
    def size_bytes(self) -> int:
        """Resident bytes."""
        return self.weight.size_bytes


@dataclass(slots=True)
class WatchingOps:
    """Implements `samovar.kernels.Ops` on those of `inner`, and records the inputs of all weights that it packs.

    `seen` has them by the names that tensors have in their file; a tensor of several experts has one for each.
    """

    inner: Ops
    seen: dict[str, list[_Inputs]] = field(default_factory=dict)

    def __getattr__(self, name: str) -> object:
        """Operations without weights are those of `inner`."""
        return getattr(self.inner, name)

    def pack(self, weight: StoredTensor, form: WeightForm = "stored") -> _Watched:
        """As `Ops.pack`."""
        watched = _Watched(self.inner.pack(weight, form), _Inputs(np.zeros(weight.shape[-1])))
        self.seen.setdefault(weight.name, []).append(watched.inputs)
        return watched

    def pack_stack(self, tensors: tuple[StoredTensor, ...], form: WeightForm = "stored") -> LinearStack:
        """As `Ops.pack_stack`, one expert at a time."""
        experts = (
            member for t in tensors for member in ([t] if len(t.shape) == 2 else [t.entry(e) for e in range(t.shape[0])])
        )
        return LinearStack(tuple(self.pack(expert, form) for expert in experts))

    def linear(
        self,
        x_TD: F32,
        weight: Linear,
        bias_N: F32 | None = None,
        *,
        gate_TD: F32 | None = None,
        activation: Activation = "silu",
        residual_TN: F32 | None = None,
    ) -> F32:
        """As `Ops.linear`."""
        assert isinstance(weight, _Watched)
        gate = self.inner.silu_gate if activation == "silu" else self.inner.gelu_gate
        weight.inputs.add(x_TD if gate_TD is None else gate(gate_TD, x_TD))
        return self.inner.linear(x_TD, weight.weight, bias_N, gate_TD=gate_TD, activation=activation, residual_TN=residual_TN)

    def linears(
        self,
        x_TD: F32,
        weights: tuple[Linear, ...],
        biases: tuple[F32 | None, ...] | None = None,
        *,
        norm: tuple[F32, float] | None = None,
    ) -> tuple[F32, ...]:
        """As `Ops.linears`."""
        rows_TD = x_TD if norm is None else self.inner.rms_norm(x_TD, *norm)
        inner = []
        for weight in weights:
            assert isinstance(weight, _Watched)
            weight.inputs.add(rows_TD)
            inner.append(weight.weight)
        return self.inner.linears(x_TD, tuple(inner), biases, norm=norm)

    def experts(self, x_TD: F32, experts: Experts, ids_TC: NDArray[np.int32], weights_TC: F32, residual_TD: F32) -> F32:
        """As `Ops.experts`, one expert after the other."""
        out_TD = residual_TD.copy()
        for e in range(experts.gate.n_stacked):
            rows, chosen = np.nonzero(ids_TC == e)
            if not len(rows):
                continue
            gate, up, down = (_member(stack, e) for stack in (experts.gate, experts.up, experts.down))
            gate_TF, up_TF = self.linears(np.ascontiguousarray(x_TD[rows]), (gate, up))
            out_TD[rows] += weights_TC[rows, chosen][:, None] * self.linear(up_TF, down, gate_TD=gate_TF)
        return out_TD


def _member(stack: Stack, index: int) -> _Watched:
    assert isinstance(stack, LinearStack)
    member = stack.members[index]
    assert isinstance(member, _Watched)
    return member


def calibrate(
    source: Path,
    text: str,
    ops: Ops,
    *,
    origin: str,
    max_tokens: int = 1 << 15,
    progress: Progress = lambda _done, _total, _what: None,
) -> Importance:
    """The importance of every matrix of the model at `source` for `text`, which `origin` names; `progress` counts tokens.

    No more than `max_tokens` of the text are read. Raises BadRequest for a text of under 64 tokens, and what loading raises.
    """
    checkpoint = open_checkpoint(source)
    source_model = read_source(checkpoint)
    ids = list(read_model_text(checkpoint).tokenizer.encode(text))[:max_tokens]
    if len(ids) < _LEAST_TOKENS:
        raise BadRequest(f"{origin}: a text of {len(ids)} tokens says too little of a model; give {_LEAST_TOKENS} or more")
    watching = WatchingOps(ops)
    decoder = load_model(checkpoint, watching).decoder  # type: ignore[arg-type]  # it passes on what it does not have
    width = min(WINDOW_TOKENS, source_model.config.max_context)
    for start in range(0, len(ids), width):
        progress(start, len(ids), origin)
        _read(decoder, ops, np.array(ids[start : start + width], np.int64))
    progress(len(ids), len(ids), "")
    named = {tensor.name: _of(tensor, watching.seen) for tensor in source_model.tensors}
    return Importance(mean_squares={name: found for name, found in named.items() if found is not None}, origin=origin)


def _read(decoder: Decoder, ops: Ops, ids_T: NDArray[np.int64]) -> None:
    """One window through the model, which keeps the keys and values of one layer at a time."""
    config, n_tokens = decoder.config, len(ids_T)
    n_pages = -(-n_tokens // PAGE_TOKENS)
    pages = KvPages.empty("f32", n_pages, config.n_kv_heads, config.d_head)
    spans = Spans(
        row_starts=np.array([0, n_tokens], np.int32),
        positions=np.zeros(1, np.int32),
        page_tables_SP=np.arange(n_pages, dtype=np.int32)[None],
        states_S=np.zeros(1 if config.delta_net is not None else 0, np.int32),
    )
    positions_T, net = np.arange(n_tokens), config.delta_net
    states = None
    if net is not None:
        states = States.empty(1, net.n_taps, net.n_channels, net.n_value_heads, net.d_key, net.d_value)
    decoder(ids_T, positions_T, _OneLayer(ops, pages, states, spans), positions_T[::_HEAD_STEP].copy())


@dataclass(frozen=True, slots=True)
class _OneLayer:
    """The `attend` of one window, whose layers use the same pages and the same slot for a state one after the other."""

    ops: Ops
    pages: KvPages
    states: States | None
    spans: Spans

    def __call__(
        self, _layer: int, q_THK: F32, k_TGK: F32, v_TGK: F32, /, *, scale: float | None = None, window: int | None = None
    ) -> F32:
        self.ops.write_kv(k_TGK, v_TGK, self.pages, np.arange(len(k_TGK)))
        scale = 1 / math.sqrt(q_THK.shape[-1]) if scale is None else scale
        return self.ops.attention(q_THK, self.pages, self.spans, scale, window)

    def recur(self, _layer: int, x_TM: F32, gates_TM: F32, net: DeltaNet, /) -> F32:
        assert self.states is not None
        x_TM = self.ops.convolve(x_TM, net, self.states, self.spans)
        return self.ops.delta_rule(x_TM, gates_TM, net, self.states, self.spans)


def _of(tensor: SourceTensor, seen: dict[str, list[_Inputs]]) -> F32 | None:
    """[E, K]: what came into the parts of a tensor; None where it is multiplied with nothing."""
    names = dict.fromkeys(part.name for part in tensor.parts)
    inputs = [found for name in names for found in seen.get(name, [])]
    n_matrices = tensor.shape[0] if len(tensor.shape) == 3 else 1
    if len(inputs) > n_matrices:  # gate and up of one stored tensor: both were seen, with the same inputs
        inputs = inputs[:n_matrices]
    return np.stack([found.mean_K for found in inputs]) if len(inputs) == n_matrices else None
