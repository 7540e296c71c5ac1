"""A last word where a mapped file is cut, or its disk fails, while it is computed on."""

import importlib

from samovar.kernels.native import native_missing_reason


def say_on_bus_error(message: str) -> None:
    """Let the process end with `message` on standard error, and status 1, instead of a bare SIGBUS.

    For programs: it sets a signal handler, unless there is one. Does nothing without native code.
    """
    if native_missing_reason() is None:
        importlib.import_module("samovar._native").say_on_bus_error(message)
