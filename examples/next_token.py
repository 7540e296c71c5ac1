"""The five likeliest next tokens after a text, from the logits. Usage: python examples/next_token.py [MODEL]"""

import sys

import numpy as np

from samovar import LLM


def main(model: str | None) -> None:
    """`model` is a path or a name in the store; None is the embedded default."""
    llm = LLM(model)
    logits_V = llm.logits(llm.tokenizer.encode("The capital of France is"))[-1]
    probabilities_V = np.exp(logits_V - logits_V.max())
    probabilities_V /= probabilities_V.sum()
    for token_id in np.argsort(-probabilities_V)[:5]:
        print(f"{probabilities_V[token_id]:6.1%}  {llm.tokenizer.token_text(int(token_id))!r}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
