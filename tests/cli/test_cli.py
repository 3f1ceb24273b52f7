"""The command line, as a person runs it: output, errors, tables and pictures."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

from spender_core import registry
from spender_core.cli import main
from spender_core.grid import Log
from spender_core.nn.autoencoder import SpectrumAutoencoder

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

LATENTS = [f"s_{k}" for k in range(6)]


@dataclass(frozen=True)
class Ran:
    """How a command went."""

    code: int
    out: str
    err: str


Spender = Callable[..., Ran]


@pytest.fixture
def spender(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Spender:
    """Return a function that runs the command `spender` within this process."""

    def run(*arguments: Any) -> Ran:
        monkeypatch.setattr(sys, "argv", ["spender", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return run


def assert_one_line(ran: Ran, *parts: str) -> None:
    """Check that a command failed with one readable line, which holds the parts."""
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert line.startswith("spender: error: ")
    for part in parts:
        assert part in line


# Files of spectra -----------------------------------------------------------------------


def table_hdu(columns: Mapping[str, Any], name: str = "") -> fits.BinTableHDU:
    hdu = fits.BinTableHDU(Table({key: np.asarray(values) for key, values in columns.items()}))
    hdu.name = name
    return hdu


def write_spec(path: Path, run2d: str = "26", **row: Any) -> Path:
    """Write a spec file: a straight spectrum with noise, at z = 0.1."""
    pixels = 3800
    loglam = 3.581 + 1e-4 * np.arange(pixels)
    flux = 5 + 0.5 * np.random.default_rng(0).standard_normal(pixels)
    columns = {"flux": flux, "loglam": loglam, "ivar": np.full(pixels, 4.0)}
    columns["and_mask"] = np.zeros(pixels, dtype="i4")
    catalogue = {"PLATE": 412, "MJD": 52254, "FIBERID": 308, "RUN2D": run2d, "Z": 0.1}
    catalogue |= {"Z_ERR": 1e-5, "ZWARNING": 0} | row
    hdus = [
        fits.PrimaryHDU(),
        table_hdu(columns),
        table_hdu({k: [v] for k, v in catalogue.items()}),
    ]
    fits.HDUList(hdus).writeto(path)
    return path


def write_coadd(path: Path, kinds: tuple[str, ...] = ("TGT", "TGT", "SKY")) -> Path:
    """Write a DESI coadd of straight spectra, without a redrock file beside it."""
    n, rng = len(kinds), np.random.default_rng(0)
    fibermap = {"TARGETID": 100 + np.arange(n), "OBJTYPE": kinds}
    fibermap |= {"COADD_FIBERSTATUS": np.zeros(n, dtype="i4")}
    hdus: list[Any] = [fits.PrimaryHDU(), table_hdu(fibermap, "FIBERMAP")]
    hdus[0].header.update({"SURVEY": "sv3", "PROGRAM": "dark", "HPXPIXEL": 57})
    for camera, (first, pixels) in {
        "B": (3600, 2751),
        "R": (5760, 2326),
        "Z": (7520, 2881),
    }.items():
        images = {
            "WAVELENGTH": first + 0.8 * np.arange(pixels),
            "FLUX": (5 + 0.5 * rng.standard_normal((n, pixels))).astype("f4"),
            "IVAR": np.full((n, pixels), 4, dtype="f4"),
            "MASK": np.zeros((n, pixels), dtype="i4"),
        }
        hdus += [fits.ImageHDU(data, name=f"{camera}_{part}") for part, data in images.items()]
    fits.HDUList(hdus).writeto(path)
    return path


# What is installed ----------------------------------------------------------------------


def test_list_shows_all_models(spender: Spender) -> None:
    ran = spender("list")
    assert (ran.code, ran.err) == (0, "")
    rows = {
        line.split("│")[1].split(",")[0].strip(): line
        for line in ran.out.splitlines()
        if "│" in line
    }
    assert set(registry.list()) <= set(rows)
    assert "flow" in rows["desi_edr_galaxy_flow"]
    assert "download" in rows["sdss_I"]
    for name in ("sdss_demo", "boss_demo", "desi_demo"):
        assert "embedded" in rows[name]


def test_info_shows_a_card(spender: Spender) -> None:
    ran = spender("info", "sdss_II")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert "name: sdss_II" in lines
    assert "latents: 6" in lines
    assert "architecture: spectrum_autoencoder" in lines
    assert any(line.startswith("weights: hf:pmelchior/spender/") for line in lines)


def test_info_of_a_name_that_is_nearly_right(spender: Spender) -> None:
    assert_one_line(spender("info", "sdss_demoo"), "no model named 'sdss_demoo'", "'sdss_demo'")


def test_plugins_shows_how_each_one_fares(spender: Spender) -> None:
    ran = spender("plugins")
    assert (ran.code, ran.err) == (0, "")
    for distribution in ("spender-core", "spender-sdss", "spender-desi"):
        (line,) = [line for line in ran.out.splitlines() if distribution in line]
        assert "ok" in line
    assert "failed" not in ran.out


def test_pull_prints_where_the_weights_are(spender: Spender) -> None:
    ran = spender("pull", "sdss_demo", "desi_demo")
    assert ran.code == 0
    paths = [Path(line) for line in ran.out.splitlines()]
    assert [path.name for path in paths] == ["sdss_demo.safetensors", "desi_demo.safetensors"]
    assert all(path.exists() for path in paths)


# Errors, in a process of their own ------------------------------------------------------


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spender_core.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_module_runs() -> None:
    done = in_a_process("list")
    assert done.returncode == 0
    assert "desi_edr_galaxy" in done.stdout
    assert done.stderr == ""


def test_errors_are_one_line_and_debug_shows_the_traceback() -> None:
    plain, debug = in_a_process("info", "nothing"), in_a_process("--debug", "info", "nothing")
    assert plain.returncode == debug.returncode == 1
    assert plain.stdout == ""
    (line,) = plain.stderr.splitlines()
    assert line.startswith("spender: error: no model named 'nothing'.")
    assert "Traceback" in debug.stderr
    assert "UnknownNameError" in debug.stderr


def test_unexpected_errors_are_one_line_too(
    spender: Spender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(registry, "list", fail)
    assert_one_line(spender("list"), "ZeroDivisionError: a bug (--debug shows where)")


@pytest.mark.parametrize(
    "arguments", [("encode",), ("nonsense",), ("plot", "a.fits"), ("demo", "-n", "0")]
)
def test_wrong_usage_is_told(spender: Spender, arguments: tuple[str, ...]) -> None:
    ran = spender(*arguments)
    assert ran.code == 2
    assert ran.err.startswith("Usage: ")
    assert "Traceback" not in ran.err


# Convert --------------------------------------------------------------------------------


@pytest.fixture
def small() -> SpectrumAutoencoder:
    """A small autoencoder for DESI."""
    torch.manual_seed(0)
    widths: dict[str, Any] = {"filters": (4, 4, 4), "sizes": (5, 11, 21), "encoder_hidden": (6,)}
    desi = registry.instrument("desi")
    return SpectrumAutoencoder([desi], Log(3.4, 2e-3, 290), 3, decoder_hidden=(8,), **widths).eval()


@pytest.fixture
def pt_file(small: SpectrumAutoencoder, tmp_path: Path) -> Path:
    """The same autoencoder as spender writes it, with placeholders after its layers."""
    state = {"decoder.wave_rest": small.wave_rest.float()}
    state["encoder.instrument.wave_obs"] = torch.tensor(small.instrument.wave).float()
    for name, tensor in small.state_dict().items():
        parts = name.removeprefix("encoders.desi.").removeprefix("decoder.").split(".")
        if parts[0] == "mlp":
            block, part = divmod(int(parts[1]), 2)
            parts[1] = str(3 * block + part)
        home = "decoder" if name.startswith("decoder") else "encoder"
        state[".".join([home, *parts])] = tensor
    path = tmp_path / "spender.small.pt"
    torch.save({"model": [state], "losses": [1.0, 0.5]}, path)
    return path


def test_convert_makes_the_same_model(
    spender: Spender, small: SpectrumAutoencoder, pt_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "mine.safetensors"
    ran = spender("convert", pt_file, "-o", output, "--name", "mine")
    assert (ran.code, ran.err) == (0, "")
    assert f"{output}: autoencoder 'mine', 3 latents, sha256 " in ran.out
    instrument, model = registry.load(output)
    assert instrument.name == "desi"
    flux = torch.rand(2, instrument.grid.size)
    assert torch.equal(model.encode(flux), small.encode(flux))
    assert torch.equal(model.decode(small.encode(flux)), small.decode(small.encode(flux)))
    shown = spender("info", output)
    assert "name: mine" in shown.out.splitlines()
    assert "latents: 3" in shown.out.splitlines()


@pytest.mark.parametrize("name", ["mine.pt", "mine", "mine.safetensor"])
def test_convert_writes_safetensors_only(
    spender: Spender, pt_file: Path, tmp_path: Path, name: str
) -> None:
    ran = spender("convert", pt_file, "-o", tmp_path / "new" / name)
    assert_one_line(ran, "must end in .safetensors")
    assert not (tmp_path / "new").exists()


def test_convert_refuses_what_does_not_fit(spender: Spender, pt_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.safetensors"
    assert_one_line(spender("convert", tmp_path / "absent.pt", "-o", output), "absent.pt")
    text = tmp_path / "text.pt"
    text.write_text("<html>")
    assert_one_line(spender("convert", text, "-o", output, "--instrument", "desi"), "text.pt")
    ran = spender("convert", pt_file, "-o", output, "--instrument", "sdss")
    assert_one_line(ran, "are not those of 'sdss'")
    ran = spender("convert", pt_file, "-o", output, "--name", "not a name")
    assert ran.code == 1
    assert "not a name" in ran.err
    assert "Traceback" not in ran.err
    assert not output.exists()


# Encode ---------------------------------------------------------------------------------


def read_table(path: Path) -> Table:
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        return Table(parquet.read_table(path).to_pydict())
    return Table.read(path)


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".parquet"])
def test_encode_writes_a_table(spender: Spender, tmp_path: Path, suffix: str) -> None:
    sdss, boss = write_spec(tmp_path / "a.fits"), write_spec(tmp_path / "b.fits", "v5_13_0")
    output = tmp_path / "new" / f"latents{suffix}"
    ran = spender("encode", sdss, boss, "-o", output)
    assert ran.code == 0
    assert ran.out == f"{output}: 2 spectra\n"
    assert ran.err == "2 spectra encoded, 0 not used\n"
    table = read_table(output)
    assert {*LATENTS, "z", "chi2", "snr", "norm", "flags", "remark"} <= set(table.colnames)
    assert "s_6" not in table.colnames
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


def test_encode_is_what_the_registry_gives(spender: Spender, tmp_path: Path) -> None:
    path, output = write_coadd(tmp_path / "coadd-x.fits"), tmp_path / "latents.ecsv"
    assert spender("encode", path, "-o", output).code == 0
    instrument, model = registry.load("desi_demo")
    expected = model.encode(instrument.read(str(path))).detach().numpy()
    table = read_table(output)
    np.testing.assert_allclose(np.stack([table[n] for n in LATENTS], axis=1), expected, rtol=1e-5)


def test_encode_prints_a_table_without_output(spender: Spender, tmp_path: Path) -> None:
    ran = spender("encode", write_spec(tmp_path / "a.fits"))
    assert ran.code == 0
    (line,) = [line for line in ran.out.splitlines() if "412-52254-308-26" in line]
    assert "0.1000" in line


def test_encode_without_redshift_has_latents_and_no_chi2(spender: Spender, tmp_path: Path) -> None:
    output = tmp_path / "latents.ecsv"
    ran = spender("encode", write_coadd(tmp_path / "coadd-x.fits"), "-o", output)
    assert "coadd-x.fits: 102-sv3-dark-57: sky fibre or no object" in ran.err
    table = read_table(output)
    assert [str(name) for name in table["object"]] == ["100-sv3-dark-57", "101-sv3-dark-57"]
    assert np.isnan(table["z"]).all()
    assert np.isnan(table["chi2"]).all()
    assert np.isfinite(table["s_0"]).all()
    assert all("redshift unknown" in remark for remark in table["remark"])


def test_encode_remarks_on_redshifts_out_of_range(spender: Spender, tmp_path: Path) -> None:
    output = tmp_path / "latents.ecsv"
    spender("encode", write_spec(tmp_path / "a.fits", Z=0.55), "-o", output)
    assert "z outside of the model's 0 to 0.5" in str(read_table(output)["remark"][0])


def mixed_folder(folder: Path) -> dict[str, str]:
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


def test_encode_takes_what_is_good_of_a_folder(spender: Spender, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    bad = mixed_folder(folder)
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


def test_encode_all_keeps_what_the_survey_flags(spender: Spender, tmp_path: Path) -> None:
    sky, output = write_spec(tmp_path / "sky.fits", ZWARNING=1), tmp_path / "latents.ecsv"
    assert spender("encode", sky, "-o", output).code == 1
    assert spender("encode", sky, "--all", "-o", output).code == 0
    assert "sky fibre or no object" in str(read_table(output)["remark"][0])


@pytest.mark.parametrize("name", ["latents.csv", "latents", "latents.fit"])
def test_encode_to_an_unknown_format_is_refused(
    spender: Spender, tmp_path: Path, name: str
) -> None:
    ran = spender("encode", write_spec(tmp_path / "a.fits"), "-o", tmp_path / name)
    assert_one_line(ran, name, ".fits, .ecsv, .parquet")


def test_encode_where_nothing_can_be_written(spender: Spender, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = spender("encode", write_spec(tmp_path / "a.fits"), "-o", tmp_path / "file" / "x.fits")
    assert ran.code == 1
    assert "spender: error: cannot write" in ran.err.splitlines()[-1]


def test_encode_with_a_model_of_another_instrument_fails(spender: Spender, tmp_path: Path) -> None:
    ran = spender("encode", write_spec(tmp_path / "a.fits"), "-m", "desi_demo")
    assert_one_line(ran, "model 'desi_demo' serves desi, not sdss")
    assert_one_line(spender("encode", tmp_path / "a.fits", "-m", "dezi_demo"), "'desi_demo'")


def test_encode_with_a_file_of_weights(spender: Spender, pt_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "latents.ecsv"
    coadd = write_coadd(tmp_path / "coadd-x.fits")
    assert spender("encode", coadd, "-m", pt_file, "-o", output).code == 0
    assert [name for name in read_table(output).colnames if name.startswith("s_")] == LATENTS[:3]


# Plot and demo --------------------------------------------------------------------------

STARTS = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}


@pytest.mark.parametrize("suffix", STARTS)
def test_plot_draws_a_picture(spender: Spender, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / "new" / f"picture{suffix}"
    ran = spender("plot", write_spec(tmp_path / "a.fits"), "-o", output)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{output}: 1 spectra\n"
    content = output.read_bytes()
    assert content.startswith(STARTS[suffix])
    assert len(content) > 10_000
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_plot_takes_a_redshift(
    spender: Spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spender_core.cli import draw

    drawn: list[Any] = []
    monkeypatch.setattr(draw, "save", lambda panels, output: drawn.append(panels))
    coadd = write_coadd(tmp_path / "coadd-x.fits")
    assert spender("plot", coadd, "-o", tmp_path / "a.png").code == 0
    assert spender("plot", coadd, "-o", tmp_path / "a.png", "--z", "0.2").code == 0
    unknown, known = drawn
    assert all(math.isnan(panel.z) and panel.model is None for panel in unknown)
    assert all(panel.z == 0.2 and panel.model is not None for panel in known)
    assert "χ²/ν" in known[0].title
    assert "100-sv3-dark-57   desi, desi_demo   S/N" in known[0].title
    assert unknown[0].title.startswith("100-sv3-dark-57   desi, desi_demo   S/N")
    impossible = spender("plot", coadd, "-o", tmp_path / "a.png", "--z", "-3")
    assert impossible.code == 1
    assert "spender: error: z must be > -1" in impossible.err.splitlines()[-1]


def test_plot_normalises_anew_with_the_redshift_given(
    spender: Spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a redshift the RMS is the norm, on which no model was trained."""
    from spender_core.cli import draw

    encoded: list[Any] = []

    def spy(model: Any, batch: Any, **options: Any) -> Any:
        encoded.append(batch)
        return encode(model, batch, **options)

    encode = draw.encode
    monkeypatch.setattr(draw, "encode", spy)
    coadd = write_coadd(tmp_path / "coadd-x.fits")
    assert spender("plot", coadd, "-o", tmp_path / "a.png", "--z", "0.1").code == 0
    (batch,) = encoded
    assert batch.flags.tolist() == [0, 0]
    desi = registry.instrument("desi")
    rest = desi.wave / 1.1
    for row in range(2):
        inside = batch.good[row].numpy() & (rest > 5300) & (rest < 5850)
        assert batch.flux[row, inside].median().item() == pytest.approx(1.0)


