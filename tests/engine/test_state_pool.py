"""Recurrent states: who has which slot, what is kept, and that nothing is taken up that belongs to another text."""

import numpy as np
import pytest

from samovar.engine.engine import Engine, Limits
from samovar.engine.page_pool import PagePool
from samovar.engine.state_pool import StatePool
from samovar.errors import SamovarError
from samovar.kernels.reference import ReferenceOps
from samovar.models.config import DeltaNetConfig
from tests.engine.fakes import generate, request, run
from tests.engine.random_decoders import VOCAB, random_decoder
from tests.kernels.native_cases import ISAS, ops_on

NET = DeltaNetConfig(layers=frozenset({0, 2}), n_key_heads=1, n_value_heads=2, d_key=2, d_value=3, n_taps=3)
HERE, THERE, ADAPTED = ("", "", 1), ("other", "", 1), ("", "a", 1)


def advance(pool, slot, start, end, value):
    with pool.advancing([(slot, start, end)]):
        for layer in pool.layers:
            layer.inputs_ZJM[slot], layer.memory_ZHKU[slot] = value, value


def kept(pool, ids, value, realm=HERE):
    """Let a sequence of these tokens come and go."""
    slot = pool.take(realm, ())
    advance(pool, slot, 0, len(ids), value)
    pool.leave(slot, realm, ids)


def held(pool, slot):
    return {float(x) for layer in pool.layers for array in (layer.inputs_ZJM, layer.memory_ZHKU) for x in array[slot].flat}


def test_the_longest_beginning_of_a_text_in_its_own_realm_is_found() -> None:
    pool = StatePool(NET, 6)
    for ids, value, realm in (([1, 2], 1, HERE), ([1, 2, 3, 4], 2, HERE), ([1, 2, 3], 3, THERE), ([1, 9, 3], 4, HERE)):
        kept(pool, ids, value, realm)
    assert pool.longest(HERE, [1, 2, 3, 4, 5], 5) == 4
    assert pool.longest(HERE, [1, 2, 3, 4, 5], 3) == 2  # keys and values of no more are there
    assert pool.longest(THERE, [1, 2, 3, 4, 5], 5) == 3
    assert pool.longest(ADAPTED, [1, 2, 3, 4, 5], 5) == 0
    assert pool.longest(HERE, [2, 2, 3], 3) == 0
    slot = pool.take(HERE, [1, 2, 3, 4])
    assert held(pool, slot) == {2.0}
    advance(pool, slot, 4, 6, 7)
    assert held(pool, pool.take(HERE, [1, 2, 3, 4])) == {2.0}  # the kept one is a copy


def test_the_state_not_used_for_longest_makes_room_and_the_last_one_is_taken_over_itself() -> None:
    pool = StatePool(NET, 2)
    kept(pool, [1, 2], 1)
    kept(pool, [3, 4], 2)
    kept(pool, [5, 6], 3)
    assert [pool.longest(HERE, [*ids, 0], 3) for ids in ([1, 2], [3, 4], [5, 6])] == [0, 2, 2]
    slots = [pool.take(HERE, [3, 4]), pool.take(HERE, ())]
    assert len(set(slots)) == 2
    assert held(pool, slots[0]) == {2.0}
    only = StatePool(NET, 1)
    kept(only, [1, 2], 5)
    assert held(only, only.take(HERE, [1, 2])) == {5.0}
    assert only.longest(HERE, [1, 2, 3], 3) == 0


def test_a_state_that_a_failed_step_left_behind_is_not_kept_and_one_out_of_step_is_our_bug() -> None:
    pool = StatePool(NET, 2)
    slot = pool.take(HERE, ())
    with pytest.raises(SamovarError), pool.advancing([(slot, 0, 2)]):
        raise SamovarError("it fails")
    pool.leave(slot, HERE, [1, 2])
    assert pool.longest(HERE, [1, 2, 3], 3) == 0
    slot = pool.take(HERE, ())
    with pytest.raises(AssertionError), pool.advancing([(slot, 3, 4)]):
        pass


def test_states_of_an_adapter_go_with_it() -> None:
    pool = StatePool(NET, 3)
    kept(pool, [1, 2], 1, ADAPTED)
    kept(pool, [1, 2], 2)
    pool.drop_adapter("a")
    assert (pool.longest(ADAPTED, [1, 2, 3], 3), pool.longest(HERE, [1, 2, 3], 3)) == (0, 2)


def engine_of(n_sequences=8, n_pages=64, ops=None, **options) -> Engine:
    ops = ops or (ops_on(ISAS[-1], 2) if ISAS else ReferenceOps())
    decoder = random_decoder("qwen3_next", ops)
    pool = PagePool.of(decoder.config, "f16", n_pages=n_pages, n_sequences=n_sequences)
    return Engine(decoder, ops, pool, VOCAB, 512, **options)


def text(n, seed=0):
    return np.random.default_rng(seed).integers(3, VOCAB, n).tolist()


def answer(engine, ids, **options):
    (sequence,) = generate(engine, request(ids, **options))
    return sequence.token_ids[sequence.n_prompt :], sequence.n_cached


