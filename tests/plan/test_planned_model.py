"""Models that are not loaded: their sizes are those of loaded ones, and their speeds follow what is read and computed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samovar.engine.page_pool import PagePool, n_pages_for
from samovar.formats import open_checkpoint
from samovar.kernels import KV_DTYPES
from samovar.kernels.native import available_isas
from samovar.llm import LLM
from samovar.llm.random_model import QUANTS, SHAPES, Shape, random_checkpoint, write_random_model
from samovar.llm.speed import bench_engine, random_prompts, timed_run
from samovar.plan.costs import Machine, expected_distinct
from samovar.plan.machine import measure_machine
from samovar.plan.planned_model import PlannedModel
from tests.matrices import slow_but
from tests.models.tiny_checkpoints import VARIANTS, random_model, write_folder

pytestmark = pytest.mark.skipif(not available_isas(), reason="native kernels are not built")

DENSE = Shape(
    n_layers=8, d_model=256, n_heads=4, d_ffn=512, n_kv_heads=1, d_head=64, is_tied=True, vocab_size=600, max_context=256
)
SPARSE = replace(DENSE, is_tied=False, n_experts=6, n_chosen=2, d_expert=256)
MACHINE = Machine(read_bytes_per_s=30e9, int8_ops_per_s=0.9e12)


def planned(name: str, quant: str = "q4_0", **settings: object) -> PlannedModel:
    return PlannedModel.of(random_checkpoint(name, SHAPES[name], quant), name=name, quant=quant, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", slow_but([SPARSE], [DENSE, SPARSE]), ids=["dense", "experts"])
@pytest.mark.parametrize(("quant", "form"), [(quant, "stored") for quant in QUANTS] + [("q8_0", "int4")])
def test_bytes_are_those_of_the_loaded_model(shape: Shape, quant: str, form: str, tmp_path: Path) -> None:
    write_random_model(tmp_path / "random.gguf", shape, quant)
    llm = LLM(tmp_path / "random.gguf", weights=form, n_threads=1, cache=False)  # type: ignore[arg-type]
    of_shape = PlannedModel.of(random_checkpoint("x", shape, quant), name="x", quant=quant, form=form)  # type: ignore[arg-type]
    of_file = PlannedModel.of(open_checkpoint(tmp_path / "random.gguf"), name="x", quant=quant, form=form)  # type: ignore[arg-type]
    for model in (of_shape, of_file):
        assert model.decoder.packed_bytes == llm.model.packed_bytes
        assert model.decoder.read_bytes == llm.model.read_bytes
        assert model.n_parameters == sum(tensor.n_elements for tensor in open_checkpoint(llm.path).tensors.values())
        same = {name: getattr(llm.config, name) for name in ("rope", "long_context", "norm_eps")}
        assert replace(model.config, **same) == llm.config
        assert model.kv_type == llm.kv_type


@pytest.mark.parametrize("name", ["qwen3", "llama3-scaled", "qwen3-moe"])
def test_folders_of_any_architecture_are_laid_out(name: str, tmp_path: Path) -> None:
    name = name if name in VARIANTS else next(known for known in VARIANTS if known.startswith(name.split("-")[0]))
    write_folder(random_model(VARIANTS[name]), tmp_path)
    llm = LLM(tmp_path, n_threads=1, cache=False)
    model = PlannedModel.of(open_checkpoint(tmp_path), name=name, quant="as stored")
    assert model.decoder.packed_bytes == llm.model.packed_bytes
    assert model.prefill_tokens_per_s(MACHINE, 20) > 0


@pytest.mark.parametrize("kv_type", KV_DTYPES)
def test_keys_and_values_are_counted_in_pages_of_their_type(kv_type: str) -> None:
    model = planned("qwen3-0.6b", kv_type=kv_type)
    config = model.config
    pool = PagePool(kv_type, n_pages=n_pages_for(100), n_layers=2, n_kv_heads=config.n_kv_heads, d_head=config.d_head)  # type: ignore[arg-type]
    arrays = [a for layer in pool.layers for a in (layer.k_PGKB, layer.v_PGBK, layer.k_scale_PGB, layer.v_scale_PGB)]
    assert model.kv_bytes(100, 3) == 3 * sum(array.nbytes for array in arrays) * config.n_layers // 2


def test_the_longest_context_fits_and_a_page_more_does_not() -> None:
    model, usable = planned("qwen3-4b", "q4_k_m"), 6 << 30
    for n_users in (1, 3):
        longest = model.most_context(usable, n_users)
        assert 0 < longest < model.longest_context
        assert model.memory_bytes(longest, n_users) <= usable < model.memory_bytes(longest + 32, n_users)
    assert model.most_context(1 << 40, 1) == model.longest_context == 131_072  # YaRN's factor 4
    assert [model.yarn_factor(n) for n in (40_960, 40_961, 65_536, 65_537)] == [1, 2, 2, 4]
    assert model.most_context(1 << 30, 1) == 0


def test_published_sizes_come_out_of_the_shapes() -> None:
    published = {"qwen3-0.6b": 0.596, "qwen3-1.7b": 1.721, "qwen3-4b": 4.022, "qwen3-8b": 8.191, "qwen3-14b": 14.768}
    published |= {"qwen3-32b": 32.762, "qwen3-30b-a3b": 30.53, "qwen3-235b-a22b": 235.09, "qwen3-coder-480b-a35b": 480.2}
    for name, billions in published.items():
        assert planned(name).n_parameters / 1e9 == pytest.approx(billions, rel=1e-3), name
    assert planned("qwen3-0.6b", "bf16").kv_bytes(1024, 1) == 1024 * 112 << 10
    assert planned("qwen3-32b", "bf16").kv_bytes(1024, 1) == 1024 * 256 << 10


def test_half_the_bandwidth_is_nearly_half_the_speed_of_one_stream_and_prefill_does_not_mind() -> None:
    model = planned("qwen3-8b", "q8_0")
    slow = replace(MACHINE, read_bytes_per_s=MACHINE.read_bytes_per_s / 2)
    ratio = model.decode_tokens_per_s(slow, context=16) / model.decode_tokens_per_s(MACHINE, context=16)
    assert 0.5 <= ratio < 0.56
    assert model.prefill_tokens_per_s(slow, 512) > 0.95 * model.prefill_tokens_per_s(MACHINE, 512)


def test_only_the_chosen_experts_are_read() -> None:
    sparse, dense = planned("qwen3-30b-a3b"), planned("qwen3-32b")
    assert sparse.decode_tokens_per_s(MACHINE, context=16) > 6 * dense.decode_tokens_per_s(MACHINE, context=16)


def test_several_streams_share_the_reading_and_each_reads_its_own_context() -> None:
    model = planned("qwen3-1.7b")
    one, four = (model.decode_tokens_per_s(MACHINE, context=16, n_streams=n) for n in (1, 4))
    assert 2 * one < four < 4 * one
    far_one, far_four = (model.decode_tokens_per_s(MACHINE, context=30_000, n_streams=n) for n in (1, 4))
    assert far_one < one / 2
    assert far_four < 1.5 * far_one


def test_a_long_prompt_is_slower_a_token_than_a_short_one() -> None:
    model = planned("qwen3-0.6b")
    assert model.prefill_tokens_per_s(MACHINE, 8192) < 0.7 * model.prefill_tokens_per_s(MACHINE, 512)


def test_experts_chosen_by_lot_are_as_many_as_counted() -> None:
    rng = np.random.default_rng(1)
    for n_rows in (1, 5, 40):
        drawn = [len({int(e) for _ in range(n_rows) for e in rng.choice(32, 4, replace=False)}) for _ in range(400)]
        assert expected_distinct(32, 4, n_rows) == pytest.approx(np.mean(drawn), rel=0.02)
    assert expected_distinct(6, 6, 1) == 6


@pytest.mark.alone
@pytest.mark.slow
def test_a_rate_that_is_measured_is_near_the_one_foretold(tmp_path: Path) -> None:
    # `benchmarks.plan_check` holds the band of 25 %; here other tests may have the cores
    shape = SHAPES["qwen3-0.6b"].with_layers(6)
    write_random_model(tmp_path / "random.gguf", shape, "q4_0")
    llm = LLM(tmp_path / "random.gguf", max_context=16, cache=False, speculation="off")
    model, engine = planned_file(tmp_path / "random.gguf"), bench_engine(llm, n_streams=1, n_tokens=600)
    ratios = []
    for seed in range(5):
        machine = measure_machine(llm.ops.isa, llm.ops.n_threads, model.kernels)
        rest_s = timed_run(engine, random_prompts(1, 16, seed, shape.vocab_size), 32).rest_s
        first_s = timed_run(engine, random_prompts(1, 512, seed, shape.vocab_size), 1).first_s
        ratios.append(
            (
                31 / rest_s / model.decode_tokens_per_s(machine, context=32),
                512 / first_s / model.prefill_tokens_per_s(machine, 512),
            )
        )
    worst, best = np.min(ratios, axis=0), np.max(ratios, axis=0)  # for decode and prefill
    assert (best > 0.5).all()
    assert (worst < 2).all()


def planned_file(path: Path) -> PlannedModel:
    return PlannedModel.of(open_checkpoint(path), name="file", quant="as stored")
