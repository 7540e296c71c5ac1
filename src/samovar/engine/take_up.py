"""How a sequence begins with what is cached of its text, and what it leaves: pages, and in some models a recurrent state."""

from samovar.engine.prefix_cache import Match, PrefixCache
from samovar.engine.sequence import Sequence
from samovar.kernels import PAGE_TOKENS


def take_up(cache: PrefixCache, sequence: Sequence, ids: list[int]) -> Match:
    """Give a sequence the pages that are cached of `ids`, the beginning of its text; what was found.

    Where there are recurrent states, it gets one too, and pages only as far as a kept state has come: keys and values without
    it are of no use.
    """
    states, realm = cache.pool.states, sequence.realm
    if states is None:
        match, sequence.node = cache.take_up(realm, ids, sequence.pages)
    else:
        match = cache.match(realm, ids)
        parting, n_wanted = match.parting, states.longest(realm, ids, match.n_tokens)
        match, sequence.node = cache.take_up(realm, ids[: n_wanted + 1], sequence.pages)
        if match.n_tokens < n_wanted:  # no page was free for the part of one
            cache.pool.shrink(sequence.pages, 0)
            match, sequence.node = cache.take_up(realm, ids[:1], sequence.pages)
        match = Match(match.nodes, match.partial, match.n_partial, parting)
        sequence.state = states.take(realm, ids[: match.n_tokens])
    sequence.n_computed, sequence.n_shared = match.n_tokens, len(match.nodes) * PAGE_TOKENS
    return match


def keep_on_the_way(cache: PrefixCache, sequence: Sequence) -> None:
    """Within a prompt, keep the recurrent state where a step has ended with a full page, in place of the one before: for a text
    that parts from this one later, or is the same."""
    states, n = cache.pool.states, sequence.n_computed
    if states is None or sequence.state is None or not cache.is_on or n % PAGE_TOKENS or not 0 < n < sequence.n_prompt:
        return
    if states.keep_copy(sequence.state, sequence.realm, sequence.token_ids[:n], sequence.n_kept):
        sequence.n_kept = n


def put_away(cache: PrefixCache, sequence: Sequence) -> None:
    """Give what a sequence has computed to the prefix cache. Its full pages are there already."""
    assert sequence.node is not None
    cache.put_away(sequence.node, sequence.token_ids, sequence.pages, sequence.n_computed)
    if sequence.state is not None and cache.pool.states is not None:
        is_of_use = cache.is_on and sequence.n_computed
        cache.pool.states.leave(sequence.state, sequence.realm, sequence.token_ids[: sequence.n_computed] if is_of_use else ())
    sequence.node, sequence.state, sequence.n_computed, sequence.n_shared, sequence.n_kept = None, None, 0, 0, 0