def test_plot_draws_at_most_what_is_asked_for(spender: Spender, tmp_path: Path) -> None:
    output = tmp_path / "a.png"
    ran = spender("plot", write_coadd(tmp_path / "coadd-x.fits"), "-o", output, "--most", "1")
    assert ran.out == f"{output}: 1 spectra, 1 more in the file\n"
    assert "not used: 102-sv3-dark-57: sky fibre or no object" in ran.err


def test_plot_of_nothing_usable_says_why(spender: Spender, tmp_path: Path) -> None:
    sky, output = write_spec(tmp_path / "sky.fits", ZWARNING=1), tmp_path / "a.png"
    ran = spender("plot", sky, "-o", output)
    assert ran.code == 1
    assert "412-52254-308-26: sky fibre or no object" in ran.err.splitlines()[-1]
    assert not output.exists()
    assert spender("plot", sky, "-o", output, "--all").code == 0
    assert output.exists()


def test_plot_refuses_other_formats_and_files(spender: Spender, tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "a.fits")
    assert_one_line(spender("plot", spec, "-o", tmp_path / "a.gif"), ".png, .pdf, .svg")
    (tmp_path / "notes.txt").write_text("a note")
    assert_one_line(spender("plot", tmp_path / "notes.txt", "-o", tmp_path / "a.png"), "notes.txt")


def test_demo_needs_no_data(spender: Spender, tmp_path: Path) -> None:
    output = tmp_path / "demo.png"
    ran = spender("demo", "-o", output, "-n", "2", "--seed", "3")
    assert (ran.code, ran.err) == (0, "")
    assert output.read_bytes().startswith(STARTS[".png"])
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("│") for line in ran.out.splitlines() if "mock-" in line)
        if len(cells) > 5
    }
    assert set(rows) == {f"mock-{name}-{k}" for name in ("sdss", "boss", "desi") for k in (1, 2)}
    assert all(len(latents.split()) == 6 for *_, latents in rows.values())
    assert 0.8 < np.median([float(chi2) for _, _, chi2, _ in rows.values()]) < 3
    again = spender("demo", "-o", output, "-n", "2", "--seed", "3")
    assert again.out == ran.out
    other = spender("demo", "-o", output, "-n", "2", "--seed", "4")
    assert other.out != ran.out


def test_demo_refuses_other_formats(spender: Spender, tmp_path: Path) -> None:
    assert_one_line(spender("demo", "-o", tmp_path / "demo.gif"), ".png, .pdf, .svg")
