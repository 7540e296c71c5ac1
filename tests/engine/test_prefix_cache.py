"""What is found in the cache is what was computed for these very tokens, and pages go in the order of their last use."""

import random
import time

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from samovar.engine.page_pool import PagePool, n_pages_for
from samovar.engine.prefix_cache import Break, PrefixCache
from samovar.kernels import PAGE_TOKENS
from tests.engine.page_checks import check_pages

A, B = ("a", "", 1), ("b", "", 1)


def new_cache(n_pages=16, **options):
    return PrefixCache(PagePool("f32", n_pages=n_pages, n_layers=1, n_kv_heads=1, d_head=1), **options)


class Text:
    """Stands for a sequence: what it 'computes' for a token is a number that all tokens before it and the realm decide."""

    def __init__(self, cache, ids, realm=A):
        self.cache, self.ids, self.realm, self.pages = cache, list(ids), realm, []
        self.match, self.node = cache.take_up(realm, self.ids, self.pages)
        self.n_computed = self.match.n_tokens
        self.n_shared = len(self.match.nodes) * PAGE_TOKENS
        self.check()

    def key(self, position):
        return np.float32(hash((self.realm == A, *self.ids[: position + 1])) % (1 << 24))

    def slot(self, position):
        return self.pages[position // PAGE_TOKENS], 0, 0, position % PAGE_TOKENS

    def check(self):
        keys = self.cache.pool.layers[0].k_PGKB
        assert len(self.pages) == n_pages_for(self.n_computed)
        assert [keys[self.slot(p)] for p in range(self.n_computed)] == [self.key(p) for p in range(self.n_computed)]

    def compute(self, n_more=None):
        end = len(self.ids) if n_more is None else min(self.n_computed + n_more, len(self.ids))
        if not self.cache.grow(self.pages, end):
            return False
        for position in range(self.n_computed, end):
            self.cache.pool.layers[0].k_PGKB[self.slot(position)] = self.key(position)
        self.n_computed = end
        self.node = self.cache.extend(self.node, self.ids, self.pages, self.n_shared, end)
        self.n_shared = end // PAGE_TOKENS * PAGE_TOKENS
        self.check()
        return True

    def end(self):
        self.cache.put_away(self.node, self.ids, self.pages, self.n_computed)
        assert not self.pages


def keep(cache, ids, realm=A):
    text = Text(cache, ids, realm)
    assert text.compute()
    text.end()


def cached(cache, ids, realm=A):
    return cache.match(realm, ids).n_tokens


class Texts(RuleBasedStateMachine):
    """Texts of two realms over three tokens, so that they share, part and return, in a pool that is too small for them."""

    def __init__(self):
        super().__init__()
        self.cache = new_cache(n_pages=10)
        self.texts = []

    @rule(seed=st.integers(0, 5), n=st.integers(1, 130), tail=st.lists(st.integers(0, 2), max_size=3), is_a=st.booleans())
    def begin(self, seed, n, tail, is_a):
        rng = random.Random(seed % 3)
        ids = [rng.randrange(3) for _ in range(n)]
        if len(self.texts) < 4:
            self.texts.append(Text(self.cache, ids + tail, A if is_a else B))

    @rule(at=st.integers(0, 3), n=st.integers(1, 70))
    def compute(self, at, n):
        if at < len(self.texts):
            text = self.texts[at]
            if not text.compute(n):
                assert n_pages_for(min(text.n_computed + n, len(text.ids))) - len(text.pages) > self.cache.n_available

    @rule(at=st.integers(0, 3))
    def end(self, at):
        if at < len(self.texts):
            self.texts.pop(at).end()

    @rule(seed=st.integers(0, 2), n=st.integers(1, 130), n_keep=st.integers(0, 70))
    def forget(self, seed, n, n_keep):
        rng = random.Random(seed)
        self.cache.forget(A, [rng.randrange(3) for _ in range(n)], n_keep)

    @rule()
    def clear(self):
        self.cache.clear()
        assert not self.cache.pool.n_idle

    @invariant()
    def pages_are_counted_right_and_hold_what_they_should(self):
        check_pages(self.cache, [text.pages for text in self.texts])
        for text in self.texts:
            text.check()

    def teardown(self):
        for text in self.texts:
            text.end()
        check_pages(self.cache, [])
        self.cache.clear()
        assert self.cache.pool.n_free == self.cache.pool.n_pages


TestTexts = Texts.TestCase
TestTexts.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 63, 64, 65, 100])
def test_a_text_that_is_cached_whole_leaves_one_token_to_compute(n):
    cache = new_cache()
    keep(cache, range(n))
    assert cached(cache, range(n)) == n - 1
    assert cached(cache, range(n + 5)) == n


