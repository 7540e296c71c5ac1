from dataclasses import replace

import pytest

from samovar.engine.page_pool import PagePool, page_bytes
from samovar.errors import BadRequest, OutOfMemory
from samovar.llm.memory import Budget, available_bytes, expert_bytes, kv_page_bytes, other_bytes
from samovar.models.config import ExpertsConfig, read_decoder_config

CONFIG = read_decoder_config(
    {
        "model_type": "llama", "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 3, "intermediate_size": 512, "vocab_size": 100, "max_position_embeddings": 4096,
    },
    "config.json",
)  # fmt: skip


def test_a_page_holds_keys_and_values_of_all_layers():
    assert kv_page_bytes(CONFIG, "f16") == 32 * 3 * 2 * 2 * 64 * 2
    assert kv_page_bytes(CONFIG, "int8") == 32 * 3 * 2 * 2 * (64 + 4)  # with a float32 scale


@pytest.mark.parametrize("kv_type", ["f32", "f16", "bf16", "int8"])
def test_a_pool_takes_the_bytes_that_its_pages_are_said_to_take(kv_type):
    pool = PagePool(kv_type, n_pages=5, n_layers=3, n_kv_heads=2, d_head=20)
    arrays = [a for p in pool.layers for a in (p.k_PGKB, p.v_PGBK, p.k_scale_PGB, p.v_scale_PGB)]
    assert sum(a.nbytes for a in arrays) == 5 * page_bytes(kv_type, n_layers=3, n_kv_heads=2, d_head=20)


PAGE = kv_page_bytes(CONFIG, "f16")


def choose(*, asked=None, free=1 << 40, packed=0, context=None, streams=64):
    return Budget(asked, free, packed).choose(CONFIG, "f16", context, streams)


def test_the_models_own_context_is_the_default_where_half_of_the_free_memory_holds_it():
    assert choose()[0] == 4096
    assert choose(free=20 * PAGE) == (320, 10)
    assert choose(free=30 * PAGE, packed=10 * PAGE) == (320, 10)


def test_the_pool_holds_a_few_full_contexts_as_far_as_half_of_the_free_memory_goes():
    assert choose() == (4096, 4 * 128)
    assert choose(streams=2) == (4096, 2 * 128)
    assert choose(free=300 * PAGE) == (4096, 150)
    assert choose(free=140 * PAGE, context=4096) == (4096, 128)


def test_a_context_beyond_the_model_or_the_memory_is_refused_with_what_would_fit():
    with pytest.raises(BadRequest, match="1 to 4096"):
        choose(context=4097)
    with pytest.raises(OutOfMemory, match="320 tokens would fit"):
        choose(context=4096, free=10 * PAGE)


def test_a_budget_is_kept_and_all_of_it_used():
    asked = 1000 * PAGE + other_bytes(CONFIG.vocab_size, 64)
    assert choose(asked=asked, packed=900 * PAGE) == (3200, 100)
    assert choose(asked=asked, packed=900 * PAGE, context=64) == (64, 100)
    with pytest.raises(OutOfMemory, match=r"left of the memory allowed; 3200 tokens would fit"):
        choose(asked=asked, packed=900 * PAGE, context=3300)
    with pytest.raises(OutOfMemory, match=r"allow 188 MiB at least"):
        choose(asked=asked, packed=1000 * PAGE)


def test_a_large_vocabulary_and_many_streams_leave_less_for_keys_and_values():
    assert other_bytes(49_152, 64) < 220 << 20
    assert other_bytes(151_936, 64) > other_bytes(151_936, 8) > other_bytes(49_152, 8)


def test_experts_leave_less_for_keys_and_values():
    experts = ExpertsConfig(n_experts=8, n_chosen=2, d_ffn=64, is_renormalised=True, dense_layers=frozenset())
    config = replace(CONFIG, experts=experts)
    assert expert_bytes(CONFIG) == 0
    assert expert_bytes(config) == 512 * (16 * 256 + 14 * 64)
    asked = 1000 * PAGE + other_bytes(CONFIG.vocab_size, 64)
    n_fewer = choose(asked=asked)[1] - Budget(asked, 1 << 40, 0).choose(config, "f16", None, 64)[1]
    assert n_fewer == -(-expert_bytes(config) // PAGE)


def test_the_control_groups_limit_is_respected(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 5000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 5000 * 1024


def test_a_large_pool_holds_what_is_written_to_it_in_small_and_in_huge_pages():
    (pages,) = PagePool("f16", n_pages=200, n_layers=1, n_kv_heads=4, d_head=128).layers
    assert pages.k_PGKB.nbytes > 4 << 20
    for array in (pages.k_PGKB, pages.v_PGBK):
        assert array.ctypes.data % 64 == 0
        assert array.flags.writeable
        array[:] = 1.5
        assert (array == 1.5).all()


def test_a_pool_beyond_the_address_space_is_refused():
    with pytest.raises(OutOfMemory, match="the system refuses"):
        PagePool("f16", n_pages=1 << 40, n_layers=1, n_kv_heads=4, d_head=128)
