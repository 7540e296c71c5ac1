"""What fits, and which of it is proposed."""

import pytest

from samovar.errors import BadRequest
from samovar.kernels.native import available_isas
from samovar.llm.random_model import SHAPES
from samovar.plan.costs import Machine
from samovar.plan.outlook import Outlook, Wish, advice, best, distinct_shapes, look_at, look_at_all, shape_candidates

pytestmark = pytest.mark.skipif(not available_isas(), reason="native kernels are not built")
MACHINE = Machine(read_bytes_per_s=50e9, int8_ops_per_s=2e12)
WISH = Wish(context=4096, n_users=1, least_tokens_per_s=5)
GIB = 1 << 30


def outlooks(usable: int, wish: Wish = WISH, names: tuple[str, ...] = ("qwen3-0.6b", "qwen3-8b", "qwen3-32b")) -> list[Outlook]:
    return look_at_all(shape_candidates(names, ("q4_0", "q8_0")), MACHINE, usable, wish)


def test_to_the_byte_what_is_needed_fits_and_a_byte_less_does_not() -> None:
    (model,) = shape_candidates(["qwen3-0.6b"], ["q4_0"])
    needed = model.memory_bytes(4096, 1)
    assert look_at(model, MACHINE, needed, WISH).fits
    short = look_at(model, MACHINE, needed - 1, WISH)
    assert not short.fits
    assert short.missing_bytes == 1
    assert short.most_context == 4096 - 32


def test_the_largest_that_is_quick_enough_is_proposed_in_its_most_bits() -> None:
    choice = best(outlooks(200 * GIB), WISH)
    assert choice is not None
    assert (choice.model, choice.quant) == ("qwen3-8b", "q4_0")
    patient = Wish(context=4096, n_users=1, least_tokens_per_s=0.5)
    choice = best(outlooks(200 * GIB, patient), patient)
    assert choice is not None
    assert (choice.model, choice.quant) == ("qwen3-32b", "q8_0")


def test_where_nothing_is_quick_enough_the_quickest_is_proposed() -> None:
    hasty = Wish(context=4096, n_users=1, least_tokens_per_s=1e5)
    found = outlooks(200 * GIB, hasty)
    assert best(found, hasty) == max(found, key=lambda outlook: outlook.decode_full)
    assert "none writes 100000 tokens/s" in advice(found, hasty, 200 * GIB)


def test_types_of_few_bits_are_proposed_only_where_no_others_fit() -> None:
    hasty = Wish(context=4096, n_users=1, least_tokens_per_s=1e5)
    found = look_at_all(shape_candidates(["qwen3-8b"], ("tq1_0", "q4_0")), MACHINE, 200 * GIB, hasty)
    few, sound = found
    assert few.decode_full > sound.decode_full
    assert best(found, hasty) == sound
    found = look_at_all(shape_candidates(["qwen3-8b"], ("tq1_0", "q4_0")), MACHINE, sound.memory_bytes - 1, hasty)
    choice = best(found, hasty)
    assert choice is not None
    assert choice.quant == "tq1_0"
    assert "less than 4 bits a weight, which loses much" in advice(found, hasty, sound.memory_bytes - 1)


def test_where_nothing_fits_it_is_said_how_much_is_missing_and_what_context_would_fit() -> None:
    wish = Wish(context=30_000, n_users=2, least_tokens_per_s=1)
    found = outlooks(3 * GIB, wish)
    assert best(found, wish) is None
    said = advice(found, wish, 3 * GIB)
    roomy = max(found, key=lambda outlook: outlook.most_context)
    assert "nothing fits 2 users with 30,000 tokens each: qwen3-0.6b q4_0 needs the least" in said
    assert f"would fit with --context {roomy.most_context}" in said
    assert look_at_all(
        shape_candidates([roomy.model], [roomy.quant]),
        MACHINE,
        3 * GIB,
        Wish(context=roomy.most_context, n_users=2, least_tokens_per_s=1),
    )[0].fits


def test_a_context_beyond_the_model_does_not_fit_however_large_the_memory() -> None:
    wish = Wish(context=150_000, n_users=1, least_tokens_per_s=1)
    found = outlooks(1 << 50, wish)
    assert not any(outlook.fits for outlook in found)
    assert "beyond the model's 131,072" in advice(found, wish, 1 << 50)
    assert outlooks(1 << 50, wish, ("qwen3-coder-30b-a3b",))[0].fits


def test_shapes_of_the_same_sizes_are_looked_at_once() -> None:
    found = distinct_shapes(4096)
    assert found["qwen3-30b-a3b"] == ("qwen3-30b-a3b-2507", "qwen3-coder-30b-a3b")
    assert {*found, *(other for others in found.values() for other in others)} == set(SHAPES)


def test_of_the_same_sizes_that_which_takes_the_context_is_looked_at() -> None:
    found = distinct_shapes(100_000)
    assert found["qwen3-4b-2507"] == ("qwen3-4b",)
    assert "qwen3-4b" not in found
    assert found["qwen3-8b"] == ()


@pytest.mark.parametrize(("names", "quants"), [(["qwen3-9b"], ["q4_0"]), (["qwen3-8b"], ["q4"])])
def test_unknown_names_are_refused_with_the_known_ones(names: list[str], quants: list[str]) -> None:
    with pytest.raises(BadRequest, match="expected one of q"):
        list(shape_candidates(names, quants))