def test_a_page_that_agrees_in_part_is_copied_and_the_original_stays_as_it_is():
    cache = new_cache()
    keep(cache, range(50))
    text = Text(cache, [*range(40), 7, 8])
    assert (len(text.match.nodes), text.match.n_partial) == (1, 8)
    assert text.pages[0] == text.match.nodes[0].page
    assert text.pages[1] != text.match.partial.page
    text.compute()
    text.end()
    Text(cache, [*range(50), 1]).check()


def test_the_best_of_several_pages_that_agree_in_part_is_taken():
    cache = new_cache()
    for n_same in (3, 9, 6):
        keep(cache, [*range(32), *range(100, 100 + n_same), *[7] * 10])
    assert cached(cache, [*range(32), *range(100, 130)]) == 32 + 9


def test_without_a_free_page_the_part_of_a_page_is_left_and_whole_pages_are_shared():
    cache = new_cache(n_pages=3)
    keep(cache, range(40))
    user = Text(cache, range(500, 500 + 32))
    user.compute()
    assert cache.pool.n_free == 0
    first = Text(cache, range(64))  # uses the whole page; the part of the other has no place to go but its own
    assert first.match.n_tokens == 32
    assert len(first.pages) == 1
    check_pages(cache, [user.pages, first.pages])
    assert first.compute()


def test_realms_do_not_meet():
    cache = new_cache()
    keep(cache, range(50), A)
    assert cached(cache, range(50), B) == cached(cache, range(50), ("a", "adapter")) == 0
    assert cache.match(B, range(50)).parting is None
    keep(cache, range(50), B)
    assert len({path[-1].page for _, path in cache.paths()}) == 4


def test_of_two_that_computed_the_same_page_one_copy_is_kept():
    cache = new_cache()
    one, two = Text(cache, range(40)), Text(cache, range(40))
    one.compute()
    two.compute()
    assert one.pages[0] == two.pages[0]
    assert one.pages[1] != two.pages[1]
    assert cache.pool.n_users(one.pages[0]) == 2
    check_pages(cache, [one.pages, two.pages])
    one.end()
    two.compute()
    two.end()
    assert len(list(cache.paths())) == 2


def test_a_leaf_that_a_longer_one_begins_with_is_dropped():
    cache = new_cache()
    keep(cache, range(40))
    keep(cache, range(50))
    keep(cache, range(45))
    assert [len(path[-1].ids) for _, path in cache.paths()] == [32, 18]
    keep(cache, range(70))
    assert [len(path[-1].ids) for _, path in cache.paths()] == [32, 32, 6]


def test_the_leaves_not_used_for_longest_go_first_and_parents_after_their_children():
    cache = new_cache(n_pages=6)
    starts = (1000, 2000, 3000)
    for start in starts:
        keep(cache, range(start, start + 64))
    Text(cache, range(1000, 1065)).end()  # used again
    expected = [(64, 32, 64), (64, 0, 64), (64, 0, 32), (64, 0, 0), (32, 0, 0), (0, 0, 0)]
    for n_free, found in enumerate(expected, 1):
        assert cache.make_room(n_free)
        assert tuple(cached(cache, range(start, start + 65)) for start in starts) == found


def test_pages_in_use_are_never_evicted_and_room_that_cannot_be_made_costs_nothing():
    cache = new_cache(n_pages=4)
    keep(cache, range(64))
    user = Text(cache, range(65))
    keep(cache, range(100, 132))
    assert not cache.make_room(3)
    assert not cache.grow(user.pages, 32 * 5)
    assert cached(cache, range(100, 133)) == 32
    assert cache.make_room(2)
    assert cached(cache, range(100, 133)) == 0
    assert cached(cache, range(65)) == 64


