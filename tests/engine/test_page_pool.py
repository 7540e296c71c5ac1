"""Pages are counted right whatever is done with them, and nothing of a page is left out when it is copied."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine.page_pool import PagePool, n_pages_for, page_bytes
from samovar.errors import OutOfMemory
from samovar.kernels import KV_DTYPES, PAGE_TOKENS


def small_pool(kv_type="f32", n_pages=6):
    return PagePool(kv_type, n_pages=n_pages, n_layers=2, n_kv_heads=3, d_head=4)


def arrays(pool):
    return [a for layer in pool.layers for a in (layer.k_PGKB, layer.v_PGBK, layer.k_scale_PGB, layer.v_scale_PGB) if len(a)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["take", "use", "leave", "hold", "drop"]), st.integers(0, 5)), max_size=60))
def test_no_page_is_given_out_twice_and_none_is_lost(operations):
    pool = small_pool()
    users, held = [0] * 6, [False] * 6
    for name, page in operations:
        if name == "take" and pool.n_free:
            page = pool.take()
            assert not users[page]
            assert not held[page]
            users[page] = 1
        elif name == "use" and (users[page] or held[page]):
            pool.use(page)
            users[page] += 1
        elif name == "leave" and users[page]:
            pool.leave(page)
            users[page] -= 1
        elif name == "hold" and users[page] and not held[page]:
            pool.hold(page)
            held[page] = True
        elif name == "drop" and held[page]:
            pool.drop(page)
            held[page] = False
        assert [pool.n_users(page) for page in range(6)] == users
        assert pool.n_idle == sum(h and not u for h, u in zip(held, users, strict=True))
        assert pool.n_free == sum(not h and not u for h, u in zip(held, users, strict=True))
    taken = [pool.take() for _ in range(pool.n_free)]
    assert len(set(taken)) == len(taken)
    assert not any(users[page] or held[page] for page in taken)


@pytest.mark.parametrize("n_tokens", [0, 1, PAGE_TOKENS - 1, PAGE_TOKENS, PAGE_TOKENS + 1, 3 * PAGE_TOKENS])
def test_shrinking_leaves_the_pages_that_so_many_tokens_need(n_tokens):
    pool = small_pool()
    pages = [pool.take() for _ in range(4)]
    kept = pages[: n_pages_for(n_tokens)]
    pool.shrink(pages, n_tokens)
    assert pages == kept
    assert n_pages_for(n_tokens) * PAGE_TOKENS - n_tokens in range(PAGE_TOKENS)
    assert pool.n_free == 6 - len(kept)


def test_leaving_a_page_that_nobody_uses_is_found_out():
    pool = small_pool()
    pool.leave(pool.take())
    with pytest.raises(AssertionError):
        pool.leave(0)


@pytest.mark.parametrize("kv_type", KV_DTYPES)
def test_a_copied_page_holds_all_layers_keys_values_and_scales_and_no_other_page_changes(kv_type):
    pool = small_pool(kv_type)
    rng = np.random.default_rng(0)
    for array in arrays(pool):
        array[...] = rng.integers(0, 100, array.shape)
    before = [array.copy() for array in arrays(pool)]
    pool.copy(2, 4)
    for array, old in zip(arrays(pool), before, strict=True):
        assert np.array_equal(array[4], old[2])
        assert np.array_equal(np.delete(array, 4, axis=0), np.delete(old, 4, axis=0))


@pytest.mark.parametrize("kv_type", KV_DTYPES)
def test_the_size_of_a_page_is_what_its_arrays_take(kv_type):
    pool = small_pool(kv_type)
    size = page_bytes(kv_type, n_layers=2, n_kv_heads=3, d_head=4)
    assert size * pool.n_pages == sum(array.nbytes for array in arrays(pool))


def test_a_pool_that_the_system_refuses_says_what_it_was_for():
    with pytest.raises(OutOfMemory, match=f"{2**50 * PAGE_TOKENS} tokens need .* GiB.*--ctx-size"):
        small_pool(n_pages=2**50)
