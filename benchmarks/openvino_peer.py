"""OpenVINO GenAI on the CPU: its continuous batching pipeline, which its plain pipeline is built on, with its own defaults.

Only the number of threads and the size of the cache are set. Keys and values are stored as OpenVINO chooses: in 8 bits.
"""

import time
from pathlib import Path

import numpy as np
import openvino
import openvino_genai as genai


class Pipeline:
    """One model. `n_context` is how many tokens the cache has to hold, of all streams together."""

    def __init__(self, folder: Path, *, n_threads: int, n_context: int) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = max(1, -(-n_context * 2**18 // 2**30))  # GiB, at 256 KiB a token
        scheduler.max_num_batched_tokens = 2048
        self._pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", {"INFERENCE_NUM_THREADS": n_threads})

    def continue_text(self, text: str, n_tokens: int) -> None:
        """Encode a text, and continue it greedily."""
        self._pipeline.generate([text], [_greedy(n_tokens)])

    def run(self, prompts_ST: list[list[int]], n_tokens: int) -> tuple[float, float]:
        """Step by step, by the wall clock: seconds until every stream has its first token, and for the others."""
        config = _greedy(n_tokens)
        started = first = time.perf_counter()
        handles = [
            self._pipeline.add_request(number, openvino.Tensor(np.array([ids], np.int64)), config)
            for number, ids in enumerate(prompts_ST)
        ]
        n_done = [0] * len(handles)
        while self._pipeline.has_non_finished_requests():
            was_first = min(n_done) == 0
            self._pipeline.step()
            for number, handle in enumerate(handles):
                if handle.can_read():
                    n_done[number] += sum(len(output.generated_ids) for output in handle.read().values())
            if was_first and min(n_done) > 0:
                first = time.perf_counter()
        assert set(n_done) == {n_tokens}, n_done
        return first - started, time.perf_counter() - first


def _greedy(n_tokens: int) -> genai.GenerationConfig:
    config = genai.GenerationConfig()
    config.do_sample, config.max_new_tokens, config.ignore_eos, config.apply_chat_template = False, n_tokens, True, False
    return config


def describe() -> str:
    """Versions."""
    return f"openvino-genai {genai.__version__.split('-')[0]}, int4 groups of 128"
