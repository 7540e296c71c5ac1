"""How far a model with changed weights is from the exact one, for several changes at once, with a layer in memory at a time.

The models are computed by `transformers` in float32 from the weights of `benchmarks.exact_model`. All windows pass through a
layer together; the head goes by panels of its rows, over which the sums of a divergence are kept.

Shape letters: W windows, T tokens of a window, D width, N positions (W * T), R rows of a matrix.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.exact_model import ExactFile

Change = Callable[[str, torch.Tensor], torch.Tensor]
"""From the GGUF name of a matrix and some of its rows, in the file's order, to the rows to compute with."""

_PANEL_ROWS = 8192


def divergences(path: Path, windows_WT: NDArray[np.int32], changes: Sequence[Change]) -> list[NDArray[np.float64]]:
    """For each change, KL(exact, changed) [N] of the probabilities of the next token."""
    file = ExactFile(path)
    with torch.inference_mode():
        exact_ND, *changed_ND = _last_hidden(file, torch.from_numpy(windows_WT.astype(np.int64)), [_no_change, *changes])
        return _over_the_head(file, exact_ND, changed_ND, changes)


def _no_change(_name: str, rows: torch.Tensor) -> torch.Tensor:
    return rows


def _last_hidden(file: ExactFile, ids_WT: torch.Tensor, changes: Sequence[Change]) -> list[torch.Tensor]:
    """[N, D] for each change: what comes out of the last norm."""
    model, embedding = file.model.model, "token_embd.weight"
    ids_U, at_WT = ids_WT.unique(return_inverse=True)
    used_UD = torch.cat([file.rows(embedding, int(i), int(i) + 1) for i in ids_U])
    hidden = [change(embedding, used_UD)[at_WT] for change in changes]
    places_1T = torch.arange(ids_WT.shape[1])[None]
    rotations = model.rotary_emb(hidden[0], places_1T)
    for index, layer in enumerate(model.layers):
        parameters = {name: f"model.layers.{index}.{name}" for name in layer.state_dict()}
        exact = {name: file.rows(file.name_of(parameter)) for name, parameter in parameters.items()}
        for k, change in enumerate(changes):
            state = {}
            for name, parameter in parameters.items():
                rows = exact[name] if exact[name].ndim == 1 else change(file.name_of(parameter), exact[name])
                state[name] = file.arranged(parameter, rows)
            layer.load_state_dict(state, assign=True)
            hidden[k] = layer(hidden[k], position_embeddings=rotations, position_ids=places_1T)
        layer.to("meta")
    model.norm.load_state_dict({"weight": file.rows("output_norm.weight")}, assign=True)
    return [model.norm(h_WTD).flatten(0, 1) for h_WTD in hidden]


def _over_the_head(
    file: ExactFile, exact_ND: torch.Tensor, changed: list[torch.Tensor], changes: Sequence[Change]
) -> list[NDArray[np.float64]]:
    """sum p log(p / q), out of the sums over the vocabulary of exp(l), exp(l) (l - m) and exp(m) for logits l and m."""
    name = "token_embd.weight" if file.is_tied else "output.weight"
    n_rows = int(file.tensors[name].shape[1])
    shift_N1 = (exact_ND @ file.rows(name, 0, _PANEL_ROWS).T).amax(dim=1, keepdim=True)
    sum_p_N = torch.zeros(len(exact_ND), dtype=torch.float64)
    sums = [(torch.zeros_like(sum_p_N), torch.zeros_like(sum_p_N)) for _ in changes]
    for start in range(0, n_rows, _PANEL_ROWS):
        rows_RD = file.rows(name, start, start + _PANEL_ROWS)
        l_NR = exact_ND @ rows_RD.T - shift_N1
        p_NR = l_NR.exp()
        sum_p_N += p_NR.sum(dim=1, dtype=torch.float64)
        for changed_ND, change, (difference_N, sum_q_N) in zip(changed, changes, sums, strict=True):
            m_NR = changed_ND @ change(name, rows_RD).T - shift_N1
            difference_N += (p_NR * (l_NR - m_NR)).sum(dim=1, dtype=torch.float64)
            sum_q_N += m_NR.exp_().sum(dim=1, dtype=torch.float64)
    return [(d_N / sum_p_N - sum_p_N.log() + q_N.log()).numpy() for d_N, q_N in sums]
