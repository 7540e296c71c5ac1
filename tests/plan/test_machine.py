"""A machine's figures are those that it would have if nothing else ran."""

import time

import pytest

from samovar.kernels.native import available_isas
from samovar.plan import machine
from samovar.plan.machine import measure_machine


def test_time_that_others_had_is_taken_out() -> None:
    def half_asleep() -> float:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        time.sleep(0.05)
        return 100.0

    assert machine._undisturbed(half_asleep, 1) >= 195
    assert machine._undisturbed(half_asleep, 2) >= 390


def test_a_rate_is_never_lowered() -> None:
    assert machine._undisturbed(lambda: 100.0, 1) >= 100


@pytest.mark.skipif(not available_isas(), reason="native kernels are not built")
def test_both_figures_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(machine, "_PASSES", 2)
    found = measure_machine(available_isas()[-1], 1)
    assert found.read_bytes_per_s > 1e8
    assert found.int8_ops_per_s > 1e8
