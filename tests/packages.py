"""What to do when something that a test needs from outside is not installed."""

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the running test with `reason`; under CI=true fail it, since there everything has to be had."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"needed in CI: {reason}", pytrace=False)
    pytest.skip(reason)
