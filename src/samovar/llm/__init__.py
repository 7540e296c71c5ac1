"""Text in, text out: `LLM` and what its verbs return."""

from samovar.llm.fill_in import Repository
from samovar.llm.llm import LLM
from samovar.llm.result import Result, Timing, Usage

__all__ = ["LLM", "Repository", "Result", "Timing", "Usage"]
