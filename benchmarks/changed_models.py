"""How far a model with changed weights is from the exact one, with a layer in memory at a time.

The models are computed by `transformers` in float32 from the weights of `benchmarks.exact_model`. All windows pass through a
layer together; the head goes by panels of its rows, over which the sums of a divergence are kept.

Shape letters: W windows, T tokens of a window, D width, N positions (W * T), R rows of a matrix.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.exact_model import ExactFile

Change = Callable[[str, torch.Tensor], torch.Tensor]
"""From the GGUF name of a matrix and some of its rows, in the file's order, to the rows to compute with."""

_PANEL_ROWS = 8192


def unchanged(_name: str, rows: torch.Tensor) -> torch.Tensor:
    """The change to the exact model."""
    return rows


@torch.inference_mode()
def hidden_states(file: ExactFile, windows_WT: NDArray[np.int32], change: Change = unchanged) -> torch.Tensor:
    """[N, D]: what comes out of the last norm."""
    model, embedding, ids_WT = file.model.model, "token_embd.weight", torch.from_numpy(windows_WT.astype(np.int64))
    ids_U, at_WT = ids_WT.unique(return_inverse=True)
    h_WTD = change(embedding, torch.cat([file.rows(embedding, int(i), int(i) + 1) for i in ids_U]))[at_WT]
    places_1T = torch.arange(ids_WT.shape[1])[None]
    rotations = model.rotary_emb(h_WTD, places_1T)
    for index, layer in enumerate(model.layers):
        weights = {}
        for name in layer.state_dict():
            parameter = f"model.layers.{index}.{name}"
            stored = file.name_of(parameter)
            rows = file.rows(stored)
            weights[name] = file.arranged(parameter, change(stored, rows) if rows.ndim > 1 else rows)
        layer.load_state_dict(weights, assign=True)
        h_WTD = layer(h_WTD, position_embeddings=rotations, position_ids=places_1T)
        layer.to("meta")
    model.norm.load_state_dict({"weight": file.rows("output_norm.weight")}, assign=True)
    normed_WTD: torch.Tensor = model.norm(h_WTD)
    return normed_WTD.flatten(0, 1)


@torch.inference_mode()
def divergences(file: ExactFile, exact_ND: torch.Tensor, changed_ND: torch.Tensor, change: Change) -> NDArray[np.float64]:
    """[N]: KL(exact, changed) of the probabilities of the next token, from the hidden states of both.

    It is sum p log(p / q), out of the sums over the vocabulary of exp(l), exp(m) and exp(l) (l - m) for logits l and m.
    """
    name = "token_embd.weight" if file.is_tied else "output.weight"
    n_rows = int(file.tensors[name].shape[1])
    shift_N1 = (exact_ND @ file.rows(name, 0, _PANEL_ROWS).T).amax(dim=1, keepdim=True)
    sum_p_N, sum_q_N, difference_N = torch.zeros((3, len(exact_ND)), dtype=torch.float64)
    for start in range(0, n_rows, _PANEL_ROWS):
        rows_RD = file.rows(name, start, start + _PANEL_ROWS)
        l_NR, m_NR = exact_ND @ rows_RD.T - shift_N1, changed_ND @ change(name, rows_RD).T - shift_N1
        p_NR = l_NR.exp()
        difference_N += (p_NR * (l_NR - m_NR)).sum(dim=1, dtype=torch.float64)
        sum_p_N += p_NR.sum(dim=1, dtype=torch.float64)
        sum_q_N += m_NR.exp_().sum(dim=1, dtype=torch.float64)
    found_N: NDArray[np.float64] = (difference_N / sum_p_N - sum_p_N.log() + sum_q_N.log()).numpy()
    return found_N
