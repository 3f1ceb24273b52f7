"""Spectra of DESI by their ids: where the archives keep them, and copies of the archives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spender_desi import places
from spender_desi.instrument import DESI

from spender_core.archives.images import cutout_urls
from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError, MissingFileError

CoaddWriter = Callable[..., Path]
RedrockWriter = Callable[..., Path]
Reader = Callable[[Path], SpectrumBatch]
Targets = Callable[[SpectrumBatch], list[int]]

PUBLIC = "https://data.desi.lbl.gov/public"


@pytest.mark.parametrize(
    ("release", "row", "url"),
    [
        (
            "edr",
            ("sv3", "bright", 9971),
            f"{PUBLIC}/edr/spectro/redux/fuji/healpix/sv3/bright/99/9971/coadd-sv3-bright-9971.fits",
        ),
        (
            "edr",
            ("sv1", "other", 57),
            f"{PUBLIC}/edr/spectro/redux/fuji/healpix/sv1/other/0/57/coadd-sv1-other-57.fits",
        ),
        (
            "dr1",
            ("main", "dark", 10000),
            f"{PUBLIC}/dr1/spectro/redux/iron/healpix/main/dark/100/10000/coadd-main-dark-10000.fits",
        ),
        (
            None,
            ("main", "backup", 100),
            f"{PUBLIC}/dr1/spectro/redux/iron/healpix/main/backup/1/100/coadd-main-backup-100.fits",
        ),
    ],
)
def test_ids_are_found_in_the_archive(release: str | None, row: tuple[Any, ...], url: str) -> None:
    (whole,) = DESI().loader.locate([row], None, release)
    assert whole.urls == (url,)
    assert not whole.rows
    (single,) = DESI().loader.locate([(*row, 39627)], None, release)
    assert single.urls == (url,)
    assert single.rows == {"TARGETID": 39627}


def test_another_root_replaces_the_archives() -> None:
    (source,) = DESI().loader.locate([("sv3", "dark", 57)], "s3://desidata/", "edr")
    assert source.urls == (
        "s3://desidata/edr/spectro/redux/fuji/healpix/sv3/dark/0/57/coadd-sv3-dark-57.fits",
    )


@pytest.mark.parametrize(
    ("row", "release", "message"),
    [
        (("main", "dark", 57), "edr", r"survey 'main' is not in release edr; it has \['cmx'"),
        (("sv4", "dark", 57), "dr1", "survey 'sv4' is not in release dr1"),
        (("../..", "dark", 57), "dr1", "survey '../..' is not in"),
        (("sv3", "gray", 57), "edr", r"program 'gray' is not in release edr; it has \['backup'"),
        (("sv3", "../x", 57), "edr", "program '../x' is not in release edr"),
        (("sv3", "dark", 49152), "edr", "in release edr, pixel 49152 is not between 0 and 49151"),
        (("sv3", "dark", -1), "edr", "healpix -1 is negative"),
        (("sv3", "dark", 2**64), "edr", "must fit into 64 bits"),
        (("sv3", "dark", True), "edr", "must be whole numbers"),
        ((b"sv3", "dark", 57), "edr", r"\(survey, program, healpix\) or"),
        (("{survey}", "dark", 57), "edr", "survey '{survey}' is not in release"),
        (("tile", 169, 20210419), "edr", r"\('tile', TILEID, night, petal\)"),
        (("tile", 169, 20210419, 10), "edr", "petal 10 is not between 0 and 9"),
        (("tile", -1, 20210419, 5), "edr", "tile -1 is not between"),
        (("tile", 169, "../..", 5), "edr", "must be whole numbers"),
        (("sv3", "dark", 57), "dr99", r"release 'dr99' is not known; known: \['edr', 'dr1'\]"),
        (("sv3", "dark"), "edr", r"\(survey, program, healpix\) or"),
        (("sv3", "dark", 57, 1, 2), "edr", r"\(survey, program, healpix\) or"),
        (39627, "edr", r"\(survey, program, healpix\) or.*got 39627"),
        (("sv3", "dark", "x"), "edr", "healpix"),
    ],
    ids=str,
)
def test_other_ids_are_refused(row: Any, release: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DESI().loader.locate([row], None, release)


def archive(root: Path) -> Path:
    return root / "edr" / "spectro" / "redux" / "fuji" / "healpix" / "sv3" / "bright" / "0" / "57"


def test_spectra_are_read_by_id_from_a_root(
    write_coadd: CoaddWriter,
    write_redrock: RedrockWriter,
    tmp_path: Path,
    targets: Targets,
    target_ids: tuple[int, ...],
) -> None:
    coadd = write_coadd(archive(tmp_path))
    write_redrock(coadd)
    where = {"root": tmp_path, "release": "edr"}
    whole = DESI().read([("sv3", "bright", 57)], **where)
    assert torch.equal(whole.flux, DESI().read(str(coadd)).flux)
    wanted = [("sv3", "bright", 57, target_ids[row]) for row in (3, 0)]
    assert targets(DESI().read(wanted, **where)) == [target_ids[3], target_ids[0]]
    assert torch.equal(DESI().read(("sv3", "bright", 57), **where).flux, whole.flux)


def test_rows_of_a_batch_are_ids(
    write_coadd: CoaddWriter,
    write_redrock: RedrockWriter,
    tmp_path: Path,
    targets: Targets,
    target_ids: tuple[int, ...],
) -> None:
    coadd = write_coadd(archive(tmp_path))
    write_redrock(coadd)
    batch = DESI().read(str(coadd))[[2, 0]]
    again = DESI().read(batch.ids, root=tmp_path, release="edr")
    assert targets(again) == [target_ids[2], target_ids[0]]
    assert torch.equal(again.flux, batch.flux)
    assert again.z.tolist() == batch.z.tolist()


def test_rows_of_unknown_tiles_cannot_be_found_again(
    write_coadd: CoaddWriter, read_all: Reader, target_ids: tuple[int, ...]
) -> None:
    batch = read_all(write_coadd(name="coadd-0-80605.fits", header={"TILEID": 80605}))
    batch.ids["NIGHT"] = -1
    with pytest.raises(InputError, match=f"target {target_ids[0]} was read from a tile"):
        DESI().read(batch.ids)


def test_targets_that_are_not_in_the_file_are_named(
    write_coadd: CoaddWriter, tmp_path: Path
) -> None:
    write_coadd(archive(tmp_path))
    with pytest.raises(MissingFileError, match="holds no spectrum with TARGETID 12345"):
        DESI().read([("sv3", "bright", 57, 12345)], root=tmp_path, release="edr")


def test_tiles_are_found_in_the_archive() -> None:
    """As in https://data.desi.lbl.gov/public/edr/spectro/redux/fuji/tiles/cumulative."""
    (whole,) = DESI().loader.locate([("tile", 169, 20210419, 5)], None, "edr")
    name = "edr/spectro/redux/fuji/tiles/cumulative/169/20210419/coadd-5-169-thru20210419.fits"
    assert whole.urls == (f"{PUBLIC}/{name}",)
    assert not whole.rows
    (single,) = DESI().loader.locate([("tile", 169, 20210419, 5, 39627)], "s3", "dr1")
    assert single.urls[0] == f"s3://desidata/{name}".replace("edr", "dr1").replace("fuji", "iron")
    assert single.rows == {"TARGETID": 39627}


