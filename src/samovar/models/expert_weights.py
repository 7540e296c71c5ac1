"""Where the weights of a layer's experts lie in a checkpoint: in three layouts, all of which end in the same stacks.

Shape letters: see `samovar.kernels`.
"""

from dataclasses import replace

from samovar.kernels import Experts
from samovar.models.config import ExpertsConfig
from samovar.models.weights import WeightSource
from samovar.tensors.stored import StoredTensor, Tensor


def take_experts(source: WeightSource, name: str, config: ExpertsConfig, d_model: int) -> Experts:
    """Take the projections of all experts under `name`, a module's Hugging Face name.

    They are three tensors for each expert (`0.gate_proj.weight` [F, D] and so on, as models are published), two for all of
    them (`gate_up_proj` [E, 2F, D] and `down_proj` [E, D, F], the parameters of transformers 5), or three (GGUF: [E, F, D]).
    Raises FormatError where one is missing or has another shape or type.
    """
    n, wide, d_ffn = config.n_experts, f"{name}.gate_up_proj", config.d_ffn
    shapes = {"gate_proj": (d_ffn, d_model), "up_proj": (d_ffn, d_model), "down_proj": (d_model, d_ffn)}
    parts: dict[str, tuple[Tensor, ...]]
    if source.stacks_experts:
        parts = {part: (source.stored(f"{name}.{part}.weight", (n, *shape)),) for part, shape in shapes.items()}
    elif source.has(wide):
        gate, up = _halves(source.stored(wide, (n, 2 * d_ffn, d_model)))
        parts = {"gate_proj": gate, "up_proj": up, "down_proj": (source.stored(f"{name}.down_proj", (n, d_model, d_ffn)),)}
    else:
        parts = {
            part: tuple(source.tensor(f"{name}.{i}.{part}.weight", shape) for i in range(n)) for part, shape in shapes.items()
        }
    gate_EFD, up_EFD, down_EDF = (source.stack(parts[part], config.n_chosen) for part in shapes)
    return Experts(gate=gate_EFD, up=up_EFD, down=down_EDF)


def _halves(both: StoredTensor) -> tuple[tuple[StoredTensor, ...], tuple[StoredTensor, ...]]:
    """Gates and ups of all experts out of [E, 2F, D]: the gate's rows come first in each.

    Ups are packed last, so the last of them releases the pages of all.
    """
    entries = [both.entry(i) for i in range(both.shape[0])]
    d_ffn = both.shape[1] // 2
    gates, ups = [e.part(0, d_ffn) for e in entries], [e.part(d_ffn, 2 * d_ffn) for e in entries]
    ups[-1] = replace(ups[-1], release=both.release)
    return tuple(gates), tuple(ups)
