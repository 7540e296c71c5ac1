"""llama.cpp through the low-level functions of `llama-cpp-python`: no Python in its inner loops, its own defaults.

Two things differ from the defaults: the number of threads, and the context, which is cut to what a measurement needs. Keys
and values are f16, flash attention is on where llama.cpp chooses it.
"""

from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as api
from numpy.typing import NDArray


class LlamaCpp:
    """One model and one context. `all_logits` allows logits of every position of a call."""

    def __init__(self, path: Path, *, n_threads: int, n_context: int, all_logits: bool = False) -> None:
        llama_cpp.llama_log_set(_no_log, None)
        self._model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        params = api.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = n_context, n_threads, n_threads
        if all_logits:
            params.n_outputs_max_per_seq = 0
        self._context = api.llama_init_from_model(self._model, params)
        assert self._context, f"llama.cpp cannot open {path}"
        self._vocab = api.llama_model_get_vocab(self._model)
        self._sampler = api.llama_sampler_init_greedy()
        self.vocab_size: int = api.llama_vocab_n_tokens(self._vocab)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with a beginning-of-text token where the model wants one."""
        data = text.encode()
        ids = (api.llama_token * (len(data) + 8))()
        n_tokens = api.llama_tokenize(self._vocab, data, len(data), ids, len(ids), True, True)
        assert n_tokens >= 0
        return list(ids[:n_tokens])

    def restart(self) -> None:
        """Forget all tokens."""
        api.llama_memory_clear(api.llama_get_memory(self._context), True)

    def next_id(self, ids: list[int]) -> int:
        """Compute `ids` after what came before, and choose the likeliest next token."""
        array = (api.llama_token * len(ids))(*ids)
        assert api.llama_decode(self._context, api.llama_batch_get_one(array, len(ids))) == 0
        return int(api.llama_sampler_sample(self._sampler, self._context, -1))

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """Logits [T, V] after every token of a fresh sequence, in one call of up to 2,048 tokens."""
        self.restart()
        batch = api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for position, token_id in enumerate(ids):
            batch.token[position], batch.pos[position], batch.logits[position] = token_id, position, 1
            batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
        assert api.llama_decode(self._context, batch) == 0
        rows = api.llama_get_logits(self._context)
        logits = np.ctypeslib.as_array(rows, shape=(len(ids), self.vocab_size)).copy()
        api.llama_batch_free(batch)
        return logits


def describe() -> str:
    """Version and instruction sets of the build."""
    flags = llama_cpp.llama_print_system_info().decode().removeprefix("CPU : ")
    used = [flag.split("=")[0].strip() for flag in flags.split("|") if flag.strip().endswith("= 1")]
    return f"llama-cpp-python {llama_cpp.__version__} ({', '.join(used)})"


@llama_cpp.llama_log_callback
def _no_log(level: int, text: bytes, user_data: object) -> None:
    """Swallow llama.cpp's log."""
