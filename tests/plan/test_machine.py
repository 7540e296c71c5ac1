"""A machine's figures are those that it would have if nothing else ran."""

import pytest

from samovar.kernels.native import available_isas
from samovar.plan import machine
from samovar.plan.costs import KernelCost, Machine, product_s
from samovar.plan.machine import measure_machine


@pytest.mark.parametrize(
    ("n_threads", "cpu", "expected"), [(1, 0.5, 200), (2, 0.5, 400), (2, 2.0, 100), (1, 1.5, 100), (1, 0, 100)]
)
def test_time_that_others_had_is_taken_out_and_a_rate_is_never_lowered(n_threads: int, cpu: float, expected: float) -> None:
    wall_s, cpu_s = iter([5.0, 6.0]), iter([3.0, 3.0 + cpu])
    assert machine._undisturbed(lambda: 100.0, n_threads, wall_s.__next__, cpu_s.__next__) == expected


def test_costs_of_products_follow_from_products_of_them() -> None:
    cost, n_rows, n_weights, weight_bytes = KernelCost(3.0, 2.0, 0.8), 64, 1000, 0.5625
    machine = Machine(read_bytes_per_s=25e9, int8_ops_per_s=500e9, kernels={"Q4_0": cost})

    def seconds(n_rows: float, n_bytes: float) -> float:
        return product_s(machine, "Q4_0", n_bytes=n_bytes, n_weights=n_weights, n_rows=n_rows) / n_weights

    found = KernelCost.measured(
        seconds(1, 0) * machine.int8_ops_per_s,
        seconds(n_rows, 0) * machine.int8_ops_per_s,
        seconds(1, n_weights * weight_bytes) * machine.read_bytes_per_s,
        machine.int8_ops_per_s / machine.read_bytes_per_s,
        n_rows=n_rows,
        weight_bytes=weight_bytes,
    )
    assert (found.unpack, found.dot, found.read_share) == (pytest.approx(3.0), pytest.approx(2.0), pytest.approx(0.8))


@pytest.mark.parametrize("streamed", [1e-3, 0.55, 100.0])
@pytest.mark.parametrize("many", [0.1, 130.0, 1e6])
def test_costs_stay_within_reason_when_measurements_contradict(many: float, streamed: float) -> None:
    found = KernelCost.measured(100.0, many, streamed, 20.0, n_rows=64, weight_bytes=0.5625)
    assert found.unpack >= 0
    assert found.dot >= 0
    assert 0 < found.read_share <= 1


@pytest.mark.skipif(not available_isas(), reason="native kernels are not built")
def test_the_machine_and_its_products_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(machine, "_STREAMED_BYTES", 1 << 20)
    monkeypatch.setattr(machine, "_PASSES", 2)
    found = measure_machine(available_isas()[-1], 1, ("Q4_0", "int4", "U4_G128", "BF16"))
    assert found.read_bytes_per_s > 1e8
    assert found.int8_ops_per_s > 1e8
    assert set(found.kernels) == {"Q4_0", "int4", "U4_G128", "BF16"}
    assert all(cost.unpack + cost.dot > 0 and 0 < cost.read_share <= 1 for cost in found.kernels.values())
