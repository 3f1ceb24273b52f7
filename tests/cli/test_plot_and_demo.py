"""The commands `spender plot` and `spender demo`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spender_core import registry

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


def test_plot_takes_a_redshift(
    spender: Spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_coadd: Writer
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


def test_demo_refuses_other_formats(
    spender: Spender, tmp_path: Path, assert_one_line: Check
) -> None:
    assert_one_line(spender("demo", "-o", tmp_path / "demo.gif"), ".png, .pdf, .svg")
