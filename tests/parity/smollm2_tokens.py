"""Writes smollm2_tokens.json: how llama.cpp cuts random texts with the tokenizer of SmolLM2-135M.

Run: python -m tests.parity.smollm2_tokens MODEL.gguf (needs xllamacpp). Version used for the stored file: xllamacpp 2026.10.
"""

import json
import sys
import urllib.request
from pathlib import Path

from tests.text.random_text import random_texts

TARGET = Path(__file__).with_suffix(".json")
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>")


def main(model: str) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.warmup = model, 256, False
    server = xllamacpp.Server(params)
    stored = []
    for text in random_texts(400, seed=7, control_tokens=CONTROL_TOKENS):
        if "\0" not in text:  # ends a text for llama.cpp
            body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
            request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"content-type": "application/json"})
            with urllib.request.urlopen(request) as reply:
                stored.append([text, json.load(reply)["tokens"]])
    TARGET.write_text(json.dumps(stored, separators=(",", ":")) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1])