def test_a_following_turn_goes_on_where_the_last_one_ended_and_says_the_same() -> None:
    engine, prompt = engine_of(), text(45)
    said, _ = answer(engine, prompt)
    following = [*prompt, *said, *text(20, seed=1)]
    found = answer(engine, following)
    assert found == (answer(engine_of(keeps_prefixes=False), following)[0], len(prompt) + len(said) - 1)
    third = [*following, *found[0], 7, 8]
    assert answer(engine, third) == (answer(engine_of(), third)[0], len(following) + len(found[0]) - 1)


def test_a_text_that_parts_from_a_kept_one_begins_anew_though_its_pages_are_cached() -> None:
    engine, prompt = engine_of(), text(70)
    answer(engine, prompt)
    other = [*prompt[:64], *text(9, seed=2)]
    assert answer(engine, other) == (answer(engine_of(), other)[0], 0)
    assert answer(engine, prompt) == (answer(engine_of(), prompt)[0], 0)  # the state is after the answer


def test_a_long_prompt_is_gone_on_with_from_where_its_last_large_step_began() -> None:
    engine, prompt = engine_of(limits=Limits(max_step_tokens=64)), text(150)
    said, _ = answer(engine, prompt)
    assert answer(engine, prompt) == (said, 128)
    other = [*prompt[:140], *text(9, seed=3)]
    assert answer(engine, other) == (answer(engine_of(), other)[0], 128)
    early = [*prompt[:100], *text(9, seed=4)]
    assert answer(engine, early) == (answer(engine_of(), early)[0], 0)  # one state of a prompt is kept, its last
    uneven = engine_of(limits=Limits(max_step_tokens=60))
    assert answer(uneven, prompt)[0] == said
    assert answer(uneven, prompt) == (said, 0)


def test_a_copy_of_a_state_replaces_that_sequences_last_one_and_no_other() -> None:
    pool = StatePool(NET, 3)
    slot = pool.take(HERE, ())
    advance(pool, slot, 0, 2, 1)
    assert pool.keep_copy(slot, HERE, [1, 2], 0)
    assert not pool.keep_copy(slot, HERE, [1, 2], 0)  # it is there
    advance(pool, slot, 2, 4, 2)
    assert pool.keep_copy(slot, HERE, [1, 2, 3, 4], 2)
    assert (pool.longest(HERE, [1, 2, 3, 4, 5], 3), pool.longest(HERE, [1, 2, 3, 4, 5], 5)) == (0, 4)
    assert held(pool, pool.take(HERE, [1, 2, 3, 4])) == {2.0}
    pool.take(HERE, ())  # takes the slot of the one that was kept
    assert not pool.keep_copy(slot, HERE, [1, 2, 3, 4], 0)
    assert held(pool, slot) == {2.0}


def test_without_a_free_page_for_the_part_of_one_a_text_begins_anew() -> None:
    engine, prompt = engine_of(n_pages=4), text(45)
    said, _ = answer(engine, prompt, max_tokens=5)
    following = [*prompt, *said, 5, 6]
    while engine.pool.n_free:  # somebody else has the other pages
        engine.pool.take()
    assert engine.cache.match(HERE, following).n_tokens == 49
    sequence = engine.submit(request(following, max_tokens=3))
    run(engine, [sequence])
    assert sequence.token_ids[len(following) :] == answer(engine_of(), following, max_tokens=3)[0]
    assert sequence.n_cached == 0


def test_no_more_run_at_once_than_have_a_slot_and_each_says_what_it_says_alone() -> None:
    prompts = [text(10 + 7 * i, seed=i) for i in range(7)]
    engine = engine_of(n_sequences=2, limits=Limits(max_running=64))
    assert engine.scheduler.max_running == 2
    together = generate(engine, *(request(ids) for ids in prompts))
    assert [s.token_ids[s.n_prompt :] for s in together] == [answer(engine_of(), ids)[0] for ids in prompts]
    assert engine.logits(tuple(prompts[0])).shape == (10, VOCAB)


def test_after_a_step_that_failed_nothing_of_it_is_taken_up() -> None:
    engine, prompt = engine_of(ops=ReferenceOps()), text(40)
    wanted = answer(engine_of(ops=ReferenceOps()), prompt)[0]
    sequence = engine.submit(request(prompt))
    engine.step()
    real = engine.decoding.runner.model
    engine.decoding.runner = type(engine.decoding.runner)(_failing, engine.ops, engine.pool)
    with pytest.raises(SamovarError):
        engine.step()
    engine.decoding.runner = type(engine.decoding.runner)(real, engine.ops, engine.pool)
    engine.fail_all(SamovarError("it failed"))
    engine.take_events()
    assert sequence.error is not None
    assert answer(engine, prompt) == (wanted, 0)
    longer = [*prompt, *wanted[:1], 5]
    assert answer(engine, longer)[0] == answer(engine_of(ops=ReferenceOps()), longer)[0]


def _failing(*_):
    raise SamovarError("it fails")


def test_a_request_does_not_wait_for_one_with_the_same_prompt_whose_state_it_could_not_share() -> None:
    engine, prompt = engine_of(), text(33)
    first = engine.submit(request(prompt, temperature=1.0, seed=1))
    second = engine.submit(request(prompt, temperature=1.0, seed=2), leader=first)
    assert second.leader is None
    while engine.has_work:
        engine.step()
    alone = [answer(engine_of(), prompt, temperature=1.0, seed=seed)[0] for seed in (1, 2)]
    assert [s.token_ids[s.n_prompt :] for s in (first, second)] == alone
