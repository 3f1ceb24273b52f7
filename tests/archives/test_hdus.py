"""Spender's own reader of FITS files gives what astropy gives: real files, made ones, any rows."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from spender_core.archives.fits.hdus import Hdus, open_hdus
from spender_core.archives.remote.bytefile import MemoryFile
from spender_core.errors import DamagedFileError, FileError, InputError, MissingFileError

ROWS: list[Any] = [slice(1, 3), slice(None, None, 2), slice(3, 3), [2, 0, 2], [1], []]

STRUCTURE = {"XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "PCOUNT", "GCOUNT", "TFIELDS"}
"""Keywords that astropy changes where it decompresses an image."""


def written(*hdus: Any) -> bytes:
    content = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(content)
    return content.getvalue()


def opened(content: bytes) -> Hdus:
    return Hdus(MemoryFile("made.fits", content, remote=False))


def same(theirs: Any, ours: NDArray[Any]) -> None:
    """Compare values, shapes and types; strings by what they say."""
    theirs = np.asarray(theirs)
    assert theirs.shape == ours.shape
    assert ours.dtype.isnative
    if theirs.dtype.kind in "US":
        encoded = theirs.astype("S") if theirs.dtype.kind == "U" else theirs
        assert (np.char.rstrip(encoded, b" \0") == ours).all()
    else:
        assert theirs.dtype.newbyteorder("=") == ours.dtype
        np.testing.assert_array_equal(theirs, ours)


def compare(path: Path, step: int) -> int:
    """Compare a file with what astropy reads; of tables with many columns, each step-th one."""
    compared = 0
    with fits.open(path, memmap=False) as theirs, open_hdus(str(path)) as ours:
        assert [hdu.name for hdu in theirs] == ours.names
        for their, our in zip(theirs, ours, strict=True):
            if our.kind == "table":
                names = list(our.columns)[::step] if len(our.columns) > 50 else list(our.columns)
                found = our.table(names)
                for name in names:
                    same(their.data[name], found[name])
            elif their.data is None:
                assert our.kind == "empty"
            else:
                same(their.data, our.image())
                rows = [len(our) - 1, 0]
                same(their.data[rows], our.image(rows))
                assert ((their.data[rows] != 0) == our.nonzero(rows)).all()
            keys = {key for key in their.header if list(their.header).count(key) == 1}
            for key in keys & set(our.header) - {"BZERO", "BSCALE"}:
                if our.kind != "compressed" or key not in STRUCTURE:
                    assert their.header[key] == our.header[key]
            compared += 1
    return compared


@pytest.mark.parametrize("survey", ["desi", "templates", "sdss"])
def test_real_files_are_as_astropy_reads_them(real_data: Path, survey: str) -> None:
    paths = sorted((real_data / survey).rglob("*.fits"))
    if survey == "sdss":
        paths = list({path.parent: path for path in paths}.values())
    assert sum(compare(path, 17) for path in paths) > len(paths)


def cells(kind: str, n: int) -> Any:
    """Draw n values of a column of a type."""
    if kind == "A":
        text = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=7)
        return st.lists(text, min_size=n, max_size=n).map(lambda some: np.array(some, dtype="U7"))
    dtype = {"L": "?", "B": "u1", "I": "i2", "J": "i4", "K": "i8", "E": "f4", "D": "f8"} | {
        "C": "c8",
        "UI": "u2",
        "UJ": "u4",
        "UK": "u8",
    }
    shapes = st.sampled_from([(n,), (n, 3), (n, 2, 3)])
    return shapes.flatmap(lambda shape: npst.arrays(dtype[kind], shape))


@st.composite
def tables(draw: Any) -> fits.BinTableHDU:
    n = draw(st.integers(1, 5))
    kinds = draw(
        st.lists(st.sampled_from([*"ALBIJKEDC", "UI", "UJ", "UK"]), min_size=1, max_size=5)
    )
    columns = []
    for k, kind in enumerate(kinds):
        values = draw(cells(kind, n))
        repeat = int(np.prod(values.shape[1:]))
        form = f"{repeat}{kind[-1]}" if kind != "A" else "7A"
        shape = f"({','.join(map(str, values.shape[:0:-1]))})" if values.ndim > 2 else None
        zero = 1 << (8 * values.itemsize - 1) if kind[0] == "U" else None
        columns.append(fits.Column(f"c{k}", form, dim=shape, array=values, bzero=zero))
    return fits.BinTableHDU.from_columns(columns)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60, deadline=None)
@given(tables(), st.sampled_from(ROWS))
def test_made_tables_are_as_astropy_reads_them(table: fits.BinTableHDU, rows: Any) -> None:
    content = written(table)
    hdu = opened(content)[1]
    found = hdu.table(list(hdu.columns))
    count = len(hdu)
    some = rows if isinstance(rows, slice) else [row % count for row in rows]
    part = hdu.table(list(hdu.columns), some)
    with fits.open(io.BytesIO(content)) as theirs:
        for name, values in found.items():
            their = np.asarray(theirs[1].data[name])
            same(their, values)
            same(their[some if some != [] else slice(0)], part[name])
            assert hdu.columns[name] == np.dtype((values.dtype, values.shape[1:]))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(max_dims=3, min_side=1, max_side=6))
    ),
    st.sampled_from([None, "RICE_1", "GZIP_1", "GZIP_2", "NOCOMPRESS"]),
    st.sampled_from(ROWS),
)
def test_made_images_are_as_astropy_reads_them(
    image: NDArray[Any], method: str | None, rows: Any
) -> None:
    wide = image.dtype.itemsize == 8 and image.dtype.kind in "iu"
    if method and (image.dtype.kind == "f" or (wide and method == "RICE_1")):
        method = None
    hdu: Any = fits.CompImageHDU(image, compression_type=method) if method else fits.ImageHDU(image)
    # what is compressed may not be larger than its file
    content = written(hdu, fits.ImageHDU(np.zeros(2000)))
    our = opened(content)[1]
    with fits.open(io.BytesIO(content)) as theirs:
        expected = theirs[1].data
        same(expected, our.image())
        assert our.kind == ("compressed" if method else "image")
        assert our.dtype == our.image().dtype
        some = rows if isinstance(rows, slice) else [row % len(our) for row in rows]
        chosen = expected[some if some != [] else slice(0)]
        same(chosen, our.image(some))
        given_place = np.empty(chosen.shape, dtype=our.dtype)
        assert our.image(some, out=given_place) is given_place
        same(chosen, given_place)
        np.testing.assert_array_equal(our.nonzero(some), chosen != 0)


@pytest.mark.parametrize("blank", [None, 7])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "f4", "f8"])
def test_scaled_images_are_as_astropy_reads_them(dtype: str, blank: int | None) -> None:
    hdu = fits.ImageHDU(np.arange(24, dtype=dtype).reshape(4, 6))
    hdu.header["BSCALE"], hdu.header["BZERO"] = 0.5, -3.0
    if blank is not None and dtype[0] != "f":
        hdu.header["BLANK"] = blank
    content = written(fits.ImageHDU(np.arange(24, dtype=dtype).reshape(4, 6)))
    extra = {key: hdu.header[key] for key in ("BSCALE", "BZERO", "BLANK") if key in hdu.header}
    place = content.rindex(b"END     ")
    cards = b"".join(f"{key:8s}= {value:>20}".encode().ljust(80) for key, value in extra.items())
    content = content[:place] + cards + b"END".ljust(80) + content[place + 80 + len(cards) :]
    with fits.open(io.BytesIO(content)) as theirs:
        same(theirs[1].data, opened(content)[1].image())
        assert np.isnan(theirs[1].data).sum() == (blank is not None and dtype[0] != "f")


def test_raw_pixels_are_those_of_the_file() -> None:
    image = np.arange(12, dtype=">f4").reshape(3, 4)
    raw = opened(written(fits.ImageHDU(image)))[1].image_raw([2, 0])
    assert raw.dtype == np.dtype(">f4")
    np.testing.assert_array_equal(raw, image[[2, 0]])


def masks(rows: int, pixels: int) -> NDArray[np.uint32]:
    """Make masks as a survey writes them: few pixels, powers of 2, some lines without any."""
    rng = np.random.default_rng(3)
    mask = (rng.random((rows, pixels)) < 0.02) * (1 << rng.integers(0, 32, (rows, pixels)))
    mask[:: max(rows // 3, 1)] = 0
    return np.asarray(mask, dtype=np.uint32)


@pytest.fixture(params=["kernel", "astropy"])
def path_of_rice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read with the compiled kernel, and without."""
    from spender_core import native

    if request.param == "kernel":
        if native.library() is None:
            pytest.skip("the kernels are not compiled")
    else:
        monkeypatch.setattr("spender_core.archives.fits.rice.library", lambda: None)
    return str(request.param)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4"])
