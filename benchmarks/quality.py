"""How far an engine's probabilities are from those of the exact model, beside llama.cpp's on the same file.

Text, fixed before anything was measured: the Universal Declaration of Human Rights in English (the default text of
`samovar quality`), then this repository's `LICENSE`. Its first 4,096 tokens are cut into 8 windows of 512;
each window is computed alone, and its last 500 positions count: 4,000 positions in all. A position's KL divergence is
sum(p * log(p / q)) over the whole vocabulary, p by the exact model (`benchmarks.exact_model`), q by the engine.

llama.cpp's numbers come from `tests/parity/llama_cpp_kl_*.npz`, made by `tests/parity/make_llama_cpp_kl.py`.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from benchmarks.exact_model import exact_logits, load_exact_model

ROOT = Path(__file__).parents[1]
TEXT_FILES = (ROOT / "src/samovar/evals/udhr_eng.txt", ROOT / "LICENSE")
N_WINDOWS, WINDOW_TOKENS, SCORED_TOKENS = 8, 512, 500
N_RESAMPLES = 4_000

Logits = Callable[[list[int]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Per scored position: the divergence from the exact model, and whether both put the same token first."""

    kl_N: NDArray[np.float32]
    agrees_N: NDArray[np.bool_]

    @property
    def mean_kl(self) -> float:
        """Mean divergence in nats."""
        return float(self.kl_N.mean(dtype=np.float64))

    @property
    def top_1(self) -> float:
        """Share of positions with the same first choice, in percent."""
        return 100 * float(self.agrees_N.mean())


def cut_into_windows(encode: Callable[[str], list[int]]) -> NDArray[np.int32]:
    """Token ids [windows, tokens] of the text, encoded in one piece."""
    ids = encode("\n".join(path.read_text(encoding="utf-8") for path in TEXT_FILES))
    n_tokens = N_WINDOWS * WINDOW_TOKENS
    assert len(ids) >= n_tokens, f"the text has {len(ids)} tokens; expected at least {n_tokens}"
    return np.array(ids[:n_tokens], np.int32).reshape(N_WINDOWS, WINDOW_TOKENS)


def score(exact: PreTrainedModel, windows: NDArray[np.int32], engines: dict[str, Logits]) -> dict[str, Scores]:
    """Scores of engines, each a function from token ids to logits [T, V]. The exact model runs once for all of them."""
    kl: dict[str, list[torch.Tensor]] = {name: [] for name in engines}
    agrees: dict[str, list[torch.Tensor]] = {name: [] for name in engines}
    for window in windows:
        ids = [int(i) for i in window]
        theirs_by_name = {name: torch.from_numpy(logits(ids)) for name, logits in engines.items()}
        start = 0
        for exact_TV in exact_logits(exact, ids):
            log_p_TV = exact_TV.log_softmax(dim=1)
            for name, theirs in theirs_by_name.items():
                log_q_TV = theirs[start : start + len(exact_TV)].log_softmax(dim=1)
                kl[name].append((log_p_TV.exp() * (log_p_TV - log_q_TV)).sum(dim=1, dtype=torch.float64))
                agrees[name].append(log_p_TV.argmax(dim=1) == log_q_TV.argmax(dim=1))
            start += len(exact_TV)
    return {name: Scores(kl_N=_scored(kl[name]).astype(np.float32), agrees_N=_scored(agrees[name])) for name in engines}


def _scored(pieces: list[torch.Tensor]) -> NDArray[np.generic]:
    """The last positions of each window, one window after the other."""
    return torch.cat(pieces).numpy().reshape(-1, WINDOW_TOKENS)[:, -SCORED_TOKENS:].reshape(-1)


def ratio_interval(first_N: NDArray[np.floating], second_N: NDArray[np.floating]) -> tuple[float, float]:
    """95 % interval of the ratio of mean divergences, by a bootstrap that draws positions, the same ones for both."""
    rng = np.random.default_rng(1)
    n = len(first_N)
    ratios = np.empty(N_RESAMPLES)
    for i in range(N_RESAMPLES):
        drawn = rng.integers(n, size=n)
        ratios[i] = first_N[drawn].mean(dtype=np.float64) / second_N[drawn].mean(dtype=np.float64)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredScores:
    """llama.cpp's scores on one model, with the tokens they were made for and the build that made them."""

    windows: NDArray[np.int32]
    scores: Scores
    build: str

    @classmethod
    def load(cls, model: str) -> "StoredScores":
        """Read the numbers of catalogue model `model`."""
        with np.load(stored_path(model), allow_pickle=False) as file:
            scores = Scores(kl_N=file["kl_N"], agrees_N=file["agrees_N"])
            return cls(windows=file["windows"], scores=scores, build=str(file["build"]))

    def save(self, model: str) -> None:
        """Write the numbers of `model`."""
        np.savez_compressed(
            stored_path(model),
            windows=self.windows,
            kl_N=self.scores.kl_N,
            agrees_N=self.scores.agrees_N,
            build=np.array(self.build),
        )


def stored_path(model: str) -> Path:
    """Where llama.cpp's numbers for a catalogue model are."""
    return ROOT / "tests/parity" / f"llama_cpp_kl_{model.replace(':', '-')}.npz"


def main() -> int:
    """Print the table for the models named."""
    from samovar.formats.hub import default_store, resolve
    from samovar.llm import LLM

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["smollm2:135m", "qwen2.5-coder:0.5b"])
    print(f"command: python -m benchmarks.quality {' '.join(sys.argv[1:])}")
    for model in parser.parse_args().models:
        path = resolve(model, default_store())
        stored, llm = StoredScores.load(model), LLM(path)
        ours = score(load_exact_model(path), stored.windows, {"samovar": llm.logits})["samovar"]
        low, high = ratio_interval(ours.kl_N, stored.scores.kl_N)
        print(f"\n{model}: {len(ours.kl_N)} positions, kernels {llm.ops.isa}, keys and values {llm.kv_type}")
        print(f"  samovar    mean KL {ours.mean_kl:.6f}  same first token {ours.top_1:.2f} %")
        print(
            f"  llama.cpp  mean KL {stored.scores.mean_kl:.6f}  same first token {stored.scores.top_1:.2f} %  ({stored.build})"
        )
        print(f"  ratio of mean KL {ours.mean_kl / stored.scores.mean_kl:.3f}, 95 % from {low:.3f} to {high:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
