"""DESI on fabricated files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from spender_desi.instrument import DESI

from spender_core import registry
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import FileError, InputError, MissingFileError, NoSpectraError
from spender_core.interfaces import Instrument
from spender_core.testing import InstrumentContract, LoaderContract

CoaddWriter = Callable[..., Path]
RedrockWriter = Callable[..., Path]

TARGETS = (39627000000000001, 39627000000000007, 39627000000000003, 39627000000000005)
BGS, LRG, ELG = 1 << 60, 1 << 0, 1 << 1


class TestDESI(InstrumentContract, LoaderContract):
    @pytest.fixture
    def instrument(self) -> Instrument:
        return DESI()

    @pytest.fixture
    def files(self, write_coadd: CoaddWriter, write_redrock: RedrockWriter) -> list[Path]:
        coadds = [write_coadd(), write_coadd(name="coadd-sv3-dark-57.fits")]
        write_redrock(coadds[0])
        return coadds


def read_all(path: Path) -> SpectrumBatch:
    return DESI().read(str(path), quality=False)


def targets(batch: SpectrumBatch) -> list[int]:
    assert batch.ids is not None
    return [int(target) for target in batch.ids["TARGETID"]]


def test_the_registry_offers_desi(write_coadd: CoaddWriter) -> None:
    assert "desi" in registry.instruments()
    assert registry.recognise(str(write_coadd())).name == "desi"


def test_ids_tell_survey_program_and_healpix(write_coadd: CoaddWriter) -> None:
    batch = read_all(write_coadd())
    assert batch.ids is not None
    assert batch.ids.tolist() == [(target, "sv3", "bright", 57, -1) for target in TARGETS]
    assert batch.label(0) == f"{TARGETS[0]}-sv3-bright-57"


def test_ids_of_tiles_tell_the_tile(write_coadd: CoaddWriter) -> None:
    batch = read_all(write_coadd(name="coadd-0-80605.fits", header={"TILEID": 80605}))
    assert batch.ids is not None
    assert batch.ids.tolist() == [(target, "", "", -1, 80605) for target in TARGETS]
    assert batch.label(1) == f"{TARGETS[1]}-80605"


def test_cameras_are_joined(write_coadd: CoaddWriter) -> None:
    """Copied where one camera sees a pixel, weighted by ivar where two do."""
    kept: dict[str, Any] = {}
    batch = DESI().loader.load(str(write_coadd(edit=kept.update)))
    flux, ivar = batch.flux.numpy(), batch.ivar.numpy()
    for camera, alone in {
        "B": slice(0, 2700),
        "R": slice(2751, 4900),
        "Z": slice(5026, 7781),
    }.items():
        first = round((kept[f"{camera}_WAVELENGTH"][0] - 3600) / 0.8)
        here = slice(alone.start - first, alone.stop - first)
        np.testing.assert_array_equal(flux[:, alone], kept[f"{camera}_FLUX"][:, here])
        np.testing.assert_array_equal(ivar[:, alone], kept[f"{camera}_IVAR"][:, here])
    for left, right, both in (("B", "R", slice(2700, 2751)), ("R", "Z", slice(4900, 5026))):
        starts = {c: round((kept[f"{c}_WAVELENGTH"][0] - 3600) / 0.8) for c in (left, right)}
        f, w = (
            [kept[f"{c}_{part}"][:, both.start - starts[c] : both.stop - starts[c]] for c in starts]
            for part in ("FLUX", "IVAR")
        )
        np.testing.assert_allclose(ivar[:, both], w[0] + w[1], rtol=1e-6)
        np.testing.assert_allclose(
            flux[:, both], (f[0] * w[0] + f[1] * w[1]) / (w[0] + w[1]), rtol=1e-5
        )


@pytest.mark.parametrize("bit", [0, 5, 30, 31])
def test_any_bit_of_the_mask_masks(write_coadd: CoaddWriter, bit: int) -> None:
    def edit(images: dict[str, Any]) -> None:
        images["B_MASK"][1, 100] = np.int64(1 << bit).astype("i4") if bit < 31 else -(2**31)

    batch = DESI().loader.load(str(write_coadd(edit=edit)))
    assert (~batch.good).nonzero().tolist() == [[1, 100]]


def test_pixels_that_are_bad_are_masked(write_coadd: CoaddWriter) -> None:
    def edit(images: dict[str, Any]) -> None:
        images["B_FLUX"][0, 10] = np.nan
        images["B_IVAR"][0, 11:14] = [0.0, 1e-6, -1.0]
        images["Z_FLUX"][0, 2000] = np.inf

    batch = DESI().loader.load(str(write_coadd(edit=edit)))
    assert (~batch.good).nonzero().tolist() == [[0, 10], [0, 11], [0, 12], [0, 13], [0, 6900]]
    assert batch.flux.isfinite().all()


def test_a_bad_camera_leaves_the_other_one(write_coadd: CoaddWriter) -> None:
    """In the overlap, a masked or missing value in B leaves that of R."""
    kept: dict[str, Any] = {}

    def edit(images: dict[str, Any]) -> None:
        images["B_MASK"][0, 2710] = 4
        images["B_IVAR"][0, 2711] = 0
        images["B_FLUX"][0, 2712], images["B_IVAR"][0, 2712] = np.nan, 0
        kept.update(images)

    batch = DESI().loader.load(str(write_coadd(edit=edit)))
    for pixel in (2710, 2711, 2712):
        assert batch.flux[0, pixel].item() == pytest.approx(
            kept["R_FLUX"][0, pixel - 2700], rel=1e-6
        )
        assert batch.ivar[0, pixel].item() == pytest.approx(
            kept["R_IVAR"][0, pixel - 2700], rel=1e-6
        )


def test_redshifts_are_joined_by_target(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter
) -> None:
    coadd = write_coadd()
    write_redrock(coadd)
    batch = DESI().read(str(coadd))
    assert targets(batch) == list(TARGETS)
    assert batch.z.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert batch.zerr.tolist() == [1e-5] * 4
    assert batch.flags.tolist() == [0] * 4


def test_targets_without_a_redshift_are_unknown(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter
) -> None:
    """Of four targets two are in the redrock file, with two of another coadd."""
    coadd = write_coadd()
    write_redrock(coadd, TARGETID=np.array([TARGETS[3], 5, TARGETS[1], 2**62]))
    batch = DESI().read(str(coadd))
    assert batch.z.isnan().tolist() == [True, False, True, False]
    assert batch.z[[1, 3]].tolist() == [0.4, 0.3]
    assert batch.zerr.isinf().tolist() == [True, False, True, False]
    assert Flag.NO_Z in Flag(int(batch.flags[0]))


@pytest.mark.parametrize("rows", [0, 1])
def test_short_tables_of_redshifts(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter, rows: int
) -> None:
    coadd = write_coadd()
    columns = {"TARGETID": np.array(TARGETS), "Z": np.full(4, 0.1), "ZERR": np.full(4, 1e-5)}
    columns |= {"ZWARN": np.zeros(4, dtype="i8"), "DELTACHI2": np.full(4, 100.0)}
    kept = {name: values[:rows] for name, values in columns.items()}
    write_redrock(coadd, **kept, SPECTYPE=np.array(["GALAXY"] * rows, dtype="U6"))
    assert int((~read_all(coadd).z.isnan()).sum()) == rows


def test_redshifts_that_are_no_numbers_are_unknown(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter
) -> None:
    coadd = write_coadd()
    write_redrock(coadd, Z=np.array([np.nan, 0.1, -2.0, 0.2]), ZERR=np.array([1, np.nan, 1, -1e-5]))
    batch = read_all(coadd)
    assert batch.z.isnan().tolist() == [False, False, True, True]
    assert batch.zerr.tolist()[:2] == [float("inf"), 1e-5]


def test_without_redrock_nothing_is_known(write_coadd: CoaddWriter) -> None:
    batch = DESI().read(str(write_coadd()))
    assert batch.z.isnan().all()
    assert batch.zerr.isinf().all()
    assert all(flag & int(Flag.NO_Z) for flag in batch.flags.tolist())


def test_folders_named_coadd_are_left_alone(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter, tmp_path: Path
) -> None:
    coadd = write_coadd(tmp_path / "my-coadd-files" / "coadd-old")
    write_redrock(coadd)
    assert DESI().read(str(coadd)).z.tolist() == [0.1, 0.2, 0.3, 0.4]


def test_a_damaged_redrock_is_named(write_coadd: CoaddWriter, tmp_path: Path) -> None:
    coadd = write_coadd()
    (tmp_path / "redrock-sv3-bright-57.fits").write_text("<html>503</html>")
    with pytest.raises(FileError, match="redrock-sv3-bright-57"):
        read_all(coadd)
    fits.HDUList([fits.PrimaryHDU()]).writeto(
        tmp_path / "redrock-sv3-bright-57.fits", overwrite=True
    )
    with pytest.raises(FileError, match=r"redrock-sv3-bright-57\.fits is damaged.*or remove it"):
        read_all(coadd)


def one_of_four(value: Any, row: int = 1, rest: Any = 0) -> Any:
    values = [rest] * 4
    values[row] = value
    return np.array(values)


@pytest.mark.parametrize(
    ("column", "values", "flag"),
    [
        ("COADD_FIBERSTATUS", one_of_four(8), Flag.FIBRE),
        ("COADD_FIBERSTATUS", one_of_four(1 << 25), Flag.FIBRE),
        ("OBJTYPE", one_of_four("SKY", rest="TGT"), Flag.NOT_TARGET),
        ("OBJTYPE", one_of_four("BAD", rest="TGT"), Flag.NOT_TARGET),
        ("OBJTYPE", one_of_four("", rest="TGT"), Flag.NOT_TARGET),
    ],
    ids=["status 8", "status 2**25", "SKY", "BAD", "empty"],
)
def test_bad_fibres_are_cut(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter, column: str, values: Any, flag: Flag
) -> None:
    coadd = write_coadd(fibermap={column: values})
    write_redrock(coadd)
    assert targets(DESI().read(str(coadd))) == [TARGETS[row] for row in (0, 2, 3)]
    everything = read_all(coadd)
    assert targets(everything) == list(TARGETS)
    assert Flag(int(everything.flags[1])) == flag


def test_redshift_warnings_are_cut(write_coadd: CoaddWriter, write_redrock: RedrockWriter) -> None:
    coadd = write_coadd()
    write_redrock(coadd, ZWARN=one_of_four(4))  # the second row is the first target
    assert targets(DESI().read(str(coadd))) == list(TARGETS[1:])
    assert Flag(int(read_all(coadd).flags[0])) == Flag.Z_WARNING


# What redrock says of the first target (at z = 0.1), and the classes that it fails.
UNCERTAIN = [
    ({"ZERR": 5.4e-4, "DELTACHI2": 40.1}, ()),
    ({"ZERR": 5.6e-4, "DELTACHI2": 100.0}, (BGS, BGS | ELG)),
    ({"ZERR": 1e-5, "DELTACHI2": 39.9}, (BGS, BGS | ELG)),
    ({"ZERR": 1e-5, "DELTACHI2": 14.9}, (BGS, BGS | ELG, LRG)),
    ({"ZERR": 1e-2, "DELTACHI2": 15.1}, (BGS, BGS | ELG)),
]


@pytest.mark.parametrize("phase", ["", "SV1_", "SV3_"])
@pytest.mark.parametrize("kind", [BGS, BGS | ELG, LRG, ELG, 0])
@pytest.mark.parametrize(("quality", "failing"), UNCERTAIN)
def test_uncertain_redshifts_are_cut_by_class(
    write_coadd: CoaddWriter,
    write_redrock: RedrockWriter,
    phase: str,
    kind: int,
    quality: dict[str, float],
    failing: tuple[int, ...],
) -> None:
    columns = {"DESI_TARGET": None, f"{phase}DESI_TARGET": np.full(4, kind)}
    coadd = write_coadd(fibermap=columns)
    good = {"ZERR": 1e-5, "DELTACHI2": 1000.0}
    write_redrock(coadd, **{n: one_of_four(v, rest=good[n]) for n, v in quality.items()})
    expected = TARGETS[1:] if kind in failing else TARGETS
    assert targets(DESI().read(str(coadd))) == list(expected)
    flagged = [bool(flag & int(Flag.Z_UNCERTAIN)) for flag in read_all(coadd).flags.tolist()]
    assert flagged == [kind in failing, False, False, False]


def test_all_phases_of_the_survey_count(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter
) -> None:
    phases = {"SV1_DESI_TARGET": one_of_four(BGS, row=0), "SV3_DESI_TARGET": np.full(4, ELG)}
    coadd = write_coadd(fibermap={"DESI_TARGET": None} | phases)
    write_redrock(coadd, DELTACHI2=np.full(4, 20.0))
    assert targets(DESI().read(str(coadd))) == list(TARGETS[1:])


def test_nothing_left_is_an_error_that_says_why(write_coadd: CoaddWriter) -> None:
    coadd = write_coadd(fibermap={"OBJTYPE": np.array(["SKY"] * 4)})
    with pytest.raises(NoSpectraError, match=f"{TARGETS[0]}-sv3-bright-57: sky fibre or no object"):
        DESI().read(str(coadd))


def test_single_exposures_are_refused(write_coadd: CoaddWriter) -> None:
    columns = {"COADD_FIBERSTATUS": None, "FIBERSTATUS": np.zeros(4, dtype="i4")}
    path = write_coadd(name="spectra-sv3-bright-57.fits", fibermap=columns)
    with pytest.raises(
        FileError, match=r"spectra-sv3.* holds single exposures.*desi_coadd_spectra"
    ):
        read_all(path)
    assert DESI().loader.recognises(str(path))


def test_a_lone_redrock_is_refused(write_coadd: CoaddWriter, write_redrock: RedrockWriter) -> None:
    path = write_redrock(write_coadd())
    with pytest.raises(FileError, match="is a redrock file: redshifts without spectra"):
        read_all(path)
    assert DESI().loader.recognises(str(path))


@pytest.mark.parametrize("missing", ["B_FLUX", "R_MASK", "Z_WAVELENGTH", "Z_IVAR"])
def test_missing_hdus_are_named(write_coadd: CoaddWriter, missing: str) -> None:
    path = write_coadd(edit=lambda images: images.pop(missing))
    with pytest.raises(FileError, match=rf"not a DESI coadd: it lacks the HDUs {missing}$"):
        read_all(path)


def test_cameras_off_the_grid_are_refused(write_coadd: CoaddWriter) -> None:
    def shift(images: dict[str, Any]) -> None:
        images["R_WAVELENGTH"] += 0.1

    with pytest.raises(
        FileError, match=r"57\.fits: camera R covers 5760\.100.*not on the DESI grid"
    ):
        read_all(write_coadd(edit=shift))


def test_cameras_beyond_the_grid_are_refused(write_coadd: CoaddWriter) -> None:
    def shift(images: dict[str, Any]) -> None:
        images["Z_WAVELENGTH"] += 0.8

    with pytest.raises(FileError, match="camera Z"):
        read_all(write_coadd(edit=shift))


@pytest.mark.parametrize("part", ["FLUX", "MASK", "WAVELENGTH"])
def test_images_of_another_shape_are_refused(write_coadd: CoaddWriter, part: str) -> None:
    def cut(images: dict[str, Any]) -> None:
        images[f"R_{part}"] = images[f"R_{part}"][..., :-1]

    with pytest.raises(FileError, match=r"coadd-sv3-bright-57\.fits"):
        read_all(write_coadd(edit=cut))


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.3, 0.5, 0.8, 0.99])
def test_truncated_files_are_refused(
    write_coadd: CoaddWriter, tmp_path: Path, fraction: float
) -> None:
    content = write_coadd().read_bytes()
    part = tmp_path / "coadd-part.fits"
    part.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(FileError, match=r"coadd-part\.fits"):
        read_all(part)


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
    write_coadd: CoaddWriter, write_redrock: RedrockWriter, tmp_path: Path
) -> None:
    coadd = write_coadd(archive(tmp_path))
    write_redrock(coadd)
    where = {"root": tmp_path, "release": "edr"}
    whole = DESI().read([("sv3", "bright", 57)], **where)
    assert torch.equal(whole.flux, DESI().read(str(coadd)).flux)
    wanted = [("sv3", "bright", 57, TARGETS[row]) for row in (3, 0)]
    assert targets(DESI().read(wanted, **where)) == [TARGETS[3], TARGETS[0]]
    assert torch.equal(DESI().read(("sv3", "bright", 57), **where).flux, whole.flux)


def test_rows_of_a_batch_are_ids(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter, tmp_path: Path
) -> None:
    coadd = write_coadd(archive(tmp_path))
    write_redrock(coadd)
    batch = DESI().read(str(coadd))[[2, 0]]
    again = DESI().read(batch.ids, root=tmp_path, release="edr")
    assert targets(again) == [TARGETS[2], TARGETS[0]]
    assert torch.equal(again.flux, batch.flux)
    assert again.z.tolist() == batch.z.tolist()


def test_rows_of_tiles_cannot_be_found_again(write_coadd: CoaddWriter) -> None:
    batch = read_all(write_coadd(name="coadd-0-80605.fits", header={"TILEID": 80605}))
    with pytest.raises(InputError, match=f"target {TARGETS[0]} was read from a tile"):
        DESI().read(batch.ids)


def test_targets_that_are_not_in_the_file_are_named(
    write_coadd: CoaddWriter, tmp_path: Path
) -> None:
    write_coadd(archive(tmp_path))
    with pytest.raises(MissingFileError, match="holds no spectrum with TARGETID 12345"):
        DESI().read([("sv3", "bright", 57, 12345)], root=tmp_path, release="edr")