@pytest.mark.parametrize("kind", ["mask", "noise", "ramp", "constant"])
def test_rice_is_decoded_as_by_astropy(path_of_rice: str, kind: str, dtype: str) -> None:
    rng, shape = np.random.default_rng(1), (7, 333)
    limits = np.iinfo(dtype)
    made: Any = {
        "mask": masks(*shape) & limits.max,
        "noise": rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True),
        "ramp": np.arange(7 * 333).reshape(shape) % 120,
        "constant": np.full(shape, limits.max),
    }[kind]
    image = made.astype(dtype)
    content = written(fits.CompImageHDU(image, compression_type="RICE_1"), fits.ImageHDU(image))
    hdu = opened(content)[1]
    same(image, hdu.image())
    same(image[[6, 1, 1]], hdu.image([6, 1, 1]))
    np.testing.assert_array_equal(hdu.nonzero(slice(2, 5)), image[2:5] != 0)


@pytest.mark.parametrize("options", [{"tile_shape": (2, 50)}, {"compression_type": "HCOMPRESS_1"}])
def test_tiles_of_another_kind_are_read_by_astropy_or_refused(options: dict[str, Any]) -> None:
    image = np.arange(600, dtype="i4").reshape(6, 100)
    settings = {"compression_type": "RICE_1"} | options
    hdu = opened(written(fits.CompImageHDU(image, **settings), fits.ImageHDU(image)))[1]
    if options.get("compression_type"):
        with pytest.raises(DamagedFileError, match="compressed with 'HCOMPRESS_1'"):
            hdu.image()
    else:
        same(image[[5, 0]], hdu.image([5, 0]))
        np.testing.assert_array_equal(hdu.nonzero(), image != 0)