def test_forgetting_a_text_keeps_what_it_shares_with_another():
    cache = new_cache()
    shared = list(range(64))
    keep(cache, [*shared, *range(100, 170)])
    keep(cache, [*shared, *range(200, 240)])
    cache.forget(A, [*shared, *range(100, 170)])
    assert cached(cache, [*shared, *range(100, 171)]) == 64
    assert cached(cache, [*shared, *range(200, 241)]) == 104
    cache.forget(B, [*shared, *range(200, 240)])
    assert cached(cache, [*shared, *range(200, 241)]) == 104
    cache.forget(A, [*shared, *range(200, 240)])
    assert cached(cache, [*shared, 1]) == 0
    assert cache.pool.n_free == cache.pool.n_pages


@pytest.mark.parametrize(("n_keep", "n_left"), [(0, 0), (1, 32), (32, 32), (33, 64), (64, 64), (90, 96), (97, 100), (200, 100)])
def test_forgetting_spares_the_pages_of_the_tokens_to_keep(n_keep, n_left):
    cache = new_cache()
    keep(cache, range(100))
    cache.forget(A, range(100), n_keep)
    assert cached(cache, range(101)) == n_left


def test_forgetting_spares_what_a_sequence_uses():
    cache = new_cache()
    keep(cache, range(100))
    user = Text(cache, [*range(64), 7])
    cache.forget(A, range(100))
    assert cached(cache, range(101)) == 64
    user.check()


@pytest.mark.parametrize(
    ("cached_ids", "asked", "parting"),
    [
        (range(50), [*range(40), 7, 8, 9], Break(40, 40, 7)),
        (range(64), [*range(32), 7, 8], Break(32, 32, 7)),
        (range(50), [*range(49), 7], Break(49, 49, 7)),
        (range(50), range(50), None),
        (range(50), range(60), None),
        (range(50), range(20), None),
        (range(64), range(32), None),
        (range(50), [9, *range(49)], Break(0, 0, 9)),
    ],
)
def test_where_a_text_parts_from_the_cached_one_is_told(cached_ids, asked, parting):
    cache = new_cache()
    keep(cache, cached_ids)
    assert cache.match(A, list(asked)).parting == parting


@pytest.mark.parametrize("n_before", [0, 5])
def test_a_text_that_one_cached_text_agrees_with_wholly_parts_from_no_other(n_before):
    cache = new_cache()
    start = list(range(32 + n_before))
    for last in (500, 600, 700):
        keep(cache, [*start, last, 1])
    assert [cache.match(A, [*start, last]).parting for last in (500, 600, 700)] == [None] * 3
    assert cache.match(A, [*start, 800]).parting.position == len(start)


def test_a_cache_that_is_off_keeps_nothing_and_finds_nothing():
    cache = new_cache(is_on=False)
    keep(cache, range(100))
    assert cached(cache, range(100)) == 0
    assert cache.pool.n_free == cache.pool.n_pages


def test_a_hundred_thousand_touches_leave_no_trail_and_evict_the_right_leaves():
    cache = new_cache(n_pages=64)
    rng = random.Random(0)
    last_used, started = {}, time.perf_counter()
    for now in range(35_000):
        start = 1000 * rng.randrange(100)
        ids = range(start, start + 32)
        pages = []
        match, node = cache.take_up(A, [*ids, -1], pages)
        assert bool(match.nodes) == (start in last_used)
        if not match.nodes:
            cache.grow(pages, 32)
            if len(last_used) == 64:
                del last_used[min(last_used, key=last_used.get)]
        node = cache.extend(node, ids, pages, 32 * len(match.nodes), 32)
        cache.put_away(node, ids, pages, 32)
        last_used[start] = now
        assert len(cache._leaves) <= 4 * 64 + 65
    assert time.perf_counter() - started < 20
    check_pages(cache, [])
