"""The checksum: the native form against NumPy, and what it must notice."""

import numpy as np
import pytest

from samovar.kernels.checksum import checksum, checksum_numpy, start_checks
from samovar.kernels.native import available_isas

SIZES = (0, 1, 7, 8, 9, 8191, 8192, 8193, 262_143, 262_144, 262_145, 3_000_001)


def random_bytes(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_native_and_numpy_agree(size):
    data = random_bytes(size)
    assert checksum(data) == checksum_numpy(data)


@pytest.mark.skipif(not available_isas(), reason="native kernels are not built")
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_checks_find_the_damaged_pieces(n_threads):
    pieces = [random_bytes(size, seed) for seed, size in enumerate(SIZES)]
    expected = [checksum(piece) for piece in pieces]
    pieces[5][17] ^= 1
    expected[8] ^= 1
    checker = start_checks(pieces, expected, n_threads)
    assert [n for n in range(len(pieces)) if not checker.is_sound(n)] == [5, 8]
    assert not checker.is_sound(5)
    with pytest.raises(IndexError):
        checker.is_sound(len(pieces))


@pytest.mark.skipif(not available_isas(), reason="native kernels are not built")
def test_checks_that_nobody_waits_for_end():
    for _ in range(20):
        start_checks([random_bytes(300_000)] * 50, [0] * 50, 3)


@pytest.mark.parametrize("bit", [0, 7, 8 * 8192, 8 * 262_144 + 3, 8 * 299_999 + 7])
def test_one_flipped_bit_changes_it(bit):
    data = random_bytes(300_000)
    before = checksum(data)
    data[bit // 8] ^= 1 << bit % 8
    assert checksum(data) != before


def test_order_and_length_count():
    data = random_bytes(300_000)
    swapped = data.copy()
    swapped[:8], swapped[8:16] = data[8:16], data[:8]
    chunks = np.concatenate([data[262_144:], data[:262_144]])
    zeros = np.zeros(1000, np.uint8)
    assert len({checksum(x) for x in (data, swapped, chunks, zeros, zeros[:-1], zeros[:992])}) == 6


def test_pages_in_another_order_are_noticed():
    data = random_bytes(1 << 20)
    pages = data.reshape(-1, 8192).copy()
    pages[[3, 4]] = pages[[4, 3]]
    assert checksum(pages.reshape(-1)) != checksum(data)
