"""What is timed is what was asked for."""

from pathlib import Path

import pytest

from samovar.engine.engine import Engine
from samovar.engine.request import Event
from samovar.errors import OutOfMemory
from samovar.llm import LLM
from samovar.llm.random_model import Shape, write_random_model
from samovar.llm.speed import bench_engine, timed_run

TINY = Shape(
    n_layers=1, d_model=64, n_heads=2, d_ffn=64, is_tied=True, n_kv_heads=1, d_head=32, vocab_size=1024, max_context=512
)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    write_random_model(tmp_path / "tiny.gguf", TINY, "q8_0")
    return bench_engine(LLM(tmp_path / "tiny.gguf", cache=False), n_streams=2, n_tokens=384)


def test_every_stream_gets_all_its_tokens_and_gives_its_pages_back(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Event] = []
    step = Engine.step

    def watched(self: Engine) -> list[Event]:
        events = step(self)
        seen.extend(events)
        return events

    monkeypatch.setattr(Engine, "step", watched)
    n_free = engine.pool.n_free
    done = timed_run(engine, [[5, 6, 7], [8, 9, 10]], 4)
    tokens = {event.sequence_id: 0 for event in seen}
    for event in seen:
        tokens[event.sequence_id] += len(event.token_ids)
    assert list(tokens.values()) == [4, 4]
    assert done.first_s > 0
    assert done.rest_s > 0
    assert done.python_share is not None
    assert 0 < done.python_share < 1
    assert engine.pool.n_free == n_free


def test_pages_come_back_when_they_do_not_suffice(engine: Engine) -> None:
    n_free = engine.pool.n_free
    with pytest.raises(OutOfMemory):
        timed_run(engine, [[5] * 300] * 3, 80)
    assert engine.pool.n_free == n_free
