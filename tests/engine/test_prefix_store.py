"""What a prefix cache holds, out and back in: the same texts, the same bits, and nothing where there is no room."""

import numpy as np
import pytest

from samovar.engine.prefix_store import collect, restore
from samovar.engine.realm import Realm
from samovar.kernels import PAGE_TOKENS
from tests.engine.fakes import VOCAB, generate, ids_of, request, tiny_engine

SYSTEM = [(7 * i) % 90 + 1 for i in range(2 * PAGE_TOKENS + 5)]
PROMPTS: list[tuple[Realm, list[int]]] = [
    (("", "", 1), SYSTEM),
    (("", "", 1), [*SYSTEM, *range(40)]),  # goes on from a page that is not full
    (("", "", 1), [*SYSTEM[:PAGE_TOKENS], *range(60, 90)]),  # branches after a page
    (("", "", 1), [*SYSTEM[: PAGE_TOKENS + 9], 3, 4]),  # branches within one
    (("ann", "", 1), SYSTEM),
    (("bob", "", 1), [5, 6, 7]),
]


def ask(engine, realm, prompt, max_tokens=6):
    (sequence,) = generate(engine, request(prompt, tenant=realm[0], max_tokens=max_tokens))
    return sequence


def filled(**settings):
    engine = tiny_engine(n_pages=64, **settings)
    for realm, prompt in PROMPTS:
        ask(engine, realm, prompt)
    return engine


def texts(engine):
    """All that is cached: realm and path of ids, with the bytes of the last page."""
    found = {}
    for realm, path in engine.cache.paths():
        n = len(path[-1].ids)
        layers = engine.pool.layers
        parts = [layer.k_PGKB[path[-1].page][..., :n].tobytes() for layer in layers]
        parts += [layer.v_PGBK[path[-1].page][:, :n].tobytes() for layer in layers]
        parts += [
            scale[path[-1].page][:, :n].tobytes()
            for layer in layers
            for scale in (layer.k_scale_PGB, layer.v_scale_PGB)
            if len(scale)
        ]
        found[realm, tuple(node.ids for node in path)] = parts
    return found


def put(engine, saved):
    meta, sections = saved
    return restore(engine.cache, meta, sections, VOCAB)


@pytest.mark.parametrize("kv_type", ["f32", "f16", "bf16", "int8"])
def test_what_was_saved_is_there_again_bit_for_bit_and_serves_as_before(kv_type):
    old, new = filled(kv_type=kv_type), tiny_engine(n_pages=64, kv_type=kv_type)
    wanted = texts(old)
    assert any(len(path[-1]) < PAGE_TOKENS for _, path in wanted)
    assert {realm for realm, _ in wanted} == {("", "", 1), ("ann", "", 1), ("bob", "", 1)}
    assert put(new, collect(old.cache)) == sum(len(path[-1]) for _, path in wanted)
    assert texts(new) == wanted
    assert (new.pool.n_idle, new.cache.n_available) == (len(wanted), 64)
    for realm, prompt in PROMPTS:
        again, fresh = ask(new, realm, prompt), ask(tiny_engine(n_pages=64, kv_type=kv_type), realm, prompt)
        assert again.n_cached == len(prompt) - 1
        assert ids_of(again) == ids_of(fresh)


def test_tenants_do_not_meet_in_what_was_saved():
    new = tiny_engine(n_pages=64)
    put(new, collect(filled().cache))
    assert ask(new, ("ann", "", 1), SYSTEM).n_cached == len(SYSTEM) - 1
    assert ask(new, ("carl", "", 1), SYSTEM).n_cached == 0
    assert ask(new, ("bob", "", 1), SYSTEM).n_cached == 0


def test_what_was_computed_with_an_adapter_is_left_out():
    engine = filled()
    node, pages = engine.cache.root(("", "lora", 1)), []
    engine.cache.grow(pages, 3)
    engine.cache.put_away(node, [1, 2, 3], pages, 3)
    meta, sections = collect(engine.cache)
    n_plain = len(texts(engine)) - 1
    assert len(meta["nodes"]) == n_plain
    assert len(sections["k0"]) == n_plain * engine.pool.layers[0].k_PGKB[0].nbytes
    assert put(tiny_engine(n_pages=64), (meta, sections)) > 0


def test_an_empty_cache_is_saved_and_restored_as_nothing():
    new = tiny_engine(n_pages=64)
    assert put(new, collect(tiny_engine().cache)) == 0
    assert not texts(new)


