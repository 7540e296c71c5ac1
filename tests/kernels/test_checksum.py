"""The checksum: the native form against NumPy, and what it must notice."""

import numpy as np
import pytest

from samovar.kernels.checksum import checksum, checksum_numpy
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
def test_the_number_of_threads_does_not_matter(n_threads):
    from samovar import _native

    data = random_bytes(5_000_001)
    assert _native.checksum(data, n_threads) == checksum_numpy(data)


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
