"""The app before models of the test's own."""

import pytest

from tests.app.app_client import served_app
from tests.serving.conftest import hybrid as hybrid
from tests.serving.conftest import models as models


@pytest.fixture(scope="module")
def app(hybrid, tmp_path_factory):
    """The app with the hybrid model; script what it says with `tests.llm.scripted.scripted`."""
    with served_app({"hybrid": hybrid}, tmp_path_factory.mktemp("app")) as running:
        yield running
