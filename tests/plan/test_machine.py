"""A machine's figures are those that it would have if nothing else ran."""

import pytest

from samovar.kernels.native import available_isas
from samovar.plan import machine
from samovar.plan.costs import KernelCost
from samovar.plan.machine import measure_machine


@pytest.mark.parametrize(
    ("n_threads", "cpu", "expected"), [(1, 0.5, 200), (2, 0.5, 400), (2, 2.0, 100), (1, 1.5, 100), (1, 0, 100)]
)
def test_time_that_others_had_is_taken_out_and_a_rate_is_never_lowered(n_threads: int, cpu: float, expected: float) -> None:
    wall_s, cpu_s = iter([5.0, 6.0]), iter([3.0, 3.0 + cpu])
    assert machine._undisturbed(lambda: 100.0, n_threads, wall_s.__next__, cpu_s.__next__) == expected


def test_costs_of_products_follow_from_one_row_and_from_many() -> None:
    unpack, dot, n_rows = 3.0, 2.0, 64
    found = KernelCost.measured(unpack + dot, 4 * unpack + n_rows * dot, n_rows, 0.9)
    assert found == KernelCost(pytest.approx(unpack), pytest.approx(dot), 0.9)
    disturbed = KernelCost.measured(100.0, 130.0, n_rows, 1.0)
    assert disturbed.unpack >= 0
    assert disturbed.dot >= 0


@pytest.mark.skipif(not available_isas(), reason="native kernels are not built")
def test_the_machine_and_its_products_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(machine, "_PASSES", 2)
    found = measure_machine(available_isas()[-1], 1, ("Q4_0", "int4", "U4_G128", "BF16"))
    assert found.read_bytes_per_s > 1e8
    assert found.int8_ops_per_s > 1e8
    assert set(found.kernels) == {"Q4_0", "int4", "U4_G128", "BF16"}
    assert all(cost.unpack + cost.dot > 0 for cost in found.kernels.values())