def test_rows_of_tables_are_ids() -> None:
    """Columns count by their names, whatever their order and however many more there are."""
    fields = [("HEALPIX", "i8"), ("Z", "f8"), ("PROGRAM", "U8"), ("SURVEY", "U8")]
    table = np.array([(57, 0.5, "dark", "sv3")], dtype=fields)
    (whole,) = DESI().loader.locate(table, None, "edr")
    assert whole.urls[0].endswith("healpix/sv3/dark/0/57/coadd-sv3-dark-57.fits")
    assert not whole.rows
    lacking = np.array([(57, 39627)], dtype=[("HEALPIX", "i8"), ("TARGETID", "i8")])
    with pytest.raises(InputError, match="target 39627 has no HEALPIX, SURVEY and PROGRAM"):
        DESI().loader.locate(lacking, None, "edr")


def test_a_release_of_ones_own_may_be_ordered_by_uniqpix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UNIQPIX = HEALPIX + 4 NSIDE^2; folders hold a hundred of them."""
    config = tmp_path / "config.toml"
    config.write_text("""
[releases.desi.later]
root = "https://example.org/desi"
collections.pixels = [{ folder = "later", layout = "uniqpix", values = { survey = ["main"] } }]
""")
    monkeypatch.setenv("SPENDER_CONFIG", str(config))
    found = DESI().loader.locate([("main", "dark", 26384 + 4 * 64**2, 39627)], None, "later")
    path = "later/spectra/main/dark/427/42768/coadd-main-dark-42768.fits"
    assert found[0].urls == (f"https://example.org/desi/{path}",)
    row = np.array([("main", "dark", 42768)], "U4,U4,i8")
    row.dtype.names = ("SURVEY", "PROGRAM", "UNIQPIX")
    assert DESI().loader.locate(row, None, "later")[0].urls == found[0].urls
    with pytest.raises(InputError, match="survey 'sv3' is not in release later"):
        DESI().loader.locate([("sv3", "dark", 42768)], None, "later")
    with pytest.raises(InputError, match=r"release later has no tiles; it has .'pixels'"):
        DESI().loader.locate([("tile", 1, 20210101, 0)], None, "later")


def test_catalogues_are_found() -> None:
    iron = f"{PUBLIC}/dr1/spectro/redux/iron"
    assert places.catalogue("tilepix", None, None) == f"{iron}/healpix/tilepix.fits"
    assert places.catalogue("zcatalog", None, "dr1") == f"{iron}/zcatalog/v1/zall-pix-iron.fits"
    where = {"survey": "main", "program": "dark", "healpix": 10057}
    name = "healpix/main/dark/100/10057/redrock-main-dark-10057.fits"
    assert places.catalogue("redrock", "/data", None, **where) == (
        f"/data/dr1/spectro/redux/iron/{name}"
    )
    with pytest.raises(InputError, match=r"program '\.\./\.\.' may only have letters"):
        places.catalogue("redrock", None, None, **(where | {"program": "../.."}))


def test_rows_of_real_tiles_are_ids(real_data: Path) -> None:
    root = real_data / "desi" / "public"
    tile = DESI().read([("tile", 169, 20210419, 5)], root=root, release="edr", quality=False)
    again = DESI().read(tile.ids, root=root, release="edr", quality=False)
    assert torch.equal(again.flux, tile.flux)


def test_every_real_coadd_is_where_its_id_says(real_data: Path) -> None:
    root = real_data / "desi" / "public"
    coadds = sorted(root.rglob("coadd-*.fits"))
    assert coadds
    for path in coadds:
        first = DESI().loader.load(str(path)).ids[:1]
        (source,) = DESI().loader.locate(first, str(root), "edr")
        assert Path(source.urls[0]) == path


def test_positions_of_targets_are_told(
    write_coadd: CoaddWriter, target_ids: tuple[int, ...]
) -> None:
    right, up = np.array([10.0, 359.5, 0.25, 180.0]), np.array([-5.0, 0.0, 89.5, 33.0])
    path = write_coadd(fibermap={"TARGET_RA": right, "TARGET_DEC": up})
    rows = DESI().loader.positions(str(path))
    assert rows["TARGETID"].tolist() == list(target_ids)
    np.testing.assert_array_equal(rows["RA"], right)
    np.testing.assert_array_equal(rows["DEC"], up)


def test_images_come_from_the_legacy_surveys() -> None:
    service = DESI().loader.cutouts()
    (url,) = cutout_urls(service, np.array([[10.0, -5.0]]), 300, None, None)
    assert url == (
        "https://www.legacysurvey.org/viewer/cutout.jpg?ra=10.0000000&dec=-5.0000000"
        "&layer=ls-dr9&pixscale=0.262&size=300"
    )
