"""Queries of DESI's catalogues, on an archive made up: against counting by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table, vstack
from astropy_healpix import HEALPix
from spender_desi import catalogue
from spender_desi.instrument import DESI

from spender_core.errors import (
    FileError,
    InputError,
    MissingFileError,
    PartialReadWarning,
    SpenderWarning,
)

REDUX = "edr/spectro/redux/fuji"
PHASES = {"sv1": "SV1_", "sv3": "SV3_", "special": "", "cmx": ""}
ROWS = 900
BGS_BRIGHT, LRG, BGS_ANY, SV0_BGS = 1 << 1, 1 << 0, 1 << 60, 1 << 8


def everything() -> Table:
    """Spectra of 600 objects around right ascension 0, some of them observed more than once."""
    rng = np.random.default_rng(0)
    objects = rng.integers(0, 600, ROWS)
    ra, dec = (rng.uniform(-2, 2, 600)) % 360, rng.uniform(58, 60, 600)
    table = Table({"TARGETID": 39627000000000000 + objects})
    table["SURVEY"] = rng.choice(list(PHASES), ROWS)
    table["PROGRAM"] = rng.choice(["dark", "bright"], ROWS)
    _, first = np.unique(np.array([str(tuple(row)) for row in table]), return_index=True)
    table, objects = table[np.sort(first)], objects[np.sort(first)]
    n = len(table)
    table["TARGET_RA"], table["TARGET_DEC"] = ra[objects], dec[objects]
    pixels = HEALPix(64, order="nested").lonlat_to_healpix(ra * u.deg, dec * u.deg)
    table["HEALPIX"] = pixels[objects]
    table["Z"] = rng.uniform(0, 1, n)
    table["ZERR"] = rng.choice([1e-5, 1e-2], n, p=[0.8, 0.2])
    table["ZWARN"] = rng.choice([0, 4], n, p=[0.8, 0.2])
    table["DELTACHI2"] = rng.choice([10.0, 30.0, 100.0], n)
    table["SPECTYPE"] = rng.choice(["GALAXY", "QSO", "STAR"], n)
    table["COADD_FIBERSTATUS"] = rng.choice([0, 8], n, p=[0.9, 0.1])
    table["OBJTYPE"] = rng.choice(["TGT", "SKY"], n, p=[0.9, 0.1])
    table["TSNR2_LRG"] = rng.uniform(1, 100, n)
    for prefix in sorted(set(PHASES.values())):
        own = np.array([PHASES[survey] == prefix for survey in table["SURVEY"]])
        for kind in ("DESI", "BGS"):
            bits = rng.integers(0, 2, n) * (LRG | BGS_ANY if kind == "DESI" else BGS_BRIGHT)
            table[f"{prefix}{kind}_TARGET"] = np.where(own, bits, 0)
    table["CMX_TARGET"] = np.where(table["SURVEY"] == "cmx", SV0_BGS, 0)
    for name, surveys in (
        ("ZCAT_PRIMARY", list(PHASES)),
        ("SV_PRIMARY", ["sv1", "sv2", "sv3"]),
        ("MAIN_PRIMARY", ["main"]),
    ):
        table[name] = best(table, surveys)
    return table


def best(table: Table, surveys: list[str]) -> list[bool]:
    """Judge each row by all others: no redshift warning, then depth."""
    rank = [(row["ZWARN"] == 0, row["TSNR2_LRG"]) for row in table]
    chosen: dict[int, int] = {}
    for k, row in enumerate(table):
        if row["SURVEY"] in surveys:
            other = chosen.setdefault(row["TARGETID"], k)
            if rank[k] > rank[other]:
                chosen[row["TARGETID"]] = k
    return [k in chosen.values() for k in range(len(table))]


REDSHIFTS = ("TARGETID", "Z", "ZERR", "ZWARN", "SPECTYPE", "DELTACHI2")
FIBERMAP = ("TARGETID", "COADD_FIBERSTATUS", "TARGET_RA", "TARGET_DEC", "OBJTYPE")


@pytest.fixture(scope="module")
def table() -> Table:
    return everything()


@pytest.fixture(scope="module")
def archive(table: Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write redrock files with their rows in different orders, tilepix.fits and the zcatalog."""
    root = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(1)
    tiles = []
    for group in table.group_by(["SURVEY", "PROGRAM", "HEALPIX"]).groups:
        survey, program, pixel = (group[name][0] for name in ("SURVEY", "PROGRAM", "HEALPIX"))
        tiles.append({"SURVEY": survey, "PROGRAM": program, "HEALPIX": pixel, "TILEID": 7})
        masks = [f"{PHASES[survey]}{kind}_TARGET" for kind in ("DESI", "BGS")]
        masks += ["CMX_TARGET"] if survey == "cmx" else []
        parts = {
            "REDSHIFTS": group[REDSHIFTS],
            "FIBERMAP": group[(*FIBERMAP, *masks)][rng.permutation(len(group))],
            "TSNR2": group["TARGETID", "TSNR2_LRG"],
        }
        hdus = fits.HDUList([fits.PrimaryHDU()])
        for name, part in parts.items():
            hdus.append(fits.table_to_hdu(Table(part, copy=True)))
            hdus[-1].name = name
        folder = root / REDUX / f"healpix/{survey}/{program}/{pixel // 100}/{pixel}"
        folder.mkdir(parents=True)
        hdus.writeto(folder / f"redrock-{survey}-{program}-{pixel}.fits")
    tiles.append({"SURVEY": "sv3", "PROGRAM": "dark", "HEALPIX": 40_000, "TILEID": 8})
    Table(tiles).write(root / REDUX / "healpix/tilepix.fits")
    (root / REDUX / "zcatalog").mkdir()
    table.write(root / REDUX / "zcatalog/zall-pix-fuji.fits")
    return root


