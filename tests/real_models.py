"""Where the real weights are that slow tests run on. `make test` puts them into the store; other runs skip or fail by name."""

from pathlib import Path

from samovar.errors import ModelNotFound
from samovar.formats.hub import default_store, resolve
from tests.packages import missing

STORE = default_store()  # of the person who runs the tests; some tests set up stores of their own
SMOLLM2 = "smollm2:135m"
QWEN_CODER = "qwen2.5-coder:0.5b"


def real_model(name: str) -> Path:
    """The file of catalogue model `name` in the store; without it the running test is skipped, or fails under CI=true."""
    try:
        return resolve(name, STORE)
    except ModelNotFound:
        missing(f"{name} is not in the store; get it with: samovar pull {name}")
