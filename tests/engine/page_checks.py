"""What has to hold of pages at any time, told from outside: which are used, held, idle and free."""

from collections import Counter

from samovar.kernels import PAGE_TOKENS


def check_pages(cache, page_lists):
    """Each page is used exactly as often as `page_lists` name it, and free, idle or used as the pool counts it."""
    pool = cache.pool
    used = Counter(page for pages in page_lists for page in pages)
    nodes = [(path, path[-1]) for _, path in cache.paths()]
    held = [node.page for _, node in nodes]
    assert len(set(held)) == len(held)
    assert all(0 <= page < pool.n_pages for page in {*held, *used})
    assert [pool.n_users(page) for page in range(pool.n_pages)] == [used[page] for page in range(pool.n_pages)]
    assert pool.n_idle == len(set(held) - set(used))
    assert pool.n_free == pool.n_pages - len(set(held) | set(used))
    assert cache.n_available == pool.n_pages - len(used)
    for path, node in nodes:
        assert len(node.ids) == PAGE_TOKENS or node.is_leaf
        assert 0 < len(node.ids) <= PAGE_TOKENS
        if pool.n_users(node.page):
            assert all(pool.n_users(above.page) for above in path)


def check_writes(plan, cache):
    """The pages that a plan's sequences are about to write to are theirs alone, and not held for others."""
    held = {path[-1].page for _, path in cache.paths()}
    written = Counter()
    for sequence, count in plan:
        first, last = sequence.n_computed // PAGE_TOKENS, (sequence.n_computed + count - 1) // PAGE_TOKENS
        assert last < len(sequence.pages)
        written.update(sequence.pages[first : last + 1])
    assert all(n == 1 for n in written.values())
    assert all(cache.pool.n_users(page) == 1 for page in written)
    assert not held & set(written)
