"""Samovar: run the open-weight Qwen3 family on hardware you own.

`LLM` and `Repository` are loaded on first use, so that importing a part of the package costs that part alone.
"""

import os
from typing import TYPE_CHECKING

from samovar.errors import SamovarError

if TYPE_CHECKING:
    from samovar.llm import LLM, Repository

__all__ = ["LLM", "Repository", "SamovarError", "__version__"]
__version__ = "0.1.0"

# Threads of NumPy's OpenBLAS spin for 26 ms after they start, in which time weights could be read; 4 lets them sleep at once.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")


def __getattr__(name: str) -> object:
    if name in ("LLM", "Repository"):
        from samovar import llm

        return getattr(llm, name)
    raise AttributeError(f"module 'samovar' has no attribute {name!r}")