def query(archive: Path, *where: Any, **asked: Any) -> Table:
    return DESI().query(*where, root=archive, release="edr", **asked)


def keys(table: Table) -> list[tuple[Any, ...]]:
    names = ("TARGETID", "SURVEY", "PROGRAM", "HEALPIX")
    return sorted(tuple(row[name] for name in names) for row in table)


def inside(table: Table, ra: float, dec: float, radius: float) -> Any:
    centre = SkyCoord(ra * u.deg, dec * u.deg)
    return SkyCoord(table["TARGET_RA"] * u.deg, table["TARGET_DEC"] * u.deg).separation(centre) <= (
        radius * u.deg
    )


def good(table: Table) -> Any:
    """Quality cuts, row by row."""
    result = []
    for row in table:
        bits = int(row["SV1_DESI_TARGET"] | row["SV3_DESI_TARGET"] | row["DESI_TARGET"])
        fine = row["ZWARN"] == 0 and row["COADD_FIBERSTATUS"] == 0 and row["OBJTYPE"] == "TGT"
        if bits & BGS_ANY:
            fine &= row["ZERR"] < 0.0005 * (1 + row["Z"]) and row["DELTACHI2"] > 40
        if bits & LRG:
            fine &= row["DELTACHI2"] > 15
        result.append(bool(fine))
    return np.array(result)


def test_all_rows_of_the_catalogue(archive: Path, table: Table) -> None:
    found = query(archive, primary=False, quality=False)
    assert found.colnames[:4] == ["TARGETID", "SURVEY", "PROGRAM", "HEALPIX"]
    assert found["TARGETID"].tolist() == table["TARGETID"].tolist()
    assert found["SURVEY"].tolist() == table["SURVEY"].tolist()
    assert found["Z"].tolist() == table["Z"].tolist()
    assert found.meta["INSTRUME"] == "desi"


def test_the_usual_rows_are_primary_and_good(archive: Path, table: Table) -> None:
    expected = table[np.array(table["ZCAT_PRIMARY"]) & good(table)]
    assert keys(query(archive)) == keys(expected)
    assert 50 < len(expected) < len(table) / 2


