"""A model that is not loaded: what it would take of memory, and how fast it would be."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from samovar.engine.page_pool import n_pages_for
from samovar.formats import Checkpoint
from samovar.kernels import PAGE_TOKENS, KvType, WeightForm
from samovar.llm.memory import expert_bytes, kv_page_bytes, other_bytes, states_bytes
from samovar.llm.setup import kv_type_for
from samovar.models.blocks import Decoder, Step
from samovar.models.config import DecoderConfig
from samovar.models.loader import take_weights
from samovar.plan.costs import Machine
from samovar.plan.timed_ops import SizingPacker, TimedAttend, TimedOps

_STEP_TOKENS: Final = 512  # of a prompt, computed together (engine.engine.Limits)
_NOWHERE: Final = Machine(read_bytes_per_s=1.0, int8_ops_per_s=1.0)


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """`quant` names how the weights are stored, `decoder` is the model with weights that are sizes only. Sizes are in bytes.

    `kernels` are what computes on the weights: names of storage types, or "int4".
    """

    name: str
    quant: str
    kv_type: KvType
    decoder: Decoder
    kernels: frozenset[str]
    n_parameters: int
    stored_bytes: int

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, *, name: str, quant: str, kv_type: KvType | None = None, form: WeightForm = "stored"
    ) -> "PlannedModel":
        """Lay out a checkpoint's weights without reading them. Raises as `models.loader.load_model`."""
        packer = SizingPacker()
        decoder = take_weights(checkpoint, TimedOps(_NOWHERE), packer, form)
        return cls(
            name=name,
            quant=quant,
            kv_type=kv_type or kv_type_for(decoder.embedding.type.name),
            decoder=decoder,
            kernels=frozenset(weight.kernel for weight in packer.weights),
            n_parameters=sum(tensor.n_elements for tensor in checkpoint.tensors.values()),
            stored_bytes=sum(tensor.size_bytes for tensor in checkpoint.tensors.values()),
        )

    @property
    def config(self) -> DecoderConfig:
        """The model's sizes and switches."""
        return self.decoder.config

    @property
    def bits_per_weight(self) -> float:
        """Of the packed weights, scales included; an embedding that is only looked up is not packed."""
        n_looked_up = 0 if self.config.is_tied else self.decoder.embedding.n_elements
        return 8 * self.decoder.packed_bytes / (self.n_parameters - n_looked_up)

    @property
    def longest_context(self) -> int:
        """Tokens that the engine serves given room: by YaRN beyond the model's own length, where it is made for that."""
        long = self.config.long_context
        return self.config.max_context if long is None else long.longest

    def yarn_factor(self, context: int) -> int:
        """The factor that a context of so many tokens is computed with; 1 within the model's own length."""
        long = self.config.long_context
        return 1 if long is None else long.factor_for(context)

    @cached_property
    def _page_bytes(self) -> int:
        return kv_page_bytes(self.config, self.kv_type)

    def fixed_bytes(self, n_users: int) -> int:
        """Weights, and all else but keys and values."""
        other = other_bytes(self.config.vocab_size, n_users) + expert_bytes(self.config)
        return self.decoder.packed_bytes + other + states_bytes(self.config, n_users)

    def kv_bytes(self, context: int, n_users: int) -> int:
        """Keys and values of full contexts."""
        return n_users * n_pages_for(context) * self._page_bytes

    def memory_bytes(self, context: int, n_users: int) -> int:
        """All that it takes with `n_users` full contexts."""
        return self.fixed_bytes(n_users) + self.kv_bytes(context, n_users)

    def most_context(self, usable_bytes: int, n_users: int) -> int:
        """Tokens of context for each user that fit, at most `longest_context`; 0 where not even the weights do."""
        n_pages = (usable_bytes - self.fixed_bytes(n_users)) // (self._page_bytes * n_users)
        return max(0, min(self.longest_context, n_pages * PAGE_TOKENS))

    def decode_tokens_per_s(self, machine: Machine, *, context: int, n_streams: int = 1) -> float:
        """Tokens a second, of all streams together, while each has `context` tokens before it."""
        return n_streams / self._step_s(machine, starts=[context] * n_streams, n_rows=1)

    def prefill_tokens_per_s(self, machine: Machine, n_tokens: int) -> float:
        """Tokens a second of a prompt."""
        seconds = 0.0
        for start in range(0, n_tokens, _STEP_TOKENS):
            seconds += self._step_s(machine, starts=[start], n_rows=min(_STEP_TOKENS, n_tokens - start))
        return n_tokens / seconds

    def _step_s(self, machine: Machine, *, starts: list[int], n_rows: int) -> float:
        """Seconds of a step of `n_rows` tokens of each sequence, and a token chosen after the last of them."""
        n_streams, ops = len(starts), TimedOps(machine)
        n_tokens = n_streams * n_rows
        attend = TimedAttend(ops, self.kv_type, np.array(starts, np.int32), n_rows, self.config.delta_net)
        step = Step(ops, attend, *self.decoder.angles(np.zeros(n_tokens, np.int64)))
        rows_S = np.arange(n_streams, dtype=np.int64)
        x_SD = self.decoder.hidden(np.zeros(n_tokens, np.int64), rows_S, step)
        ops.choose(self.decoder.logits(x_SD, ops))
        ops.step(n_streams)
        return ops.seconds
