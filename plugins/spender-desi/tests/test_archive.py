"""Spectra of DESI by their ids: where the archives keep them, and copies of the archives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from spender_desi.instrument import DESI

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
        (("sv3", "gray", 57), "edr", "program 'gray' is not known; use one of"),
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


def test_rows_of_tiles_cannot_be_found_again(
    write_coadd: CoaddWriter, read_all: Reader, target_ids: tuple[int, ...]
) -> None:
    batch = read_all(write_coadd(name="coadd-0-80605.fits", header={"TILEID": 80605}))
    with pytest.raises(InputError, match=f"target {target_ids[0]} was read from a tile"):
        DESI().read(batch.ids)


def test_targets_that_are_not_in_the_file_are_named(
    write_coadd: CoaddWriter, tmp_path: Path
) -> None:
    write_coadd(archive(tmp_path))
    with pytest.raises(MissingFileError, match="holds no spectrum with TARGETID 12345"):
        DESI().read([("sv3", "bright", 57, 12345)], root=tmp_path, release="edr")
