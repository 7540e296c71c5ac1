"""Published similarities and rankings, asked of models that give known numbers."""

import numpy as np
import pytest

from samovar.doctor.finding import Status
from samovar.doctor.self_test import DOCUMENTS, QUERIES, TOLERANCE, check_scores
from samovar.errors import OutOfMemory
from tests.doctor.claimed import release

PUBLISHED = np.array([[0.7646, 0.1414], [0.1355, 0.6000]])


class Scores:
    """A model whose similarities of queries and documents are given, or whose ranking is."""

    def __init__(self, similarities=PUBLISHED, ranking=((0.9, 0.1), (0.2, 0.8))):
        self.similarities, self.ranking, self.texts = np.asarray(similarities), ranking, []

    def embed(self, texts):
        self.texts = texts
        queries = np.eye(2, 6)
        rest = np.sqrt(1 - (self.similarities**2).sum(axis=0))
        documents = np.zeros((2, 6))
        documents[:, :2] = self.similarities.T
        documents[0, 2], documents[1, 3] = rest
        return np.concatenate([queries, documents]).astype(np.float32)

    def rerank(self, query, documents):
        assert documents == list(DOCUMENTS)
        return list(self.ranking[QUERIES.index(query)])


def check(name, scores):
    (finding,) = check_scores(release(name), lambda: scores)
    return finding


def test_the_published_similarities_pass_and_queries_carry_the_instruction():
    scores = Scores()
    finding = check("Qwen3-Embedding-0.6B", scores)
    assert finding.status is Status.PASS
    assert scores.texts[0].startswith("Instruct: Given a web search query")
    assert scores.texts[0].endswith("\nQuery:What is the capital of China?")
    assert tuple(scores.texts[2:]) == DOCUMENTS


@pytest.mark.parametrize(("off", "status"), [(0.9 * TOLERANCE, Status.PASS), (1.1 * TOLERANCE, Status.FAIL)])
def test_the_tolerance_is_as_stated(off, status):
    assert check("Qwen3-Embedding-0.6B", Scores(PUBLISHED + np.array([[0, 0], [off, 0]]))).status is status


def test_sizes_without_published_similarities_cannot_be_known():
    assert check("Qwen3-Embedding-8B", Scores()).status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("ranking", "status"), [(((0.9, 0.1), (0.2, 0.8)), Status.PASS), (((0.9, 0.6), (0.2, 0.8)), Status.FAIL)]
)
def test_a_reranker_has_to_tell_right_documents_from_wrong_ones(ranking, status):
    assert check("Qwen3-Reranker-4B", Scores(ranking=ranking)).status is status


def test_a_model_that_does_not_run_cannot_be_known():
    def refuse():
        raise OutOfMemory("2 GiB are needed")

    (finding,) = check_scores(release("Qwen3-Reranker-8B"), refuse)
    assert finding.status is Status.UNKNOWN
    assert "2 GiB" in finding.found


def test_models_that_chat_are_not_opened():
    assert check_scores(release("Qwen3-0.6B"), lambda: pytest.fail("opened")) == []
