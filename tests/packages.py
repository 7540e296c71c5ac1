"""What to do when something that a test needs from outside is not installed."""

import os
from importlib.util import find_spec
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the running test with `reason`; under CI=true fail it, since there everything has to be had."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"needed in CI: {reason}", pytrace=False)
    pytest.skip(reason)


def has_llama_cpp() -> bool:
    """Whether llama-cpp-python is there: a witness that takes ten minutes to build, and that `make test` does without."""
    return find_spec("llama_cpp") is not None


def needs_llama_cpp() -> None:
    """Skip the running test where it is not."""
    if not has_llama_cpp():
        pytest.skip("llama-cpp-python is not there: `make bench` builds it, in ten minutes or more")
