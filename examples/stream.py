"""Two turns, shown as they are written; the second reuses the keys and values of the first. Usage: python examples/stream.py [MODEL]"""

import sys

from samovar.llm import LLM

llm = LLM(sys.argv[1] if len(sys.argv) > 1 else None)
messages: list[dict[str, object]] = []
for question in ("Name three kinds of tea.", "Which of them is the strongest?"):
    messages.append({"role": "user", "content": question})
    print(f">>> {question}")
    stream = llm.stream_chat(messages, max_tokens=64, seed=1)
    for delta in stream:
        print(delta.text, end="", flush=True)
    print(f"\n({stream.result.usage.n_cached} of {stream.result.usage.n_prompt} prompt tokens were kept from before)")
    messages.append({"role": "assistant", "content": stream.result.text})
