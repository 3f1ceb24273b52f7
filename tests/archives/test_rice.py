"""The kernel of Rice refuses a damaged tile where the checker that is independent of it does."""

from __future__ import annotations

import numpy as np
import pytest

from spender_core.archives.fits.rice import decode
from spender_core.archives.fits.tiles import follow_rice
from spender_core.native import library


@pytest.mark.skipif(library() is None, reason="the kernels are not compiled")
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("block", [16, 32])
def test_damaged_tiles_are_told_apart_as_by_the_checker(size: int, block: int) -> None:
    rng = np.random.default_rng(size * block)
    pixels = 70
    streams = []
    for _ in range(400):
        stream = rng.integers(0, 256, int(rng.integers(1, 400)), dtype=np.uint8)
        # codes of few bits and long runs of 0 too
        stream[rng.random(len(stream)) < rng.random()] = 0
        streams.append(stream.tobytes())
    lengths = np.array([len(stream) for stream in streams])
    found = decode(b"".join(streams), np.cumsum(lengths) - lengths, lengths, pixels, block, size)
    assert found is not None
    values, bad = found
    good = [follow_rice([stream], np.array([pixels]), block, size) for stream in streams]
    assert 200 < (bad == 0).sum() < 390
    assert not ((bad == 0) & ~np.array(good)).any()
    # codes that the standard does not have are refused here only; pixels of 4 bytes leave room for
    assert size == 4 or (bad == 0).tolist() == good
    told = decode(b"".join(streams), np.cumsum(lengths) - lengths, lengths, pixels, block, size, 0)
    assert told is not None
    assert (told[1] == bad).all()
    np.testing.assert_array_equal(told[0][bad == 0], values[bad == 0] != 0)