@pytest.mark.parametrize("n_pages", [1, 2, 4])
def test_too_few_pages_take_what_fits_with_all_that_precedes_it(n_pages):
    old = filled()
    wanted = texts(old)
    new = tiny_engine(n_pages=n_pages, max_context=n_pages * PAGE_TOKENS)
    n_tokens = put(new, collect(old.cache))
    found = texts(new)
    assert 0 < n_tokens == sum(len(path[-1]) for _, path in found)
    assert len(found) == n_pages
    assert all(wanted[key] == parts for key, parts in found.items())
    assert all((realm, path[:-1]) in found for realm, path in found if len(path) > 1)
    prompt = next(([*path[0]] for _, path in found), [])[: PAGE_TOKENS - 2]
    assert ids_of(ask(new, ("", "", 1), prompt, 2)) == ids_of(ask(tiny_engine(), ("", "", 1), prompt, 2))


def test_what_is_there_already_takes_no_second_page_and_is_not_counted():
    engine = filled()
    wanted, n_free = texts(engine), engine.pool.n_free
    assert put(engine, collect(engine.cache)) == 0
    assert (texts(engine), engine.pool.n_free) == (wanted, n_free)


def test_pages_in_use_are_saved_as_far_as_they_are_full_and_restoring_harms_no_running_request():
    busy = tiny_engine(n_pages=64)
    sequence = busy.submit(request([*SYSTEM, *range(30)], max_tokens=20))
    for _ in range(5):
        busy.step()
    saved = collect(busy.cache)
    assert [len(node["ids"]) for node in saved[0]["nodes"]] == [PAGE_TOKENS] * 3
    put(busy, collect(filled().cache))
    while busy.has_work:
        busy.step()
    assert ids_of(sequence) == ids_of(ask(tiny_engine(n_pages=64), ("", "", 1), [*SYSTEM, *range(30)], 20))
    new = tiny_engine(n_pages=64)
    put(new, saved)
    assert ask(new, ("", "", 1), [*SYSTEM, *range(30)]).n_cached == 3 * PAGE_TOKENS


def test_a_cache_that_is_off_takes_nothing():
    new = tiny_engine(n_pages=64, keeps_prefixes=False)
    assert put(new, collect(filled().cache)) == 0
    assert new.pool.n_free == 64


@pytest.mark.parametrize(
    "spoil",
    [
        lambda nodes: nodes[0].update(parent=0),
        lambda nodes: nodes[0].update(parent=-2),
        lambda nodes: nodes[1].update(parent="0"),
        lambda nodes: nodes[0].update(tenant=5),
        lambda nodes: nodes[0].update(ids=[]),
        lambda nodes: nodes[0].update(ids=[1] * (PAGE_TOKENS + 1)),
        lambda nodes: nodes[0].update(ids=[VOCAB]),
        lambda nodes: nodes[0].update(ids=[-1]),
        lambda nodes: nodes[0].update(ids=[True]),
        lambda nodes: nodes[0].update(ids=[1.0]),
        lambda nodes: nodes[0].pop("ids"),
        lambda nodes: nodes.append(nodes[0]),
        lambda nodes: nodes.pop(),
        lambda nodes: nodes.__setitem__(0, "node"),
    ],
)
def test_unsound_nodes_are_refused(spoil):
    meta, sections = collect(filled().cache)
    spoil(meta["nodes"])
    with pytest.raises((ValueError, KeyError, TypeError)):
        put(tiny_engine(n_pages=64), (meta, sections))


@pytest.mark.parametrize("name", ["k0", "v1"])
def test_a_section_of_another_size_or_none_is_refused(name):
    meta, sections = collect(filled().cache)
    with pytest.raises(ValueError, match="wrong size"):
        put(tiny_engine(n_pages=64), (meta, sections | {name: sections[name][:-4]}))
    with pytest.raises(ValueError, match="wrong size"):
        put(tiny_engine(n_pages=64, kv_type="f16"), (meta, sections))
    with pytest.raises(KeyError):
        put(tiny_engine(n_pages=64), (meta, {key: value for key, value in sections.items() if key != name}))


def test_a_page_below_one_that_is_not_full_is_never_taken_up():
    meta, sections = collect(filled().cache)
    nodes = meta["nodes"]
    partial = next(i for i, node in enumerate(nodes) if len(node["ids"]) < PAGE_TOKENS)
    nodes.append({"tenant": "", "factor": 1, "parent": partial, "ids": [1, 2]})
    grown = {name: np.concatenate([data, data[: len(data) // (len(nodes) - 1)]]) for name, data in sections.items()}
    new = tiny_engine(n_pages=64)
    put(new, (meta, grown))
    assert len(texts(new)) == len(nodes) - 1
