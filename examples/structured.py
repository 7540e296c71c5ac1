"""Have an answer in JSON that a schema describes. Usage: python examples/structured.py [MODEL]"""

import json
import sys

from samovar import LLM

CITY = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "is_capital": {"type": "boolean"}},
    "required": ["name", "is_capital"],
    "additionalProperties": False,
}


def main(model: str | None) -> None:
    """`model` is a path or a name in the store; None is the embedded default."""
    llm = LLM(model)
    answer = llm.chat("Name a city in France, as JSON.", json_schema=CITY, temperature=0, max_tokens=80)
    if answer.is_grammar_complete:
        print(json.loads(answer.text))
    else:
        print(f"cut by max_tokens: {answer.text}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
