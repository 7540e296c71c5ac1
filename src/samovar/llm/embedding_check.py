"""The self-test of Qwen3-Embedding's model card: two queries against two documents, and the products that they should have.

Source: huggingface.co/Qwen/Qwen3-Embedding-0.6B. A model whose products are off by more than `TOLERANCE` has a wrong tokenizer,
no end token after a text, another pooling, or weights that were quantised too coarsely.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.llm.llm import LLM
from samovar.models.config import DecoderConfig

QUERIES: Final = ("What is the capital of China?", "Explain gravity")
DOCUMENTS: Final = (
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is responsible "
    "for the movement of planets around the sun.",
)
TOLERANCE: Final = 0.02  # four digits are published; the rest is room for quantised weights
Matrix = tuple[tuple[float, float], tuple[float, float]]
REFERENCES: Final[Mapping[tuple[int, int], tuple[str, Matrix]]] = {  # by layers and width
    (28, 1024): ("Qwen3-Embedding-0.6B", ((0.7646, 0.1414), (0.1355, 0.6000))),
}


def reference_of(config: DecoderConfig) -> tuple[str, Matrix] | None:
    """The release of these sizes and its published products; None where none are known."""
    return REFERENCES.get((config.n_layers, config.d_model))


def self_test_products(llm: LLM) -> NDArray[np.float64]:
    """Products [2, 2] of the queries' vectors with the documents'. Raises BadRequest for a model that is no embedder."""
    queries_2D = llm.embed(list(QUERIES), kind="query").astype(np.float64)
    documents_2D = llm.embed(list(DOCUMENTS), kind="document").astype(np.float64)
    products_22: NDArray[np.float64] = queries_2D @ documents_2D.T
    return products_22
