"""What was computed once and may serve again: a tree over token ids whose nodes are pages.

A node is a page of PAGE_TOKENS tokens below the node of the tokens before it; a leaf may have fewer. A path from a root spells
a text, so a page is found by all tokens that precede it. Texts of different realms (tenants, adapters, rotations) have roots of
their own and never meet, so that the time an answer takes tells nothing about another tenant's prompts. Where pages run short,
the leaves not used for longest go first. (RadixAttention, Zheng et al., 2024, arXiv 2312.07104, with a page as the unit.)

Every sequence uses the pages of all nodes on its path, so a node whose page nobody uses has no descendant in use.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from samovar.engine.page_pool import PagePool, n_pages_for
from samovar.engine.realm import Realm
from samovar.kernels import PAGE_TOKENS


@dataclass(slots=True, eq=False)
class Node:
    """A page of the tree. `ids` are its tokens; `used` says when it last was, by the tree's own count."""

    ids: tuple[int, ...]
    page: int
    parent: "Node | None"
    children: dict[int, list["Node"]] = field(default_factory=dict)  # by their first token
    used: int = 0

    @property
    def is_leaf(self) -> bool:
        """Nothing follows it."""
        return not self.children

    def find(self, ids: tuple[int, ...]) -> "Node | None":
        """The child of exactly these tokens."""
        return next((child for child in self.children.get(ids[0], ()) if child.ids == ids), None)


@dataclass(frozen=True, slots=True)
class Break:
    """Where a text parts from what is cached: at `position` it has token `asked`, the cached text has `cached`."""

    position: int
    cached: int
    asked: int


@dataclass(frozen=True, slots=True)
class OtherFactor:
    """So many tokens at the start of a text are cached with another YaRN factor, and of no use."""

    factor: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Match:
    """What of a text is cached: whole pages `nodes`, then `n_partial` tokens of the page of `partial`."""

    nodes: tuple[Node, ...]
    partial: Node | None
    n_partial: int
    parting: Break | None

    @property
    def n_tokens(self) -> int:
        """Tokens that need not be computed."""
        return len(self.nodes) * PAGE_TOKENS + self.n_partial