CONES = [(0.0, 59.0, 0.7), (359.0, 58.5, 0.3), (1.0, 59.5, 5.0)]


@pytest.mark.parametrize("cone", CONES)
@pytest.mark.parametrize(
    ("choice", "column"), [(True, "ZCAT_PRIMARY"), ("sv", "SV_PRIMARY"), (False, None)]
)
def test_a_cone_is_answered_by_redrock_files(
    archive: Path, table: Table, cone: Any, choice: Any, column: str | None
) -> None:
    keep = inside(table, *cone)
    if column:
        keep &= np.array(table[column])
    found = query(archive, "Z > 0.2", cone=cone, primary=choice, quality=False)
    assert keys(found) == keys(table[keep & (table["Z"] > 0.2)])
    assert len(found) > 5


def test_a_cone_needs_no_catalogue_of_redshifts(archive: Path, table: Table) -> None:
    rename = archive / REDUX / "zcatalog"
    rename.rename(rename.with_name("away"))
    try:
        found = query(archive, cone=(0, 59, 0.5))
        with pytest.raises(MissingFileError, match="zall-pix-fuji"):
            query(archive)
    finally:
        rename.with_name("away").rename(rename)
    assert keys(found) == keys(
        table[inside(table, 0, 59, 0.5) & np.array(table["ZCAT_PRIMARY"]) & good(table)]
    )


@pytest.mark.parametrize("target", ["BGS_BRIGHT", "lrg", ["LRG", "BGS_BRIGHT"], "SV0_BGS"])
@pytest.mark.parametrize("region", [{}, {"cone": (0, 59, 10)}, {"box": (358, 2, 50, 70)}], ids=str)
def test_both_ways_find_the_same_targets(
    archive: Path, table: Table, target: Any, region: Any
) -> None:
    names = [target] if isinstance(target, str) else target
    expected = np.zeros(len(table), dtype=bool)
    for survey, prefix in PHASES.items():
        own = np.array(table["SURVEY"] == survey)
        if survey == "cmx":
            expected |= own & ("SV0_BGS" in names) & ((table["CMX_TARGET"] & SV0_BGS) != 0)
            continue
        if "BGS_BRIGHT" in names:
            expected |= own & (table[f"{prefix}BGS_TARGET"] & BGS_BRIGHT != 0)
        if "LRG" in names or "lrg" in names:
            expected |= own & (table[f"{prefix}DESI_TARGET"] & LRG != 0)
    found = query(archive, target=target, primary=False, quality=False, **region)
    assert keys(found) == keys(table[expected])
    assert expected.any()


def test_pixels_and_boxes(archive: Path, table: Table) -> None:
    pixels = np.unique(table["HEALPIX"])[:2].tolist()
    found = query(archive, healpix=(64, pixels), primary=False, quality=False)
    assert keys(found) == keys(table[np.isin(table["HEALPIX"], pixels)])
    found = query(archive, box=(359.5, 0.5, 58.2, 59), primary=False, quality=False)
    ra, dec = np.array(table["TARGET_RA"]), np.array(table["TARGET_DEC"])
    expected = table[((ra >= 359.5) | (ra <= 0.5)) & (dec >= 58.2) & (dec <= 59)]
    assert keys(found) == keys(expected)
    assert len(expected) > 10


