"""A small model with the engine's real interface: two layers of attention over random projections, in NumPy."""

from dataclasses import fields

import numpy as np

from samovar.engine.engine import Engine, Limits
from samovar.engine.page_pool import PagePool
from samovar.engine.request import Event, Request, SamplingParams
from samovar.engine.sequence import Sequence
from samovar.engine.step_cost import StepCost
from samovar.kernels.reference import ReferenceOps

VOCAB, N_LAYERS, N_HEADS, N_KV_HEADS, D_HEAD = 97, 2, 4, 2, 8


class TinyModel:
    """Logits depend on every earlier token and its position, through the keys and values that `attend` keeps."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        width = N_HEADS * D_HEAD
        self.embedding = rng.normal(size=(VOCAB, width)).astype(np.float32)
        self.positions = rng.normal(size=(512, width)).astype(np.float32)
        self.to_kv = rng.normal(size=(N_LAYERS, 2, width, N_KV_HEADS * D_HEAD)).astype(np.float32) / 3
        self.n_tokens_per_call = []
        self.last_position = 0

    def __call__(self, ids_T, positions_T, attend, rows_S, adapted=()):
        self.n_tokens_per_call.append(len(ids_T))
        self.last_position = max(self.last_position, *positions_T.tolist())
        x_TD = self.embedding[ids_T] + self.positions[positions_T]
        for layer in range(N_LAYERS):
            k, v = (
                np.stack([row @ weights for row in x_TD]).reshape(-1, N_KV_HEADS, D_HEAD).astype(np.float32)
                for weights in self.to_kv[layer]
            )
            x_TD = x_TD + attend(layer, x_TD.reshape(-1, N_HEADS, D_HEAD), k, v).reshape(len(ids_T), -1)
        return np.stack([self.embedding @ row for row in x_TD[rows_S]]) if len(rows_S) else np.empty((0, VOCAB), np.float32)


class FixedCost(StepCost):
    """A step of one row takes a second, each further row `row_s`, whatever the clock says."""

    def __init__(self, row_s=0.0):
        super().__init__(one_row_s=1.0, row_s=row_s)

    is_known = True

    def observe(self, n_rows, seconds):
        pass


def tiny_engine(
    *, n_pages=32, max_context=256, max_step_tokens=512, model=None, start_drafters=(), row_s=0.0, kv_type="f32", **settings
):
    pool = PagePool(kv_type, n_pages=n_pages, n_layers=N_LAYERS, n_kv_heads=N_KV_HEADS, d_head=D_HEAD)
    limits = settings.pop("limits", Limits(max_step_tokens=max_step_tokens))
    return Engine(
        model or TinyModel(),
        ReferenceOps(),
        pool,
        VOCAB,
        max_context,
        limits,
        start_drafters,
        cost=FixedCost(row_s),
        **{"compile_grammar": lambda fake: fake, **settings},
    )


def request(prompt, **options):
    names = {field.name for field in fields(SamplingParams)}
    sampling = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 12, **{k: v for k, v in options.items() if k in names}}
    others = {k: v for k, v in options.items() if k not in names}
    return Request(prompt_ids=tuple(prompt), sampling=SamplingParams(**sampling), **others)


def run(engine: Engine, sequences: list[Sequence]) -> dict[int, list[Event]]:
    """Step until all have ended; the events of each, by its id."""
    events = {sequence.id: [] for sequence in sequences}
    for _ in range(100_000):
        if not engine.has_work:
            return events
        for event in engine.step():
            events[event.sequence_id].append(event)
    raise AssertionError("the engine does not come to an end")


def generate(engine: Engine, *requests: Request) -> list[Sequence]:
    sequences = [engine.submit(r) for r in requests]
    events = run(engine, sequences)
    for sequence in sequences:
        assert [e.ending is not None for e in events[sequence.id]] == [False] * (len(events[sequence.id]) - 1) + [True]
        assert [i for e in events[sequence.id] for i in e.token_ids] == ids_of(sequence)
        if sequence.error is not None:
            raise sequence.error
    assert engine.cache.n_available == engine.pool.n_pages
    return sequences


def ids_of(sequence):
    return sequence.token_ids[sequence.n_prompt :]