class PrefixCache:
    """The tree over one pool. With `is_on` False nothing is kept and nothing found."""

    def __init__(self, pool: PagePool, *, is_on: bool = True) -> None:
        self.pool, self.is_on = pool, is_on
        self._roots: dict[Realm, Node] = {}
        self._clock = itertools.count(1)
        self._order = itertools.count()  # breaks ties in the heap
        self._leaves: list[tuple[int, int, Node]] = []  # (used, tie, node); entries may be out of date

    @property
    def n_available(self) -> int:
        """Pages that can be had: the free ones, and those that nobody uses."""
        return self.pool.n_free + self.pool.n_idle

    def match(self, realm: Realm, ids: Sequence[int]) -> Match:
        """What of `ids` is cached, at most all but the last."""
        node = self._roots.get(realm)
        nodes: list[Node] = []
        if node is None:
            return Match((), None, 0, None)
        n_most = len(ids) - 1
        while (end := (len(nodes) + 1) * PAGE_TOKENS) <= n_most:
            child = node.find(tuple(ids[end - PAGE_TOKENS : end]))
            if child is None:
                break
            nodes.append(child)
            node = child
        start = len(nodes) * PAGE_TOKENS
        rest = tuple(ids[start : start + PAGE_TOKENS])
        partial, n = None, 0
        for child in node.children.get(rest[0], ()) if rest else ():
            if (n_same := n_common(child.ids, rest)) > n:
                partial, n = child, n_same
        return Match(tuple(nodes), partial, min(n, max(0, n_most - start)), self._parting(node, partial, n, rest, start))

    def other_factor(self, realm: Realm, ids: Sequence[int]) -> OtherFactor | None:
        """The most that is cached of `ids` with another factor than the realm's; None for nothing."""
        tenant, adapter, factor = realm
        others = [root[2] for root in self._roots if root[:2] == (tenant, adapter) and root[2] != factor]
        found = [OtherFactor(other, self.match((tenant, adapter, other), ids).n_tokens) for other in others]
        return max((other for other in found if other.n_tokens), key=lambda other: other.n_tokens, default=None)

    def take_up(self, realm: Realm, ids: Sequence[int], pages: list[int]) -> tuple[Match, Node]:
        """Give an empty list of pages all that is cached of `ids`; the page that agrees in part is copied, where one is
        free."""
        assert not pages
        match = self.match(realm, ids)
        for node in match.nodes:
            self.pool.use(node.page)
            pages.append(node.page)
            self._touch(node)
        if match.partial is not None and match.n_partial:
            source = match.partial
            self.pool.use(source.page)  # so that making room does not take it
            if self.make_room(1):
                page = self.pool.take()
                self.pool.copy(source.page, page)
                pages.append(page)
            else:
                match = Match(match.nodes, None, 0, match.parting)
            self.pool.leave(source.page)
            self._touch(source)
        return match, match.nodes[-1] if match.nodes else self.root(realm)

    def extend(self, node: Node, ids: Sequence[int], pages: list[int], n_done: int, n_computed: int) -> Node:
        """Add a sequence's pages that have become full since `n_done` tokens, below `node`; the last node of its path.

        Where another sequence computed the same page meanwhile, this one goes on with that one's, which has the same bits.
        """
        if not self.is_on:
            return node
        for index in range(n_done // PAGE_TOKENS, n_computed // PAGE_TOKENS):
            key = tuple(ids[index * PAGE_TOKENS : (index + 1) * PAGE_TOKENS])
            child = node.find(key)
            if child is None:
                child = self._add(node, key, pages[index])
            elif child.page != pages[index]:
                self.pool.use(child.page)
                self.pool.leave(pages[index])
                pages[index] = child.page
            self._touch(child)
            node = child
        return node

    def put_away(self, node: Node, ids: Sequence[int], pages: list[int], n_computed: int) -> None:
        """A sequence has ended, and `extend` was called for its full pages: keep its last page too, and take its pages back."""
        n_rest = n_computed % PAGE_TOKENS
        start = n_computed - n_rest
        if self.is_on and n_rest and len(pages) > start // PAGE_TOKENS:
            key = tuple(ids[start:n_computed])
            longer = any(child.ids[:n_rest] == key for child in node.children.get(key[0], ()))
            if not longer:
                self._touch(self._add(node, key, pages[start // PAGE_TOKENS]))
        self._touch(node)
        self.pool.shrink(pages, 0)

    def make_room(self, n_pages: int) -> bool:
        """See to it that so many pages are free; whether that was possible. Nothing is lost where it is not."""
        if n_pages > self.n_available:
            return False
        while self.pool.n_free < n_pages:
            self._evict_one()
        return True

    def grow(self, pages: list[int], n_tokens: int) -> bool:
        """Add pages to a sequence's list until it holds `n_tokens`; False, and none added, when too few can be had."""
        n_more = n_pages_for(n_tokens) - len(pages)
        if not self.make_room(max(0, n_more)):
            return False
        pages.extend(self.pool.take() for _ in range(n_more))
        return True

    def forget(self, realm: Realm, ids: Sequence[int], n_keep: int = 0) -> None:
        """Drop what is cached of this text beyond its first `n_keep` tokens, as far as nobody uses it and no other text shares
        it."""
        match = self.match(realm, (*ids, -1))
        path = [*match.nodes]
        if match.partial is not None and match.n_partial == len(match.partial.ids):
            path.append(match.partial)
        while path and path[-1].is_leaf and (len(path) - 1) * PAGE_TOKENS >= n_keep and not self.pool.n_users(path[-1].page):
            self._remove(path.pop())

    def adopt(self, parent: Node, ids: tuple[int, ...]) -> Node | None:
        """A new node below `parent` with a page that is still to be filled; None where no page is free."""
        if not self.is_on or not self.pool.n_free:
            return None
        page = self.pool.take()
        node = self._add(parent, ids, page)
        self.pool.leave(page)
        self._touch(node)
        return node

    def drop_adapter(self, name: str) -> None:
        """Drop all texts of an adapter, which nobody may use."""
        for realm in [realm for realm in self._roots if realm[1] == name]:
            stack = [child for group in self._roots.pop(realm).children.values() for child in group]
            while stack:
                node = stack.pop()
                stack += [child for group in node.children.values() for child in group]
                self.pool.drop(node.page)
                node.page = -1

    def clear(self) -> None:
        """Drop all that nobody uses."""
        while self.pool.n_idle:
            self._evict_one()

    def paths(self) -> Iterator[tuple[Realm, tuple[Node, ...]]]:
        """Every node, as its path from the root, parents before children."""
        for realm, root in self._roots.items():
            stack: list[tuple[Node, ...]] = [(child,) for group in root.children.values() for child in group]
            while stack:
                path = stack.pop()
                yield realm, path
                stack += [(*path, child) for group in path[-1].children.values() for child in group]

    def root(self, realm: Realm) -> Node:
        """The root of a realm's texts."""
        if realm not in self._roots:
            self._roots[realm] = Node((), -1, None)
        return self._roots[realm]

    def _parting(self, node: Node, partial: Node | None, n: int, rest: tuple[int, ...], start: int) -> Break | None:
        """Where the text parts from a cached one that goes on."""
        if n >= len(rest):
            return None
        if partial is None:
            newest = max((child for group in node.children.values() for child in group), key=lambda c: c.used, default=None)
            return Break(start, newest.ids[0], rest[0]) if newest and newest.ids[0] != rest[0] else None
        return Break(start + n, partial.ids[n], rest[n]) if n < len(partial.ids) and partial.ids[n] != rest[n] else None

    def _add(self, parent: Node, ids: tuple[int, ...], page: int) -> Node:
        """A new node; a leaf of fewer tokens that it begins with is of no more use."""
        siblings = parent.children.get(ids[0], [])
        for old in [s for s in siblings if len(s.ids) < len(ids) and ids[: len(s.ids)] == s.ids]:
            if not self.pool.n_users(old.page):
                self._remove(old)
        node = Node(ids, page, parent)
        parent.children.setdefault(ids[0], []).append(node)
        self.pool.hold(page)
        return node

    def _touch(self, node: Node) -> None:
        node.used = next(self._clock)
        self._offer(node)

    def _offer(self, node: Node) -> None:
        """Put a leaf among those that may be evicted; entries that are out of date go when they are many."""
        if not node.is_leaf or node.parent is None:
            return
        if len(self._leaves) > 4 * self.pool.n_pages + 64:
            self._leaves = [entry for entry in self._leaves if entry[0] == entry[2].used and entry[2].page >= 0]
            heapq.heapify(self._leaves)
        heapq.heappush(self._leaves, (node.used, next(self._order), node))

    def _evict_one(self) -> None:
        """Remove the leaf that was not used for longest. There must be an idle page."""
        while True:
            used, _, node = heapq.heappop(self._leaves)
            if node.used == used and node.is_leaf and node.page >= 0 and not self.pool.n_users(node.page):
                self._remove(node)
                return

    def _remove(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        group = parent.children[node.ids[0]]
        group.remove(node)
        if not group:
            del parent.children[node.ids[0]]
        self.pool.drop(node.page)
        node.page = -1
        self._offer(parent)


def n_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    n = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        n += 1
    return n
