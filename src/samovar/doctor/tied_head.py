"""A head that is stored beside the embedding it is tied to: whether it is a copy, which may be quantised in another way."""

from typing import Final

import numpy as np

from samovar.doctor.subject import Subject
from samovar.errors import SamovarError
from samovar.kernels.dequantise import dequantise
from samovar.tensors.stored import StoredTensor

HEADS: Final = ("output.weight", "lm_head.weight")
EMBEDDINGS: Final = ("token_embd.weight", "model.embed_tokens.weight", "embed_tokens.weight")
MOST_APART: Final = 0.5  # 2 bits a weight lose about 0.3; matrices that have nothing to do with each other are 1.4 apart
_N_ROWS: Final = 256


def head_distance(subject: Subject) -> float | None:
    """How far the head is from the embedding: the norm of the difference over that of the embedding, on evenly spaced rows.

    None where one of the two is not there, cannot be read as blocks, or holds what is no number.
    """
    head, embedding = (next((subject.tensors[n] for n in names if n in subject.tensors), None) for names in (HEADS, EMBEDDINGS))
    if not isinstance(head, StoredTensor) or not isinstance(embedding, StoredTensor):
        return None
    if head.shape != embedding.shape or len(head.shape) != 2:  # the line on tensors says so
        return None
    index = np.linspace(0, head.shape[0] - 1, min(_N_ROWS, head.shape[0])).astype(np.int64)
    try:
        head_N, embedding_N = (dequantise(part.type, part.take_rows(index).data) for part in (head, embedding))
    except SamovarError:  # a codebook that is not installed
        return None
    size = float(np.linalg.norm(embedding_N.astype(np.float64)))
    apart = float(np.linalg.norm(head_N.astype(np.float64) - embedding_N))
    return apart / size if size and np.isfinite(apart) else None
