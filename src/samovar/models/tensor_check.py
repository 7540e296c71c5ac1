"""A checkpoint's tensors held against its config, as loading does, but for packing them: no matrix is read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.formats import Checkpoint
from samovar.kernels import Linear, Stack, WeightForm
from samovar.kernels.reference import ReferenceOps
from samovar.models.blocks import load_decoder
from samovar.models.config import DecoderConfig
from samovar.models.loader import open_source
from samovar.tensors.stored import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Stands for a weight, or a stack of them."""

    n_stacked: int
    n_out: int
    n_in: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _NoPacker:
    """Packs nothing."""

    def pack(self, tensor: Tensor, order: NDArray[np.int64] | None, form: WeightForm) -> Linear:  # noqa: ARG002
        """As `Packer.pack`."""
        return self.pack_stack((tensor,), form)

    def pack_stack(self, tensors: tuple[Tensor, ...], form: WeightForm) -> Stack:  # noqa: ARG002
        """As `Packer.pack_stack`."""
        n_out, n_in = tensors[0].shape[-2:]
        size_bytes = sum(tensor.size_bytes for tensor in tensors)
        return _Shape(n_stacked=len(tensors), n_out=n_out, n_in=n_in, size_bytes=size_bytes)

    def end_part(self) -> None:
        """Nothing waits."""


def check_tensors(checkpoint: Checkpoint) -> DecoderConfig:
    """The config, with which all tensors agree: none is missing, none left over, each has its shape.

    Raises as `load_model`.
    """
    ops = ReferenceOps()
    architecture, config, source = open_source(checkpoint, ops, _NoPacker())
    return load_decoder(config, source, ops, architecture.load_layer).config