def test_too_many_files_are_left_to_the_catalogue(
    archive: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_files = query(archive, cone=(0, 59, 1))
    monkeypatch.setattr(catalogue, "MOST_FILES", 3)
    by_catalogue = query(archive, cone=(0, 59, 1))
    assert keys(by_files) == keys(by_catalogue)
    names = list(table.colnames)
    assert [names.index(n) for n in by_catalogue.colnames] == [
        names.index(n) for n in by_files.colnames
    ]


def test_one_target_in_two_programs_stays_two_objects(archive: Path, table: Table) -> None:
    found = query(archive, cone=(0, 59, 10), primary=False, quality=False)
    targets, counts = np.unique(found["TARGETID"], return_counts=True)
    assert counts.max() > 1
    twice = int(targets[counts.argmax()])
    assert keys(query(archive, {"TARGETID": twice}, primary=False, quality=False)) == keys(
        table[table["TARGETID"] == twice]
    )


def test_an_empty_part_of_the_sky_gives_no_rows(archive: Path) -> None:
    nothing = query(archive, cone=(180, 0, 1), columns=["Z"])
    assert nothing.colnames == ["TARGETID", "SURVEY", "PROGRAM", "HEALPIX", "Z"]
    assert len(nothing["TARGETID"]) == 0
    assert nothing["TARGETID"].dtype == np.int64
    with pytest.raises(InputError):
        DESI().read(query(archive, cone=(180, 0, 1)))


def test_a_limit_stops_early(archive: Path) -> None:
    whole = query(archive, cone=(0, 59, 2))
    assert keys(query(archive, cone=(0, 59, 2), limit=3)) == keys(whole[:3])


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"target": "BGS_BRIHGT"}, "did you mean BGS_BRIGHT"),
        ({"primary": "best"}, "primary must be"),
        ({"primary": 3}, "primary must be"),
        ({"where": "Q > 3"}, "no column Q"),
        ({"columns": ["Q"]}, "no column Q"),
        ({"columns": []}, "columns must be"),
        ({"limit": 0}, "limit must be"),
        ({"limit": 2.5}, "limit must be"),
        ({"cone": (0, 59, 1), "box": (1, 2, 3, 4)}, "takes one of them"),
        ({"release": "dr99"}, "dr99"),
        ({"catalogue": ""}, "catalogue must be"),
    ],
)
def test_what_does_not_fit_is_refused(archive: Path, asked: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        DESI().query(**({"root": archive, "release": "edr"} | asked))


def test_a_catalogue_of_the_users_own(archive: Path, table: Table, tmp_path: Path) -> None:
    own = table["TARGETID", "SURVEY", "PROGRAM", "HEALPIX", "Z"]
    own.write(tmp_path / "own.fits")
    found = DESI().query("Z > 0.9", catalogue=tmp_path / "own.fits", primary=False, quality=False)
    assert keys(found) == keys(own[own["Z"] > 0.9])
    with pytest.raises(InputError, match=r"ZCAT_PRIMARY.*primary=False"):
        DESI().query(catalogue=tmp_path / "own.fits")
    with pytest.raises(InputError, match=r"own\.fits has no column"):
        DESI().query(catalogue=tmp_path / "own.fits", primary=False)


@pytest.mark.parametrize(
    "wrong",
    [{"SURVEY": "../../../.."}, {"SURVEY": 5}, {"PROGRAM": ""}, {"HEALPIX": "100"}],
    ids=str,
)
def test_what_is_no_coadd_in_tilepix_is_refused(tmp_path: Path, wrong: Any) -> None:
    folder = tmp_path / REDUX / "healpix"
    folder.mkdir(parents=True)
    row = {"SURVEY": "sv3", "PROGRAM": "dark", "HEALPIX": 100, "TILEID": 1}
    Table([row | wrong]).write(folder / "tilepix.fits")
    with pytest.raises(FileError, match=r"tilepix\.fits: .* (holds|is no survey)"):
        query(tmp_path, healpix=(64, 100))


def test_a_catalogue_that_does_not_tell_where_spectra_are_says_so(archive: Path) -> None:
    path = next((archive / REDUX).glob("healpix/*/*/*/*/redrock-*.fits"))
    with pytest.warns(SpenderWarning, match="no column SURVEY, PROGRAM, HEALPIX, so that `read`"):
        found = DESI().query(catalogue=path, primary=False, quality=False)
    assert found.colnames[0] == "TARGETID"


def test_redrock_files_that_are_absent_are_told(
    archive: Path, table: Table, tmp_path: Path
) -> None:
    shutil.copytree(archive, tmp_path / "copy")
    files = sorted((tmp_path / "copy" / REDUX).glob("healpix/*/*/*/*/redrock-*.fits"))
    _, survey, program, pixel = files[0].stem.split("-")
    files[0].unlink()
    asked: dict[str, Any] = {"cone": (0, 59, 10), "primary": False, "quality": False}
    with pytest.warns(PartialReadWarning, match=f"1 of {len(files)} files .*{files[0].name}"):
        found = query(tmp_path / "copy", **asked)
    gone = (table["SURVEY"] == survey) & (table["PROGRAM"] == program)
    assert keys(found) == keys(table[~(gone & (table["HEALPIX"] == int(pixel)))])
    for file in files[1:]:
        file.unlink()
    with pytest.raises(MissingFileError, match=f"none of the {len(files)} files exists"):
        query(tmp_path / "copy", **asked)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("TARGETID", np.array([39627652591521793.0, np.nan]), "not whole numbers"),
        ("SURVEY", [1, 2], "not text"),
        ("ZWARN", ["0", "0"], "not whole numbers"),
        ("Z", [[0.1, 0.2]] * 2, "not numbers"),
        ("SV3_DESI_TARGET", [1.0, np.nan], "not whole numbers"),
    ],
)
def test_columns_of_other_types_are_refused(
    table: Table, tmp_path: Path, name: str, values: Any, message: str
) -> None:
    own = table[:2].copy()
    own[name] = values
    own.write(tmp_path / "own.fits")
    with pytest.raises(FileError, match=rf"own\.fits: its column {name} .*{message}"):
        DESI().query(catalogue=tmp_path / "own.fits", target="LRG")


