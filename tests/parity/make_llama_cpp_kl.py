"""Makes `llama_cpp_kl_*.npz`: llama.cpp's divergence from the exact model, position by position.

    python -m tests.parity.make_llama_cpp_kl smollm2:135m path/to/model.gguf

Needs `llama-cpp-python` (0.3.36 was used, built with its native flags) beside the `test` extra. llama.cpp runs with its own
defaults: f16 keys and values, flash attention where it chooses it, 2 threads. What is measured, and on which text, stands in
`benchmarks/quality.py`.
"""

import sys
from pathlib import Path

from benchmarks.exact_model import load_exact_model
from benchmarks.llama_cpp_peer import LlamaCpp, describe
from benchmarks.quality import WINDOW_TOKENS, StoredScores, cut_into_windows, score

N_THREADS = 2


def main(model: str, path: Path) -> None:
    """Measure llama.cpp on one file, and write the numbers."""
    peer = LlamaCpp(path, n_threads=N_THREADS, n_context=WINDOW_TOKENS, all_logits=True)
    windows = cut_into_windows(peer.encode)
    scores = score(load_exact_model(path), windows, {"llama.cpp": peer.logits})["llama.cpp"]
    StoredScores(windows=windows, scores=scores, build=describe()).save(model)
    print(f"{model}: mean KL {scores.mean_kl:.6f}, same first token {scores.top_1:.2f} %, {describe()}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
