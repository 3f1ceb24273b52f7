"""The commands `spender plot` and `spender demo`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from PIL import Image

from spender_core import plot, registry
from spender_core.plot import Panel

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]
Writer = Callable[..., Path]

STARTS = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}


@pytest.mark.parametrize("suffix", STARTS)
def test_plot_draws_a_picture(
    spender: Spender, tmp_path: Path, suffix: str, write_spec: Writer
) -> None:
    output = tmp_path / "new" / f"picture{suffix}"
    ran = spender("plot", write_spec(tmp_path / "a.fits"), "-o", output)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{output}: 1 spectra\n"
    content = output.read_bytes()
    assert content.startswith(STARTS[suffix])
    assert len(content) > 10_000
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Panel], dict[str, Any]]]:
    """What the commands draw: the panels, and how; the pictures are written all the same."""
    calls: list[tuple[list[Panel], dict[str, Any]]] = []
    pages = plot.pages

    def spy(panels: list[Panel], per_page: int, look: Any, rest: bool, zoom: Any) -> Any:
        calls.append((panels, {"look": look, "rest": rest, "zoom": zoom}))
        return pages(panels, per_page, look, rest, zoom)

    monkeypatch.setattr(plot, "pages", spy)
    return calls


def test_plot_takes_a_redshift(
    spender: Spender, tmp_path: Path, drawn: Any, write_coadd: Writer
) -> None:
    coadd = write_coadd(tmp_path / "coadd-x.fits")
    assert spender("plot", coadd, "-o", tmp_path / "a.png").code == 0
    assert spender("plot", coadd, "-o", tmp_path / "a.png", "--z", "0.2").code == 0
    (unknown, _), (known, _) = drawn
    assert all(math.isnan(panel.z) and panel.model is None for panel in unknown)
    assert all(panel.z == 0.2 and panel.model is not None for panel in known)
    assert known[0].title == "100-sv3-dark-57"
    assert known[0].notes.startswith("desi, desi_demo   S/N")
    assert "χ²/ν" in known[0].notes
    assert unknown[0].notes.startswith("desi, desi_demo   S/N")
    assert "χ²/ν" not in unknown[0].notes
    impossible = spender("plot", coadd, "-o", tmp_path / "a.png", "--z", "-3")
    assert impossible.code == 1
    assert "spender: error: z must be > -1" in impossible.err.splitlines()[-1]


def test_plot_normalises_anew_with_the_redshift_given(
    spender: Spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_coadd: Writer
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


def test_plot_draws_at_most_what_is_asked_for(
    spender: Spender, tmp_path: Path, write_coadd: Writer
) -> None:
    output = tmp_path / "a.png"
    ran = spender("plot", write_coadd(tmp_path / "coadd-x.fits"), "-o", output, "--most", "1")
    assert ran.out == f"{output}: 1 spectra, 1 more in the file\n"
    assert "not used: 102-sv3-dark-57: sky fibre or no object" in ran.err


def test_plot_of_nothing_usable_says_why(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    sky, output = write_spec(tmp_path / "sky.fits", ZWARNING=1), tmp_path / "a.png"
    ran = spender("plot", sky, "-o", output)
    assert ran.code == 1
    assert "412-52254-308-26: sky fibre or no object" in ran.err.splitlines()[-1]
    assert not output.exists()
    assert spender("plot", sky, "-o", output, "--all").code == 0
    assert output.exists()


def test_plot_refuses_other_formats_and_files(
    spender: Spender, tmp_path: Path, assert_one_line: Check, write_spec: Writer
) -> None:
    spec = write_spec(tmp_path / "a.fits")
    assert_one_line(spender("plot", spec, "-o", tmp_path / "a.gif"), ".png, .pdf, .svg")
    (tmp_path / "notes.txt").write_text("a note")
    assert_one_line(spender("plot", tmp_path / "notes.txt", "-o", tmp_path / "a.png"), "notes.txt")


def test_plot_says_how_it_is_asked(
    spender: Spender, tmp_path: Path, drawn: Any, write_spec: Writer
) -> None:
    spec, output = write_spec(tmp_path / "a.fits"), tmp_path / "a.png"
    options = ("--rest", "--zoom", "ha, 4861:80", "--smooth", "150km/s", "--style", "talk")
    ran = spender("plot", spec, "-o", output, *options, "--dpi", "50")
    assert (ran.code, ran.err) == (0, "")
    (((panel,), how),) = drawn
    assert how["rest"]
    assert [zoom.name for zoom in how["zoom"]] == ["Hα", "4861 Å"]
    assert (how["look"].name, how["look"].dpi) == ("talk", 50)
    assert panel.smoothing == "Gaussian of σ = 150 km/s, ivar-weighted"
    assert panel.restframe is not None
    with Image.open(output) as image:
        assert image.width == pytest.approx(50 * 13.33, abs=1)


def test_plot_of_several_files_has_pages(
    spender: Spender, tmp_path: Path, write_spec: Writer, write_coadd: Writer
) -> None:
    one, two = write_spec(tmp_path / "a.fits"), write_coadd(tmp_path / "coadd-x.fits")
    output = tmp_path / "all.pdf"
    ran = spender("plot", one, two, "-o", output, "--per-page", "1")
    assert ran.code == 0, ran.err
    assert ran.out == f"{output}: 3 spectra, 3 pages\n"
    assert len(re.findall(rb"/Type /Page\b", output.read_bytes())) == 3
    ran = spender("plot", one, two, "-o", tmp_path / "p.png", "--per-page", "2", "--dpi", "50")
    assert ran.out == f"{tmp_path}/p-1.png to p-2.png: 3 spectra, 2 pages\n"
    assert sorted(path.name for path in tmp_path.glob("p*")) == ["p-1.png", "p-2.png"]


def test_a_bad_file_among_several_is_told(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    good, output = write_spec(tmp_path / "a.fits"), tmp_path / "a.pdf"
    ran = spender("plot", tmp_path / "absent.fits", good, "-o", output)
    assert ran.code == 0
    assert ran.out == f"{output}: 1 spectra\n"
    assert f"not used: {tmp_path}/absent.fits: " in ran.err
    ran = spender("plot", tmp_path / "absent.fits", tmp_path / "gone.fits", "-o", output)
    assert ran.code == 1
    assert "there is no file" in ran.err.splitlines()[-1]


def test_numbered_pictures_overwrite_no_input(
    spender: Spender, tmp_path: Path, write_spec: Writer, write_coadd: Writer
) -> None:
    spec = write_spec(tmp_path / "a.fits").rename(tmp_path / "p-1.png")
    before = spec.read_bytes()
    coadd = write_coadd(tmp_path / "coadd-x.fits")
    ran = spender("plot", spec, coadd, "-o", tmp_path / "p.png", "--per-page", "1")
    assert ran.code == 1
    assert "p-1.png is an input too" in ran.err.splitlines()[-1]
    assert spec.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--zoom", "Hx"), "no line of this name"),
        (("--smooth", "some"), "cannot smooth by 'some'"),
        (("--style", "poster"), "no style named 'poster'"),
        (("--colour", "z"), "--colour goes with --corner"),
        (("--corner", "--rest", "--refine", "2"), "--rest, --refine goes with pictures of spectra"),
        (("--corner", "--most", "6"), "--most goes with pictures of spectra, not with --corner"),
    ],
)
def test_mistakes_are_told_before_files_are_read(
    spender: Spender,
    tmp_path: Path,
    assert_one_line: Check,
    options: tuple[str, ...],
    message: str,
) -> None:
    ran = spender("plot", tmp_path / "absent.fits", "-o", tmp_path / "a.png", *options)
    assert_one_line(ran, message)


def latents(path: Path, n: int = 80, **changes: Any) -> Path:
    """Write a table as `spender encode` does."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {"object": [f"a{k}" for k in range(n)], "model": ["sdss_demo"] * n}
    columns |= {"z": rng.uniform(0, 0.5, n)}
    columns |= {f"s_{k}": rng.standard_normal(n).astype("f4") for k in range(3)}
    columns |= changes
    if path.suffix == ".parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        arrays = {name: np.asarray(values).tolist() for name, values in columns.items()}
        parquet.write_table(pa.table(arrays), path)
    else:
        Table(columns).write(path)
    return path


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".parquet"])
def test_latents_of_tables_make_a_corner(spender: Spender, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / "corner.pdf"
    table = latents(tmp_path / f"latents{suffix}")
    ran = spender("plot", table, table, "--corner", "-o", output, "--colour", "z")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{output}: 3 latents of 160 objects\n"
    assert output.read_bytes().startswith(b"%PDF")


def test_what_encode_writes_makes_a_corner(
    spender: Spender, tmp_path: Path, write_coadd: Writer
) -> None:
    table = tmp_path / "latents.fits"
    files = [write_coadd(tmp_path / f"coadd-{k}.fits") for k in "ab"]
    assert spender("encode", *files, "-o", table).code == 0
    ran = spender("plot", table, "--corner", "-o", tmp_path / "corner.png")
    assert (ran.code, ran.err) == (0, "")
    number = registry.info("desi_demo").latents
    assert f"{number} latents of 4 objects" in ran.out


def test_latents_of_several_models_are_not_mixed(
    spender: Spender, tmp_path: Path, assert_one_line: Check
) -> None:
    models = ["sdss_demo"] * 30 + ["desi_demo"] * 50
    last = np.where(np.arange(80) < 30, np.nan, 1.0 * np.arange(80))
    first = np.where(np.arange(80) < 78, 1.0 * np.arange(80), np.nan)
    table = latents(tmp_path / "latents.fits", model=models, s_2=last, s_0=first)
    output = tmp_path / "c.png"
    assert_one_line(
        spender("plot", table, "--corner", "-o", output), "desi_demo, sdss_demo", "--model"
    )
    ran = spender("plot", table, "--corner", "-o", output, "-m", "sdss_demo")
    assert (ran.out, ran.err) == (f"{output}: 2 latents of 30 objects\n", "")
    ran = spender("plot", table, "--corner", "-o", output, "-m", "desi_demo")
    assert ran.out == f"{output}: 3 latents of 48 objects\n"
    assert ran.err == "not used: 2 rows without finite latents\n"
    assert_one_line(
        spender("plot", table, "--corner", "-o", output, "-m", "other"), "no row is of model"
    )


def test_other_tables_make_no_corner(
    spender: Spender, tmp_path: Path, assert_one_line: Check, write_spec: Writer
) -> None:
    output = tmp_path / "c.png"

    def corner(*arguments: Any) -> Any:
        return spender("plot", *arguments, "--corner", "-o", output)

    assert_one_line(corner(tmp_path / "a.txt"), ".fits, .ecsv, .parquet", "spender encode")
    assert_one_line(corner(tmp_path / "absent.ecsv"), "absent.ecsv")
    assert_one_line(corner(write_spec(tmp_path / "spec.fits")), "has no latents, columns s_0")
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    assert_one_line(corner(tmp_path / "bad.parquet"), "cannot read", "bad.parquet")
    table = latents(tmp_path / "latents.fits")
    assert_one_line(corner(table, "--colour", "object"), "no column 'object' of numbers", "z, s_0")
    nothing = latents(tmp_path / "nan.fits", **{f"s_{k}": np.full(80, np.nan) for k in range(3)})
    assert_one_line(corner(nothing), "no row of the tables has finite latents")
    assert not output.exists()


def test_a_corner_overwrites_no_input(
    spender: Spender, tmp_path: Path, assert_one_line: Check
) -> None:
    table = latents(tmp_path / "latents.fits").rename(tmp_path / "a.pdf")
    assert_one_line(spender("plot", table, "--corner", "-o", table), "is an input too")


def test_demo_needs_no_data(spender: Spender, tmp_path: Path) -> None:
    output, other = tmp_path / "demo.png", tmp_path / "demo-latents.png"
    ran = spender("demo", "-o", output, "-n", "2", "--seed", "3")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[-2].startswith(f"{output}: one spectrum of each instrument")
    assert ran.out.splitlines()[-1].startswith(f"{other}: what each latent")
    for path in (output, other):
        with Image.open(path) as image:
            assert min(image.size) > 1000
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("│") for line in ran.out.splitlines() if "mock-" in line)
        if len(cells) > 5
    }
    assert set(rows) == {f"mock-{name}-{k}" for name in ("sdss", "boss", "desi") for k in (1, 2)}
    for name, (z, snr, chi2, latents) in rows.items():
        card = registry.info(f"{name.split('-')[1]}_demo")
        assert card.z_range is not None
        assert card.z_range[0] < float(z) < card.z_range[1]
        assert 4 < float(snr) < 40
        assert 0.8 < float(chi2) < 2.5  # refined, at S/N up to 30
        assert len(latents.split()) == card.latents
    before = output.read_bytes()
    again = spender("demo", "-o", output, "-n", "2", "--seed", "3")
    assert again.out == ran.out
    assert output.read_bytes() == before
    assert spender("demo", "-o", output, "-n", "2", "--seed", "4").out != ran.out


def test_demo_refuses_other_formats(
    spender: Spender, tmp_path: Path, assert_one_line: Check
) -> None:
    assert_one_line(spender("demo", "-o", tmp_path / "demo.gif"), ".png, .pdf, .svg")
