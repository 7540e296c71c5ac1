"""Text in, text out: `LLM` and what its verbs return."""

from samovar.llm.llm import LLM
from samovar.llm.result import Result, Timing, Usage

__all__ = ["LLM", "Result", "Timing", "Usage"]
