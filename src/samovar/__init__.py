"""Samovar: run the open-weight Qwen3 family on hardware you own.

`LLM` is loaded on first use, so that importing a part of the package costs that part alone.
"""

from typing import TYPE_CHECKING

from samovar.errors import SamovarError

if TYPE_CHECKING:
    from samovar.llm import LLM

__all__ = ["LLM", "SamovarError", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "LLM":
        from samovar.llm import LLM

        return LLM
    raise AttributeError(f"module 'samovar' has no attribute {name!r}")
