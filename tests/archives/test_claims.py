"""Headers that claim what a file cannot hold are refused before anything is read."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from spender_core.archives.fits.claims import check, walk
from spender_core.archives.fits.opening import open_fits
from spender_core.errors import DamagedFileError, FileError

Content = bytes | bytearray


def card(key: str, value: Any) -> bytes:
    return f"{key:8s}= {value:>20}".encode().ljust(80)


def whole(*hdus: Any) -> bytes:
    """Return a FITS file of some HDUs."""
    content = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(content)
    return content.getvalue()


def image() -> bytes:
    return whole(fits.ImageHDU(np.arange(5000, dtype="f4").reshape(50, 100), name="FLUX"))


def table() -> bytes:
    columns = [
        fits.Column("FLUX", "E", array=np.arange(900.0)),
        fits.Column("NAME", "8A", array=np.array(["ab"] * 900)),
        fits.Column("BITS", "11X", array=np.zeros((900, 11), dtype=bool)),
    ]
    return whole(fits.BinTableHDU.from_columns(columns))


def variable() -> bytes:
    cells = np.empty(4, dtype=object)
    cells[:] = [np.arange(n, dtype="f4") for n in (3, 0, 700, 1)]
    return whole(fits.BinTableHDU.from_columns([fits.Column("SPECTRUM", "PE()", array=cells)]))


def edited(content: bytes, key: str, value: Any) -> bytes:
    """Replace the value of the last card of a keyword."""
    place = content.rindex(f"{key:8s}= ".encode())
    return content[:place] + card(key, value) + content[place + 80 :]


def refused(content: Content, message: str) -> None:
    with pytest.raises(DamagedFileError, match=message):
        check(io.BytesIO(content), len(content))


@pytest.mark.parametrize("make", [image, table, variable])
def test_good_files_pass_and_are_walked_to_their_end(make: Callable[[], bytes]) -> None:
    content = make()
    check(io.BytesIO(content), len(content))
    claims = list(walk(io.BytesIO(content), len(content)))
    with fits.open(io.BytesIO(content)) as hdus:
        places = [hdu.fileinfo() for hdu in hdus]
    assert [claim.start for claim in claims] == [place["datLoc"] for place in places]
    assert [-(-claim.size // 2880) * 2880 for claim in claims] == [p["datSpan"] for p in places]


@pytest.mark.parametrize("parts", ["sdss", "desi", "templates"])
def test_real_files_pass(real_data: Path, parts: str) -> None:
    files = sorted((real_data / parts).rglob("*.fits"))
    assert files
    for path in files:
        with path.open("rb") as file:
            check(file, path.stat().st_size)


@pytest.mark.parametrize(
    ("make", "key", "value", "message"),
    [
        (image, "NAXIS1", 10**12, "HDU 1 claims 200000000000000 bytes"),
        (image, "NAXIS2", 10**17, "truncated, or its header is damaged"),
        (image, "NAXIS1", -5, "NAXIS1 = -5, not a whole number"),
        (image, "NAXIS", 3, "NAXIS3 = None"),
        (image, "NAXIS", 10**6, "NAXIS = 1000000"),
        (image, "BITPIX", -65, "BITPIX = -65"),
        (image, "BITPIX", "T", "BITPIX = True"),
        (image, "PCOUNT", 10**15, "claims 4"),
        (image, "GCOUNT", 10**9, "claims 2"),
        (image, "GCOUNT", 0, "GCOUNT = 0"),
        (image, "NAXIS1", "1E2", "NAXIS1 = nan, not a whole number"),
        (image, "NAXIS1", "'100'", "NAXIS1 = '100', not a whole number"),
        (image, "NAXIS1", 10**30, "NAXIS1 = nan, not a whole number"),
        (image, "NAXIS1", "", "malformed or repeated"),
        (table, "NAXIS2", 10**13, "claims 1"),
        (table, "NAXIS1", 13, "columns of HDU 1 take 14 bytes a row, and its NAXIS1 is 13"),
        (table, "NAXIS1", 0, "not a table of rows and columns"),
        (table, "TFIELDS", 10**9, "TFIELDS = 1000000000"),
        (table, "TFIELDS", -1, "TFIELDS = -1"),
        (table, "TFIELDS", 4, "TFORM4 = ''"),
        (table, "TFORM1", "'1000000E'", "take 4000010 bytes a row"),
        (table, "TFORM1", "'0E'", "take 10 bytes a row"),
        (table, "TFORM1", "'Y'", "TFORM1 = 'Y'"),
        (table, "TFORM1", 7, "TFORM1 = 7, not a string"),
        (table, "TFORM2", "'9PE(9)'", "TFORM2 = '9PE"),
        (variable, "PCOUNT", 8, "points outside of its heap"),
        (variable, "THEAP", 10**6, "THEAP = 1000000, outside of its data"),
    ],
)
def test_impossible_claims_are_refused(
    make: Callable[[], bytes], key: str, value: Any, message: str
) -> None:
    content = make()
    if key == "THEAP":
        content = content.replace(b"TFIELDS =", card("THEAP", value) + b"TFIELDS =")
        place = content.index(b"XTENSION")
        end = content.index(b"END" + b" " * 77, place) + 80
        content = content[:end] + content[end + 80 :]
    else:
        content = edited(content, key, value)
    refused(content, message)


def test_repeated_and_disguised_cards_are_refused() -> None:
    """A reader might take another one of them."""
    content = image()
    place = content.index(b"PCOUNT  =")
    for text in (card("NAXIS1", 100), b"naxis1  = 100".ljust(80), b"NAXIS1=  100".ljust(80)):
        refused(content[:place] + text + content[place + 80 :], "malformed or repeated")


@pytest.mark.parametrize("cut", [1, 79, 80, 2879, 2880, 4000, 5760, 6000, 20_000, -2880, -1])
def test_truncated_files_are_refused(cut: int) -> None:
    content = image()[:cut]
    if len(content) == 2880:  # its empty first HDU is a file of its own
        check(io.BytesIO(content), len(content))
    else:
        refused(content, "truncated|where HDU 0 should begin")


def test_what_follows_the_last_hdu_is_refused() -> None:
    refused(image() + bytes(2880), "where HDU 2 should begin")
    refused(image() + b"x", "where HDU 2 should begin")


@pytest.mark.parametrize("content", [b"<html>", b"\x00" * 2880, b"XTENSION= 'IMAGE   '", b" "])
def test_what_is_not_fits_is_refused(content: bytes) -> None:
    refused(content, "where HDU 0 should begin")


def test_a_header_without_end_is_refused() -> None:
    content = image()
    refused(content.replace(b"END     ", b"EMD     ", 1), "truncated|no END within|malformed")
    endless = content[:80] + card("COMMENT", "'x'") * 100_000
    refused(endless, "no END within 100 blocks")


def test_thousands_of_hdus_are_refused() -> None:
    content = image()
    empty = b"".join(
        [card("XTENSION", "'IMAGE   '"), card("BITPIX", 8), card("NAXIS", 0), b"END".ljust(80)]
    ).ljust(2880)
    check(io.BytesIO(content + 900 * empty), len(content) + 900 * 2880)
    refused(content + 5000 * empty, "more than 1000 HDUs")


def test_headers_that_take_most_of_a_file_are_refused() -> None:
    long = card("XTENSION", "'IMAGE   '") + card("BITPIX", 8) + card("NAXIS", 0)
    long = (long + card("KEY", 1) * 3000 + b"END".ljust(80)).ljust(-(-3004 * 80 // 2880) * 2880)
    refused(image() + 40 * long, "its headers take")


def test_random_groups_are_refused() -> None:
    content = image()
    place = content.index(b"EXTEND  =")
    refused(content[:place] + card("GROUPS", "T") + content[place + 80 :], "random groups")


def test_arrays_that_share_their_place_are_refused() -> None:
    content = bytearray(variable())
    start = content.index(b"XTENSION") // 2880 * 2880 + 2880
    for row in range(4):
        content[start + 8 * row : start + 8 * row + 8] = content[start + 16 : start + 24]
    refused(content, "overlap|outside")


def test_damage_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "huge.fits"
    path.write_bytes(edited(image(), "NAXIS1", 10**12))
    with (
        pytest.raises(FileError, match=r"cannot read .*huge\.fits: HDU 1 claims .* remove it"),
        open_fits(str(path)),
    ):
        pass
