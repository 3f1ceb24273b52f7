"""The command `spender encode`: its tables, and what it tells of each file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from spender_core import registry

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]
Writer = Callable[..., Path]

LATENTS = [f"s_{k}" for k in range(8)]


def read_table(path: Path) -> Table:
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        return Table(parquet.read_table(path).to_pydict())
    return Table.read(path)


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".parquet"])
def test_encode_writes_a_table(
    spender: Spender, tmp_path: Path, suffix: str, write_spec: Writer
) -> None:
    sdss, boss = write_spec(tmp_path / "a.fits"), write_spec(tmp_path / "b.fits", "v5_13_0")
    output = tmp_path / "new" / f"latents{suffix}"
    ran = spender("encode", sdss, boss, "-o", output)
    assert ran.code == 0
    assert ran.out == f"{output}: 2 spectra\n"
    assert ran.err == "2 spectra encoded, 0 not used\n"
    table = read_table(output)
    assert {*LATENTS, "z", "chi2", "snr", "norm", "flags", "remark"} <= set(table.colnames)
    assert "s_8" not in table.colnames
    assert [str(file) for file in table["file"]] == [str(sdss), str(boss)]
    assert [str(name) for name in table["instrument"]] == ["sdss", "boss"]
    assert [str(name) for name in table["model"]] == ["sdss_demo", "boss_demo"]
    assert [str(name) for name in table["object"]] == ["412-52254-308-26", "412-52254-308-v5_13_0"]
    np.testing.assert_allclose(table["z"], 0.1)
    np.testing.assert_allclose(table["snr"], 10, rtol=0.1)
    np.testing.assert_allclose(table["norm"], 5, rtol=0.1)
    assert np.isfinite(table["chi2"]).all()
    for name in LATENTS:
        assert np.isfinite(table[name]).all()
    assert [path.name for path in output.parent.iterdir()] == [output.name], "nothing is left over"


def test_encode_is_what_the_registry_gives(
    spender: Spender, tmp_path: Path, write_coadd: Writer
) -> None:
    path, output = write_coadd(tmp_path / "coadd-x.fits"), tmp_path / "latents.ecsv"
    assert spender("encode", path, "-o", output).code == 0
    instrument, model = registry.load("desi_demo")
    expected = model.encode(instrument.read(str(path))).detach().numpy()
    table = read_table(output)
    np.testing.assert_allclose(np.stack([table[n] for n in LATENTS], axis=1), expected, rtol=1e-5)


def test_encode_prints_a_table_without_output(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    ran = spender("encode", write_spec(tmp_path / "a.fits"))
    assert ran.code == 0
    (line,) = [line for line in ran.out.splitlines() if "412-52254-308-26" in line]
    assert "0.1000" in line


def test_encode_without_redshift_has_latents_and_no_chi2(
    spender: Spender, tmp_path: Path, write_coadd: Writer
) -> None:
    output = tmp_path / "latents.ecsv"
    ran = spender("encode", write_coadd(tmp_path / "coadd-x.fits"), "-o", output)
    assert "coadd-x.fits: 102-sv3-dark-57: sky fibre or no object" in ran.err
    table = read_table(output)
    assert [str(name) for name in table["object"]] == ["100-sv3-dark-57", "101-sv3-dark-57"]
    assert np.isnan(table["z"]).all()
    assert np.isnan(table["chi2"]).all()
    assert np.isfinite(table["s_0"]).all()
    assert all("redshift unknown" in remark for remark in table["remark"])


def test_encode_remarks_on_redshifts_out_of_range(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    output = tmp_path / "latents.ecsv"
    spender("encode", write_spec(tmp_path / "a.fits", Z=0.55), "-o", output)
    assert "z outside of the model's 0 to 0.5" in str(read_table(output)["remark"][0])


def mixed_folder(folder: Path, write_spec: Writer, write_coadd: Writer) -> dict[str, str]:
    """Fill a folder with good and bad files; return why each of the bad ones is bad."""
    write_spec(folder / "spec-good.fits")
    write_coadd(folder / "coadd-good.fits")
    write_spec(folder / "spec-sky.fits", ZWARNING=1)
    write_spec(folder / "spec-warning.fits", ZWARNING=4)
    whole = (folder / "spec-good.fits").read_bytes()
    (folder / "spec-short.fits").write_bytes(whole[: len(whole) // 2])
    (folder / "spec-empty.fits").touch()
    (folder / "page.fits").write_text("<html>503 Service Unavailable</html>")
    (folder / "notes.txt").write_text("a note")
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(folder / "image.fits")
    return {
        "spec-sky.fits": "sky fibre or no object",
        "spec-warning.fits": "redshift warning set by the survey",
        "spec-short.fits": "cannot read",
        "spec-empty.fits": "cannot read",
        "page.fits": "cannot read",
        "notes.txt": "cannot read",
        "image.fits": "not a file of an installed instrument",
        "absent.fits": "there is no file",
    }


def test_encode_takes_what_is_good_of_a_folder(
    spender: Spender, tmp_path: Path, write_spec: Writer, write_coadd: Writer
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    bad = mixed_folder(folder, write_spec, write_coadd)
    files = [*sorted(folder.iterdir()), folder / "absent.fits"]
    output = tmp_path / "latents.fits"
    ran = spender("encode", *files, "-o", output)
    assert ran.code == 0
    assert {Path(str(file)).name for file in read_table(output)["file"]} == {
        "spec-good.fits",
        "coadd-good.fits",
    }
    lines = ran.err.splitlines()
    assert lines[-1] == f"3 spectra encoded, {len(bad) + 1} not used"
    for name, cause in bad.items():
        (line,) = [line for line in lines if line.startswith(f"not used: {folder / name}: ")]
        assert cause in line
    assert sum(line.startswith("not used: ") for line in lines) == len(bad) + 1  # and a sky fibre


def test_encode_of_bad_files_alone_fails(spender: Spender, tmp_path: Path) -> None:
    (tmp_path / "page.fits").write_text("<html>")
    output = tmp_path / "latents.fits"
    ran = spender("encode", tmp_path / "page.fits", tmp_path / "absent.fits", "-o", output)
    assert ran.code == 1
    lines = ran.err.splitlines()
    assert sum(line.startswith("not used: ") for line in lines) == 2
    assert lines[-1].startswith("spender: error: no usable spectrum in 2 file(s)")
    assert not output.exists()


def test_encode_all_keeps_what_the_survey_flags(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    sky, output = write_spec(tmp_path / "sky.fits", ZWARNING=1), tmp_path / "latents.ecsv"
    assert spender("encode", sky, "-o", output).code == 1
    assert spender("encode", sky, "--all", "-o", output).code == 0
    assert "sky fibre or no object" in str(read_table(output)["remark"][0])


@pytest.mark.parametrize("name", ["latents.csv", "latents", "latents.fit"])
def test_encode_to_an_unknown_format_is_refused(
    spender: Spender, tmp_path: Path, name: str, assert_one_line: Check, write_spec: Writer
) -> None:
    ran = spender("encode", write_spec(tmp_path / "a.fits"), "-o", tmp_path / name)
    assert_one_line(ran, name, ".fits, .ecsv, .parquet")


def test_encode_where_nothing_can_be_written(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    (tmp_path / "file").touch()
    ran = spender("encode", write_spec(tmp_path / "a.fits"), "-o", tmp_path / "file" / "x.fits")
    assert ran.code == 1
    assert "spender: error: cannot write" in ran.err.splitlines()[-1]


def test_encode_with_a_model_of_another_instrument_fails(
    spender: Spender, tmp_path: Path, assert_one_line: Check, write_spec: Writer
) -> None:
    ran = spender("encode", write_spec(tmp_path / "a.fits"), "-m", "desi_demo")
    assert ran.code == 1
    assert "a.fits: model 'desi_demo' serves desi, not sdss" in ran.err
    assert_one_line(spender("encode", tmp_path / "a.fits", "-m", "dezi_demo"), "'desi_demo'")


def test_encode_with_a_file_of_weights(
    spender: Spender, pt_file: Path, tmp_path: Path, write_coadd: Writer
) -> None:
    output = tmp_path / "latents.ecsv"
    coadd = write_coadd(tmp_path / "coadd-x.fits")
    assert spender("encode", coadd, "-m", pt_file, "-o", output).code == 0
    assert [name for name in read_table(output).colnames if name.startswith("s_")] == LATENTS[:3]


def test_the_table_has_the_surveys_own_ids(
    spender: Spender, tmp_path: Path, write_spec: Writer, write_coadd: Writer
) -> None:
    output = tmp_path / "latents.fits"
    files = write_spec(tmp_path / "a.fits"), write_coadd(tmp_path / "coadd-x.fits")
    assert spender("encode", *files, "-o", output).code == 0
    table = read_table(output)
    assert {"PLATE", "MJD", "FIBERID", "RUN2D", "TARGETID", "SURVEY", "zerr"} <= {*table.colnames}
    spec, coadd = table["instrument"] == "sdss", table["instrument"] == "desi"
    assert (table["PLATE"][spec] > 0).all()
    assert (table["PLATE"][coadd] == -1).all()
    assert (table["TARGETID"][spec] == -1).all()
    assert (table["TARGETID"][coadd] != -1).all()


def test_names_that_fits_cannot_hold_are_escaped(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    (tmp_path / "rêve").mkdir()
    output = tmp_path / "latents.fits"
    ran = spender("encode", write_spec(tmp_path / "rêve" / "a.fits"), "-o", output)
    assert ran.code == 0, ran.err
    assert "r\\xeave" in read_table(output)["file"][0]


def test_a_missing_file_of_weights_is_called_missing(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    ran = spender("encode", write_spec(tmp_path / "a.fits"), "-m", tmp_path / "absent.pt")
    assert ran.code == 1
    assert "there is no file" in ran.err
    assert "absent.pt" in ran.err
    assert "has no card" not in ran.err


def test_refined_latents_fit_better(spender: Spender, tmp_path: Path, write_spec: Writer) -> None:
    spec, unknown = write_spec(tmp_path / "a.fits"), write_spec(tmp_path / "b.fits", Z=np.nan)
    tables = []
    for steps in ("0", "6"):
        output = tmp_path / f"{steps}.fits"
        assert spender("encode", spec, unknown, "--all", "--refine", steps, "-o", output).code == 0
        tables.append(Table.read(output))
    plain, refined = tables
    assert "refined" not in plain.colnames
    assert "REFINE" not in plain.meta
    assert refined["refined"].tolist() == [True, False]
    assert refined.meta["REFINE"] == 6
    assert refined["chi2"][0] < plain["chi2"][0]
    assert any(refined[name][0] != plain[name][0] for name in LATENTS)
    for name in LATENTS:  # without a redshift there is nothing to refine by
        assert refined[name][1] == plain[name][1]