def test_quantised_floats_are_read_by_astropy() -> None:
    image = np.random.default_rng(0).normal(size=(5, 400)).astype("f4")
    hdu = fits.CompImageHDU(image, compression_type="RICE_1", quantize_level=16)
    content = written(hdu, fits.ImageHDU(image))
    with fits.open(io.BytesIO(content)) as theirs:
        same(theirs[1].data[2:4], opened(content)[1].image(slice(2, 4)))


def test_headers_have_long_names_long_texts_and_all_numbers() -> None:
    header = fits.Header()
    header["LONG"] = "x" * 200 + "it's"
    header["HIERARCH a long name"] = 1.5
    header["BIG"], header["SMALL"], header["TRUE"] = 2**62, -1e-30, True
    header["NOTHING"] = None
    header["TEXT"] = "a / b"
    header.append(("REAL", 1.0))
    content = written(fits.ImageHDU(np.zeros(3), header=header))
    found = opened(content)[1].header
    assert found["LONG"] == "x" * 200 + "it's"
    assert found["A LONG NAME"] == 1.5
    assert (found["BIG"], found["SMALL"], found["TRUE"]) == (2**62, -1e-30, True)
    assert found["TEXT"] == "a / b"
    assert found.get("REAL") == 1.0
    assert "NOTHING" not in found
    assert found.get("ABSENT", 3) == 3
    assert set(found) >= {"LONG", "A LONG NAME", "BIG", "TRUE", "TEXT"}


