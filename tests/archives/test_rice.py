"""The kernel of Rice refuses a damaged tile where the checker that is independent of it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spender_core.archives.fits.hdus import open_hdus
from spender_core.archives.fits.rice import decode
from spender_core.archives.fits.tiles import follow_rice
from spender_core.errors import DamagedFileError, FileError
from spender_core.native import library

HEAP, PIXELS, LONGEST = 4096, 64, 2**63


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


@pytest.mark.skipif(library() is None, reason="the kernels are not compiled")
@pytest.mark.parametrize(
    ("places", "lengths"),
    [([-1], [5]), ([0], [-1]), ([96], [5]), ([LONGEST - 1], [2000]), ([0, 101], [100, 0])],
)
def test_a_tile_outside_of_what_was_read_is_refused(places: list[int], lengths: list[int]) -> None:
    with pytest.raises(DamagedFileError, match="outside of what was read"):
        decode(bytes(100), np.array(places), np.array(lengths), PIXELS, 32, 4)


def header(**cards: Any) -> bytes:
    """Return a header of these cards, padded to whole blocks."""
    told = {name: "T" if value is True else repr(value) for name, value in cards.items()}
    text = "".join(f"{name:8s}= {value:>20s}".ljust(80) for name, value in told.items())
    text += "END"
    return text.ljust(-(-len(text) // 2880) * 2880).encode()


def compressed(offsets: list[int], counts: list[int]) -> bytes:
    """Return a file with an image in a tile a row, which are told to be at these places."""
    first = header(SIMPLE=True, BITPIX=8, NAXIS=0)
    table = {"XTENSION": "BINTABLE", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 16, "NAXIS2": len(offsets)}
    table |= {"PCOUNT": HEAP, "GCOUNT": 1, "TFIELDS": 1}
    table |= {"TTYPE1": "COMPRESSED_DATA", "TFORM1": "1QB"}
    image = {"ZIMAGE": True, "ZBITPIX": 32, "ZNAXIS": 2, "ZNAXIS1": PIXELS, "ZNAXIS2": len(offsets)}
    image |= {"ZTILE1": PIXELS, "ZTILE2": 1, "ZCMPTYPE": "RICE_1"}
    image |= {"ZNAME1": "BLOCKSIZE", "ZVAL1": 32, "ZNAME2": "BYTEPIX", "ZVAL2": 4}
    data = np.array([counts, offsets], ">i8").T.tobytes() + bytes(range(256)) * (HEAP // 256)
    return first + header(**table, **image) + data.ljust(-(-len(data) // 2880) * 2880, b"\0")


@pytest.mark.parametrize(
    ("offsets", "counts"),
    [
        ([LONGEST - 1], [2000]),
        ([LONGEST - 2000, 0], [2001, 500]),
        ([0, LONGEST - 4000], [10, 4050]),
        ([2**62, LONGEST - 1, 5], [1, 3000, 7]),
        ([0, LONGEST - 4000, LONGEST - 1], [10, 4001, 100]),
        ([HEAP - 10], [11]),
        ([-5], [10]),
    ],
)
def test_no_pointer_leads_out_of_the_heap(
    tmp_path: Path, offsets: list[int], counts: list[int]
) -> None:
    """A sum of offset and count that overflows must not pass for a small one."""
    path = tmp_path / "hostile.fits"
    path.write_bytes(compressed(offsets, counts))
    for name in ("image", "nonzero"):
        for rows in (None, [len(offsets) - 1]):
            with (
                pytest.raises(FileError, match="HDU 1 points outside of its heap"),
                open_hdus(str(path)) as hdus,
            ):
                getattr(hdus[1], name)(rows)
