"""Ask one question, and print the answer and what it cost. Usage: python examples/ask.py [MODEL]"""

import sys

from samovar.llm import LLM

llm = LLM(sys.argv[1] if len(sys.argv) > 1 else None)
answer = llm.chat("What is the capital of France?", temperature=0, max_tokens=64)
print(answer.text)
print(f"{answer.usage.n_prompt} tokens read, {answer.usage.n_completion} written, because of: {answer.finish_reason}")
