"""Ask one question, and print the answer and what it cost. Usage: python examples/ask.py [MODEL]"""

import sys

from samovar import LLM


def main(model: str | None) -> None:
    """`model` is a path or a name in the store; None is the embedded default."""
    llm = LLM(model)
    answer = llm.chat("What is the capital of France?", temperature=0, max_tokens=32)
    print(answer.text)
    print(f"({answer.usage.n_prompt} tokens read, {answer.usage.n_completion} written; ended by: {answer.finish_reason})")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