def test_hdus_are_found_by_name_and_number_and_no_more_are_read() -> None:
    images = [fits.ImageHDU(np.zeros(4), name=name) for name in ("ONE", "TWO", "TWO", "LAST")]
    content = written(*images)
    hdus = opened(content)
    assert hdus["two"].number == 2
    assert "LAST" in hdus
    assert "NONE" not in hdus
    assert len(hdus) == 5
    assert hdus.names == ["PRIMARY", "ONE", "TWO", "TWO", "LAST"]
    with pytest.raises(DamagedFileError, match="no HDU NONE, only PRIMARY, ONE"):
        hdus["NONE"]
    with pytest.raises(DamagedFileError, match="no HDU 9"):
        hdus[9]
    # what lies behind the last wanted one may be anything
    broken = content[: content.rindex(b"XTENSION")] + b"x" * 2880
    assert "TWO" in Hdus(MemoryFile("", broken), names=["ONE", "TWO"])
    assert len(Hdus(MemoryFile("", broken), names=["ONE", "TWO"])) == 3
    with pytest.raises(DamagedFileError, match="HDU 4 should begin"):
        len(opened(broken))


def refusing(
    make: Callable[[], Any], message: str, error: type[Exception] = DamagedFileError
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_columns_of_another_kind_are_refused() -> None:
    columns = [
        fits.Column("A", "E", array=np.zeros(3)),
        fits.Column("C", "E", array=np.zeros(3)),
        fits.Column("B", "2J", array=np.zeros((3, 2))),
        fits.Column("V", "PE()", array=np.array([np.zeros(2)] * 3, dtype=object)),
        fits.Column("S", "300A", array=["x"] * 3),
    ]
    table = fits.BinTableHDU.from_columns(columns)
    content = written(table, fits.ImageHDU(np.zeros(3)))
    hdu = opened(content.replace(b"TTYPE2  = 'C ", b"TTYPE2  = 'A "))
    refusing(lambda: hdu[1].table(["a"]), "more than one column a")
    refusing(lambda: hdu[1].table(["Z"]), "no column Z; its columns are A")
    refusing(lambda: hdu[1].table(["V"]), "variable length")
    refusing(lambda: hdu[1].table({"B": "i"}), "does not hold one value a row")
    refusing(lambda: hdu[1].table({"S": "S"}), "does not hold one value a row")
    refusing(lambda: hdu[1].table(["B"], [3]), "rows must be between 0 and 2", InputError)
    refusing(lambda: hdu[1].image(), "HDU 1  is not an image, but table")
    refusing(lambda: hdu[2].table(["A"]), "HDU 2  is not a table, but image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plain.fits").write_bytes(written(fits.ImageHDU(np.arange(6.0), name="X")))
    return tmp_path


def test_gzipped_files_are_read_and_others_refused(folder: Path) -> None:
    plain = folder / "plain.fits"
    (folder / "a.fits.gz").write_bytes(gzip.compress(plain.read_bytes()))
    for name in ("plain.fits", "a.fits.gz"):
        with open_hdus(str(folder / name)) as hdus:
            assert hdus["X"].image([5, 1]).tolist() == [5.0, 1.0]
    with pytest.raises(MissingFileError, match=r"there is no file .*absent\.fits"):
        open_hdus(str(folder / "absent.fits")).__enter__()
    for content, message in ((b"", "empty"), (b"<html>", "web page"), (b"BZh9x", "bzip2")):
        plain.write_bytes(content)
        with pytest.raises(FileError, match=rf"cannot read .*plain\.fits: .*{message}"):
            open_hdus(str(plain)).__enter__()
