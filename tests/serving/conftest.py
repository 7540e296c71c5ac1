"""Models of the test's own behind a server."""

import pytest

from samovar.serving.records import Records
from tests.llm.scripted import ModelMaker
from tests.serving.served import served


@pytest.fixture(scope="session")
def models(tmp_path_factory, require):
    """Makes small models with Qwen3's tokenizer and templates."""
    return ModelMaker(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def hybrid(models):
    """A model that thinks or not, as it is told."""
    llm = models.load("hybrid")
    yield llm
    llm.close()


@pytest.fixture(scope="session")
def server(hybrid):
    """A server with the hybrid model; script what it says with `tests.llm.scripted.scripted`."""
    with served({"hybrid": hybrid}, any_model_scores=True) as running:
        yield running


@pytest.fixture(scope="module")
def keeper(hybrid, tmp_path_factory):
    """A server with the hybrid model that keeps records."""
    records = Records(tmp_path_factory.mktemp("records"))
    with served({"hybrid": hybrid}, records=records, any_model_scores=True) as running:
        yield running
    records.close()
