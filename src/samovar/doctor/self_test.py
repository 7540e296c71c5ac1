"""Numbers that a model has to produce: the published similarities of Qwen3-Embedding, and the order that a reranker finds.

Source: the usage example of Qwen3-Embedding-0.6B's model card, with its printed scores. Of rerankers no scores are published
with the texts; that the right documents are told from the wrong ones is checked instead.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from samovar.doctor.finding import Finding, failed, passed, unknown
from samovar.doctor.releases import Release
from samovar.errors import SamovarError

SECTION: Final = "scores"
_WHAT: Final = {"embedding": "similarities", "reranker": "ranking"}
_TASK: Final = "Given a web search query, retrieve relevant passages that answer the query"
QUERIES: Final = ("What is the capital of China?", "Explain gravity")
DOCUMENTS: Final = (
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is responsible "
    "for the movement of planets around the sun.",
)
# Rounding of weights to 4 bits moves a cosine by a few hundredths; a wrong pooling or a missing end token by tenths.
TOLERANCE: Final = 0.05


class Scorer(Protocol):
    """What of an open model is asked."""

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """[S, D]: a unit vector for each text."""

    def rerank(self, query: str, documents: list[str]) -> list[float]:
        """How well each document answers the query, 0 to 1."""


def check_scores(release: Release, open_model: Callable[[], Scorer]) -> list[Finding]:
    """One line for embedding and reranking models, none for others. `open_model` is called for those alone."""
    if release.kind not in _WHAT:
        return []
    what = _WHAT[release.kind]
    try:
        model = open_model()
        return [_similarities(release, model) if release.kind == "embedding" else _ranking(model)]
    except SamovarError as error:
        return [unknown(SECTION, what, f"the model does not run: {error}", advice="see what fails above")]


def _similarities(release: Release, model: Scorer) -> Finding:
    what = _WHAT["embedding"]
    vectors_SD = model.embed([*(f"Instruct: {_TASK}\nQuery:{query}" for query in QUERIES), *DOCUMENTS]).astype(np.float64)
    n = len(QUERIES)
    found = vectors_SD[:n] @ vectors_SD[n:].T
    shown = _matrix(found.tolist())
    if not release.similarities:
        return unknown(SECTION, what, shown, advice=f"no reference scores of {release.name} are known here")
    expected = np.array(release.similarities)
    worst = float(np.abs(found - expected).max())
    if worst <= TOLERANCE:
        return passed(SECTION, what, f"{shown}, at most {worst:.3f} from the published ones")
    return failed(
        SECTION,
        what,
        f"{shown}, {worst:.3f} off",
        f"{_matrix(release.similarities)}, within {TOLERANCE}",
        "searches would find the wrong things: see the lines on what is added around texts and on the template; else get the "
        "file again, or one with more bits",
    )


def _ranking(model: Scorer) -> Finding:
    what = _WHAT["reranker"]
    scores = [model.rerank(query, [*DOCUMENTS]) for query in QUERIES]
    shown = _matrix(scores)
    if all(row[i] > 0.5 > row[1 - i] for i, row in enumerate(scores)):
        return passed(SECTION, what, f"{shown}: the right document first for both queries")
    expected = "above 0.5 for the right document of each query, below it for the other"
    return failed(
        SECTION, what, shown, expected, "the yes/no rows or the prompt are wrong: get a file that was made for reranking"
    )


def _matrix(rows: Sequence[Sequence[float]]) -> str:
    return "[" + ", ".join("[" + ", ".join(f"{value:.4f}" for value in row) + "]" for row in rows) + "]"
