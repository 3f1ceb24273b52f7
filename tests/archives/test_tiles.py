"""Compressed images are followed before they are trusted to what decompresses them."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from itertools import product
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from spender_core.archives.fits.claims import check
from spender_core.archives.fits.tiles import follow_rice
from spender_core.errors import DamagedFileError

PADDING = np.zeros(1 << 20, dtype=np.uint8)


def compressed(data: Any, **options: Any) -> bytes:
    """Return a file with a compressed image, beside enough other data."""
    content = io.BytesIO()
    hdus = [fits.PrimaryHDU(PADDING), fits.CompImageHDU(np.asarray(data), name="MASK", **options)]
    fits.HDUList(hdus).writeto(content)
    return content.getvalue()


def ok(content: bytes) -> None:
    check(io.BytesIO(content), len(content))


def refused(content: bytes, message: str) -> None:
    with pytest.raises(DamagedFileError, match=message):
        ok(content)


def noise(scale: float, kind: str, shape: tuple[int, ...] = (9, 211)) -> Any:
    rng, limits = np.random.default_rng(3), np.iinfo(kind)
    values = np.clip(scale * rng.standard_normal(shape), limits.min, limits.max / 2)
    return values.astype(kind)


@pytest.mark.parametrize("method", ["RICE_1", "GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("kind", ["u1", "i2", "i4"])
@pytest.mark.parametrize("tile", [None, (3, 100), (7, 33)])
def test_what_astropy_writes_passes(method: str, kind: str, tile: Any) -> None:
    for scale in (0, 1, 50, 1e9):
        ok(compressed(noise(scale, kind), compression_type=method, tile_shape=tile))


def test_quantised_floats_pass() -> None:
    data = np.random.default_rng(1).standard_normal((20, 300)).astype("f4")
    ok(compressed(data, quantize_method=1, dither_seed=5))
    ok(compressed(data, compression_type="GZIP_2", quantize_level=0))


def rice(data: Any, block: int) -> bytes:
    from astropy.io.fits.hdu.compressed._codecs import Rice1

    codec = Rice1(blocksize=block, bytepix=data.dtype.itemsize, tilesize=len(data))
    return bytes(codec.encode(data))


def decodes(stream: bytes, block: int, pixel: int, pixels: int) -> bool:
    """Tell whether the library decodes a stream; one zero too many, and it may crash."""
    from astropy.io.fits.hdu.compressed._codecs import Rice1

    codec = Rice1(blocksize=block, bytepix=pixel, tilesize=pixels)
    try:
        codec.decode(np.frombuffer(stream, dtype=np.uint8))
    except Exception as error:
        return "unused bytes" in str(error)
    return True


def test_damaged_streams_of_rice_are_told_as_the_library_does() -> None:
    rng, verdicts = np.random.default_rng(7), []
    for case, (pixel, block) in enumerate(200 * list(product((1, 2, 4), (16, 32)))):
        pixels = int(rng.integers(1, 200))
        data = noise(float(rng.choice([0, 1, 5, 100])), f"i{pixel}", (pixels,))
        stream = bytearray(rice(data, block))
        for _ in range(case % 3):
            stream[rng.integers(len(stream))] = rng.integers(1, 256)
        if case % 5 == 0:
            stream = stream[: max(len(stream) - int(rng.integers(1, 6)), 1)]
        expected = decodes(bytes(stream), block, pixel, pixels)
        sizes = np.array([0, pixels, 1])
        good = rice(np.array([5], dtype=f"i{pixel}"), block)
        alone = follow_rice([bytes(stream)], sizes[1:2], block, pixel)
        among = follow_rice([b"\xff" * 4, bytes(stream), good], sizes, block, pixel)
        assert alone == among == expected, case
        verdicts.append(expected)
    assert 300 < sum(verdicts) < 1100


def test_a_stream_followed_beyond_its_end_is_refused() -> None:
    """The library looks for a 1 in whatever follows in memory, and may crash."""
    stream = bytes([0, 0, 0, 0, 0b00001000]) + bytes(600)
    assert not follow_rice([stream], np.array([2751]), 32, 4)
    content = bytearray(compressed(noise(3, "i4", (4, 300))))
    start = content.index(b"XTENSION")
    data = content.index(b"END" + b" " * 77, start) // 2880 * 2880 + 2880
    heap = data + 4 * 8
    content[heap + 4 : heap + 2880] = bytes(2876)
    content[heap + 4] = 0b00001000
    refused(bytes(content), "a compressed tile of HDU 1 is damaged")


def edited(content: bytes, key: str, value: Any) -> bytes:
    place = content.rindex(f"{key:8s}= ".encode())
    text = f"{key:8s}= {value:>20}".encode().ljust(80)
    return content[:place] + text + content[place + 80 :]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ZNAXIS1", 10**9, "claims an image of 1000000000 x 9 pixels"),
        ("ZNAXIS2", 10**6, "claims an image of"),
        ("ZNAXIS2", 8, "has 9 tiles, and should have 8"),
        ("ZNAXIS", 7, "ZNAXIS = 7"),
        ("ZNAXIS", 0, "ZNAXIS = 0"),
        ("ZTILE1", 0, "ZTILE1 = 0"),
        ("ZTILE1", 1, "has 9 tiles, and should have 1899"),
        ("ZTILE2", -1, "ZTILE2 = -1"),
        ("ZBITPIX", 7, "ZBITPIX = 7"),
        ("ZIMAGE", 1, "compressed with"),
        ("ZCMPTYPE", "'HCOMPRESS_1'", "compressed with 'HCOMPRESS_1'; only .* funpack"),
        ("ZCMPTYPE", "'PLIO_1'", "compressed with 'PLIO_1'"),
        ("ZVAL1", 0, "BLOCKSIZE = 0"),
        ("ZVAL1", "'x'", "ZVAL1 = 'x'"),
        ("ZVAL2", 8, "BYTEPIX = 8"),
        ("TFORM1", "'1QB(9)'", "bytes a row"),
        ("TTYPE1", "'DATA'", "tiles, and should have"),
    ],
)
def test_other_claims_are_refused(key: str, value: Any, message: str) -> None:
    refused(edited(compressed(noise(50, "i4")), key, value), message)


def test_tiles_that_are_too_large_or_too_many_are_refused() -> None:
    refused(compressed(np.zeros((300, 300), dtype="i4"), tile_shape=(300, 300)), "1 tiles of 90000")
    content = compressed(np.zeros((2, 200_000), dtype="u1"), tile_shape=(1, 1000))
    refused(edited(content, "ZTILE1", 5), "80000 tiles of 5 pixels; at most")


def test_a_stream_that_expands_a_thousand_times_is_refused() -> None:
    content = bytearray(compressed(noise(10_000, "i4", (1, 30_000)), compression_type="GZIP_1"))
    start = content.index(b"XTENSION")
    data = content.index(b"END" + b" " * 77, start) // 2880 * 2880 + 2880
    size = int.from_bytes(content[data : data + 4], "big")
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(bytes(60 << 20)) + packer.flush()
    assert len(bomb) < size
    content[data : data + 4] = len(bomb).to_bytes(4, "big")
    content[data + 8 : data + 8 + len(bomb)] = bomb
    refused(bytes(content), "does not hold its 30000 pixels")


def test_the_library_does_crash_on_what_is_refused() -> None:
    """The reason why streams are followed; if it holds no more, the check may go."""
    code = (
        "import numpy as np\n"
        "from astropy.io.fits.hdu.compressed._codecs import Rice1\n"
        "codec = Rice1(blocksize=32, bytepix=4, tilesize=2751)\n"
        "for n in (5, 12, 100, 600, 5000, 200000) * 3000:\n"
        "    stream = np.zeros(n, dtype=np.uint8)\n"
        "    stream[4] = 8\n"
        "    try:\n        codec.decode(stream)\n"
        "    except Exception:\n        pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    if done.returncode == 0:
        pytest.skip("this build of the library survived")
    assert done.returncode < 0