def test_what_a_query_finds_good_is_what_reading_keeps(
    write_coadd: Callable[..., Path], write_redrock: Callable[..., Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    for trial in range(3):
        root = tmp_path / str(trial)
        bits = rng.choice([0, LRG, BGS_ANY, LRG | BGS_ANY], 4)
        folder = root / REDUX / "healpix/sv3/bright/0/57"
        fibermap: dict[str, Any] = {
            "DESI_TARGET": None,
            "SV3_DESI_TARGET": bits,
            "COADD_FIBERSTATUS": np.array([0, 0, 0, 8 * (trial == 1)]),
        }
        coadd = write_coadd(folder=folder, fibermap=fibermap)
        quality = {
            "ZWARN": rng.choice([0, 4], 4, p=[0.8, 0.2]),
            "ZERR": rng.choice([1e-5, 1e-2], 4),
            "DELTACHI2": rng.choice([10.0, 30.0, 100.0], 4),
        }
        for name, fine in (("ZWARN", 0), ("ZERR", 1e-5), ("DELTACHI2", 100.0)):
            quality[name][1] = fine  # of the first target, so that one is left
        with fits.open(write_redrock(coadd, **quality)) as redrock:
            rows = Table(redrock["REDSHIFTS"].data)
        with fits.open(coadd) as hdus:
            rows = vstack([rows[rows["TARGETID"] == t] for t in hdus["FIBERMAP"].data["TARGETID"]])
            for name in ("SV3_DESI_TARGET", "COADD_FIBERSTATUS", "OBJTYPE"):
                rows[name] = hdus["FIBERMAP"].data[name]
        rows["SURVEY"], rows["PROGRAM"], rows["HEALPIX"] = "sv3", "bright", 57
        rows.write(root / "zcatalog.fits")
        found = DESI().query(catalogue=root / "zcatalog.fits", primary=False)
        kept = DESI().read([("sv3", "bright", 57)], root=root, release="edr").ids
        assert found["TARGETID"].tolist() == kept["TARGETID"].tolist()
        back = DESI().read(found, root=root, release="edr")
        assert back.ids["TARGETID"].tolist() == found["TARGETID"].tolist()
