"""The needle test on real weights: short enough for a test, with the rotation of every factor."""

from pathlib import Path

import pytest

from benchmarks.needle import N_COMPARED, held_to, hide, look, mean_kl
from samovar.llm import LLM

N_TOKENS, DEPTHS = 1200, (0.1, 0.5, 0.9)


@pytest.mark.slow
def test_a_real_model_finds_every_needle_with_each_rotation_and_with_int8_keys(qwen_coder: Path) -> None:
    found = {}
    for factor, kv_type in ((1, "bf16"), (1, "int8"), (2, "int8"), (4, "int8")):
        llm = LLM(qwen_coder, kv_type=kv_type, max_context=N_TOKENS, max_streams=1)
        llm._engine.long_context = held_to(llm, factor)
        found[factor, kv_type] = look(llm, hide(llm, N_TOKENS, DEPTHS), compares=True)
        llm.close()
    for (factor, _), one in found.items():
        assert one.hits == (True, True, True)
        assert one.factor == factor
        assert 0.9 * N_TOKENS < one.n_prompt < N_TOKENS
        assert one.log_p_NV.shape == (N_COMPARED + 1, llm.config.vocab_size)
    own = found[1, "bf16"].log_p_NV
    of_int8, of_yarn = mean_kl(own, found[1, "int8"].log_p_NV), mean_kl(own, found[4, "int8"].log_p_NV)
    assert 0 < of_int8 < 0.1
    assert of_int8 < of_yarn  # another rotation shows
