"""Damaged spec files, values that cannot be, and ids that are none: each is told by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from spender_sdss.instrument import BOSS, SDSS

from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import FileError, InputError, NoSpectraError, SpenderError

SpecWriter = Callable[..., Path]


def read(path: Path) -> SpectrumBatch:
    return SDSS().read(str(path), quality=False)


@pytest.mark.parametrize("cut", [0.001, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.999])
def test_truncated_files_are_refused(write_spec: SpecWriter, tmp_path: Path, cut: float) -> None:
    content = write_spec().read_bytes()
    part = tmp_path / "part.fits"
    part.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(FileError, match=r"cannot read .*part\.fits: .*remove it and try again"):
        read(part)


def damaged(write_spec: SpecWriter, **columns: Any) -> tuple[SpectrumBatch, SpectrumBatch]:
    """Return a good spectrum, and one with some of the pixels damaged."""
    good = read(write_spec())
    with fits.open(write_spec()) as hdus:
        table = {name.lower(): hdus[1].data[name].copy() for name in hdus[1].columns.names}
    for name, (pixels, value) in columns.items():
        table[name][pixels] = value
    return good, read(write_spec(coadd=table))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("flux", np.nan),
        ("flux", np.inf),
        ("flux", -np.inf),
        ("ivar", np.nan),
        ("ivar", np.inf),
        ("ivar", -4.0),
        ("ivar", -np.inf),
    ],
)
def test_values_that_cannot_be_are_masked_and_flagged(
    write_spec: SpecWriter, column: str, value: float
) -> None:
    good, bad = damaged(write_spec, **{column: (slice(1000, 1003), value)})
    lost = good.good[0] & ~bad.good[0]
    assert int(lost.sum()) == 3
    assert (bad.flux[0, lost] == 0).all()
    assert bad.good[0, good.good[0] & ~lost].all()
    assert bad.flags.item() == good.flags.item() | int(Flag.BAD_VALUES)
    assert "NaN, infinite or negative values masked" in bad.causes(0)
    assert not SDSS().rejects & Flag.BAD_VALUES


def test_what_the_survey_masked_may_hold_anything(write_spec: SpecWriter) -> None:
    where = slice(1000, 1003)
    good, bad = damaged(write_spec, flux=(where, np.nan), and_mask=(where, 1))
    assert bad.flags.item() == good.flags.item()
    _, bad = damaged(write_spec, flux=(where, np.nan), ivar=(where, 0))
    assert bad.flags.item() == good.flags.item()
    assert bad.flux.isfinite().all()


def test_a_spectrum_without_good_pixels_is_empty(write_spec: SpecWriter) -> None:
    path = write_spec(coadd={"ivar": np.zeros(3820)})
    batch = read(path)
    assert Flag.EMPTY in Flag(batch.flags.item())
    assert torch.equal(batch.norm, torch.ones(1, dtype=torch.float64))
    with pytest.raises(NoSpectraError, match="no good pixel"):
        SDSS().read(str(path))


@pytest.mark.parametrize("column", ["flux", "ivar", "loglam", "and_mask"])
def test_columns_of_another_type_are_refused(write_spec: SpecWriter, column: str) -> None:
    with pytest.raises(FileError, match=rf"fits: its column {column} .*<U2|.*not one of"):
        read(write_spec(coadd={column: np.array(["ab"] * 3820)}))


@pytest.mark.parametrize("column", ["PLATE", "RUN2D", "Z", "ZWARNING"])
def test_cells_of_another_type_are_refused(
    write_spec: SpecWriter, tmp_path: Path, column: str
) -> None:
    path = write_spec()
    with fits.open(path) as hdus:
        columns = [c for c in hdus[2].columns if c.name != column]
        pair = fits.Column(column, "2J", array=np.ones((1, 2), dtype="i4"))
        hdus[2] = fits.BinTableHDU.from_columns([*columns, pair], name="SPECOBJ")
        hdus.writeto(tmp_path / "pair.fits")
    with pytest.raises(FileError, match=rf"pair\.fits: its column {column} does not hold one"):
        read(tmp_path / "pair.fits")


def test_a_column_that_is_there_twice_is_refused(write_spec: SpecWriter) -> None:
    path = write_spec()
    content = path.read_bytes().replace(b"'wdisp   '", b"'flux    '")
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"name already used|more than one column"):
        read(path)


@pytest.mark.parametrize("table", [1, 2])
def test_tables_without_rows_are_refused(
    write_spec: SpecWriter, tmp_path: Path, table: int
) -> None:
    with fits.open(write_spec()) as hdus:
        empty = fits.BinTableHDU(hdus[table].data[:0])
        hdus[table] = empty
        hdus.writeto(tmp_path / "empty.fits")
    with pytest.raises(FileError, match=r"empty\.fits is not a spec file"):
        read(tmp_path / "empty.fits")


@pytest.mark.parametrize("value", [np.nan, np.inf, -40.0, 1e30])
def test_wavelengths_that_cannot_be_are_refused(write_spec: SpecWriter, value: float) -> None:
    loglam = np.round(3.5811 + 1e-4 * np.arange(3820), 4)
    loglam[7] = value
    with pytest.raises(FileError, match="loglam is not finite, or far from the grid"):
        read(write_spec(coadd={"loglam": loglam}))


@pytest.mark.parametrize(("flux", "ivar"), [(1e30, 1e38), (3e38, 1.0), (1e-40, 1.0)])
def test_values_that_overflow_are_masked_and_flagged(
    write_spec: SpecWriter, flux: float, ivar: float
) -> None:
    """Normalised, they do not fit into float32."""
    values = {"flux": np.full(3820, flux), "ivar": np.full(3820, ivar)}
    batch = read(write_spec(coadd=values))
    assert batch.flux.isfinite().all()
    assert batch.ivar.isfinite().all()
    assert (Flag.BAD_VALUES in Flag(batch.flags.item())) == (flux > 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -3.0])
def test_redshifts_that_cannot_be_are_unknown(write_spec: SpecWriter, value: float) -> None:
    batch = read(write_spec(catalogue={"Z": value}))
    assert batch.z.isnan().all()
    assert Flag.NO_Z in Flag(batch.flags.item())


@pytest.mark.parametrize(
    "row",
    [
        ("../..", 52254, 308),
        ("412", 52254, 308),
        (412.0, 52254, 308),
        (412.5, 52254, 308),
        (float("nan"), 52254, 308),
        (float("inf"), 52254, 308),
        (None, 52254, 308),
        (b"412", 52254, 308),
        (True, 52254, 308),
        (-412, 52254, 308),
        (0, 52254, 308),
        (412, 52254, 10**30),
        (10**6, 52254, 308),
        (412, 2**63, 308),
        (412, 52254, [308]),
        (412, 52254, 308, None),
        (412, 52254, 308, b"26"),
        (412, 52254, 308, 26),
        (412, 52254, 308, "../x"),
        (412, 52254, 308, "2\n6"),
        (412, 52254, 308, "26/..", "x"),
        (412, 52254, 308, "٢٦"),  # digits of another script
    ],
    ids=repr,
)
@pytest.mark.parametrize("instrument", [SDSS(), BOSS()], ids=lambda one: one.name)
def test_ids_that_are_none_are_refused(instrument: Any, row: Any, tmp_path: Path) -> None:
    """Alone, and with `strict` before anything is read; otherwise they cost only themselves."""
    for ids, strict in (([row], False), ([(412, 52254, 308), row], True)):
        with pytest.raises(InputError):
            instrument.read(ids, root=tmp_path, strict=strict)
    chunks = list(instrument.read_chunks([(412, 52254, 308), row], root=tmp_path))
    assert [one.error for one in chunks[0].failures] == ["MissingFileError", "InputError"]


def test_ids_of_numpy_are_ids(write_spec: SpecWriter, tmp_path: Path) -> None:
    folder = tmp_path / "dr17/sdss/spectro/redux/26/spectra/lite/0412"
    write_spec(folder)
    row = tuple(np.array([412, 52254, 308]))
    assert len(SDSS().read([row], root=tmp_path)) == 1


@pytest.mark.parametrize("seed", range(60))
def test_damaged_bytes_never_raise_anything_else(
    write_spec: SpecWriter, tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(write_spec().read_bytes())
    headers = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord("="))
    for place in rng.choice(headers, 3):
        content[place + int(rng.integers(-8, 20))] = int(rng.integers(256))
    path = tmp_path / "fuzzed.fits"
    path.write_bytes(content)
    try:
        told = f"fuzzed.fits: {len(read(path))} spectra"
    except SpenderError as error:
        told = str(error)
    assert "fuzzed.fits" in told
