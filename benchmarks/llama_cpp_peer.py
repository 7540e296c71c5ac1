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
    """One model and one context for up to `n_streams` sequences of `n_context` tokens each. `all_logits` allows logits of
    every position of a call."""

    def __init__(self, path: Path, *, n_threads: int, n_context: int, n_streams: int = 1, all_logits: bool = False) -> None:
        llama_cpp.llama_log_set(_no_log, None)
        self._model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        assert self._model, f"llama.cpp cannot open {path}"
        self._params = api.llama_context_default_params()
        self._params.n_threads = self._params.n_threads_batch = n_threads
        if all_logits:
            self._params.n_outputs_max_per_seq = 0
        self._context = None
        self.resize(n_context, n_streams)
        self._vocab = api.llama_model_get_vocab(self._model)
        self._sampler = api.llama_sampler_init_greedy()
        self.vocab_size: int = api.llama_vocab_n_tokens(self._vocab)

    def resize(self, n_context: int, n_streams: int) -> None:
        """Forget all tokens, and make room for as many streams of as many tokens."""
        if self._context:
            api.llama_free(self._context)
        self._params.n_ctx, self._params.n_seq_max = n_context * n_streams, n_streams
        self._context = api.llama_init_from_model(self._model, self._params)
        assert self._context, f"llama.cpp makes no context of {n_streams} times {n_context} tokens"

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

    def next_ids(self, ids_ST: list[list[int]], start: int) -> list[int]:
        """Compute some tokens of each stream, from position `start` on, in one call, and choose each one's likeliest next."""
        batch = api.llama_batch_init(sum(map(len, ids_ST)), 0, 1)
        last_rows = []
        for stream, ids in enumerate(ids_ST):
            for position, token_id in enumerate(ids, start):
                row = batch.n_tokens
                batch.token[row], batch.pos[row], batch.logits[row] = token_id, position, position == start + len(ids) - 1
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, stream
                batch.n_tokens = row + 1
            last_rows.append(batch.n_tokens - 1)
        assert api.llama_decode(self._context, batch) == 0
        api.llama_batch_free(batch)
        return [int(api.llama_sampler_sample(self._sampler, self._context, row)) for row in last_rows]

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
