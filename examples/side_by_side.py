"""Answer several questions at once with asyncio, and print each as it ends. Usage: python examples/side_by_side.py [MODEL]"""

import asyncio
import sys

from samovar import LLM

QUESTIONS = ("What is the capital of France?", "What is tea made of?", "Count to five.")


async def ask(llm: LLM, question: str) -> None:
    """Print a question, its answer and how long the first token took."""
    stream = llm.astream_chat(question, temperature=0, max_tokens=24)
    pieces = [delta.text async for delta in stream if delta.field == "content"]
    print(f"{question} {''.join(pieces).strip()} (first token after {stream.result.timing.prefill_s:.2f} s)")


async def ask_all(llm: LLM) -> None:
    """All questions together: the engine computes their tokens in the same steps."""
    await asyncio.gather(*(ask(llm, question) for question in QUESTIONS))


def main(model: str | None) -> None:
    """`model` is a path or a name in the store; None is the embedded default."""
    asyncio.run(ask_all(LLM(model)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
