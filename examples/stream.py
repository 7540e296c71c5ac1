"""Two turns, shown as they are written; the second reuses what was computed for the first.

Usage: python examples/stream.py [MODEL]
"""

import sys

from samovar import LLM


def main(model: str | None) -> None:
    """`model` is a path or a name in the store; None is the embedded default."""
    llm = LLM(model)
    messages: list[dict[str, object]] = []
    for question in ("Name three kinds of tea.", "Which of them is the strongest?"):
        messages.append({"role": "user", "content": question})
        print(f">>> {question}")
        stream = llm.stream_chat(messages, max_tokens=32, seed=1)
        is_thinking = False
        for delta in stream:
            if is_thinking != (delta.field == "reasoning"):
                is_thinking = not is_thinking
                print("(thoughts) " if is_thinking else "\n(answer) ", end="")
            print(delta.text, end="", flush=True)
        answer = stream.result
        print(f"\n({answer.usage.n_cached} of {answer.usage.n_prompt} prompt tokens were kept from before)")
        messages.append({"role": "assistant", "content": answer.text})


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
