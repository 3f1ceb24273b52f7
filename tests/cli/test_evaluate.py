"""The command `spender evaluate`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spender_core import registry

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]
Writer = Callable[..., Path]


def test_mocks_and_real_spectra_are_judged(
    spender: Spender, tmp_path: Path, write_spec: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spender_core.cli import evaluate

    monkeypatch.setattr(evaluate, "_LEARNED", 100)
    monkeypatch.setattr(evaluate, "_OBJECTS", 32)
    spec, folder = write_spec(tmp_path / "a.fits"), tmp_path / "report"
    ran = spender("evaluate", "sdss_demo", spec, "--mocks", "70", "--pca", "4", "-o", folder)
    assert (ran.code, ran.err) == (0, "")
    assert f"{folder}: report.md, report.json and 12 pictures" in ran.out
    assert "412-52254-308-26" in ran.out
    assert "dz = 0.03" in ran.out
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert content["model"] == "sdss_demo"
    summary = content["summary"]
    assert summary["mocks"] == 70
    latents = summary["latents"]
    assert list(summary["reduced chi square"]) == ["model", "PCA 4", f"PCA {latents + 1}", "truth"]
    assert summary["reduced chi square"]["truth"]["p50"] == pytest.approx(1.1, abs=0.15)
    assert summary["real spectra"]["n"] == 1
    other = tmp_path / "other"
    spender("evaluate", "sdss_demo", spec, "--mocks", "70", "--pca", "4", "-o", other)
    for path in folder.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_real_spectra_alone_need_no_mocks(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    spec, sky = write_spec(tmp_path / "a.fits"), write_spec(tmp_path / "b.fits", ZWARNING=4)
    far = write_spec(tmp_path / "c.fits", Z=0.9)
    options = ("--mocks", "0", "--pca", "0", "-o", tmp_path / "new" / "report")
    ran = spender("evaluate", "sdss_demo", spec, sky, far, *options)
    assert ran.code == 0
    assert re.findall("not used: .*/(..fits): .*: (.*)", ran.err) == [
        ("b.fits", "redshift warning set by the survey"),
        ("c.fits", "its z is none of the model's"),
    ]
    assert "on mocks" not in ran.out
    names = {path.name for path in (tmp_path / "new" / "report").iterdir()}
    assert names == {"report.json", "report.md", "real.png", "real.svg"}


def test_the_report_tells_what_the_pca_learned_from(
    spender: Spender, tmp_path: Path, write_spec: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spender_core.cli import evaluate

    monkeypatch.setattr(evaluate, "_LEARNED", 60)
    spec, folder = write_spec(tmp_path / "a.fits"), tmp_path / "report"
    ran = spender("evaluate", "sdss_demo", spec, "--mocks", "0", "--pca", "2", "-o", folder)
    assert (ran.code, ran.err) == (0, "")
    text = (folder / "report.json").read_text(encoding="utf-8")
    assert "learned from 60 mock galaxies" in text
    assert '"templates": "parametric"' in text


def test_errors_come_before_the_work(
    spender: Spender, tmp_path: Path, assert_one_line: Check, write_spec: Writer
) -> None:
    assert_one_line(spender("evaluate", "sdss_demo", "--mocks", "0"), "nothing to judge by")
    assert_one_line(spender("evaluate", "sdss_dem", "-o", tmp_path / "r"), "sdss_demo")
    (tmp_path / "file").write_text("in the way")
    ran = spender("evaluate", "sdss_demo", "-o", tmp_path / "file")
    assert_one_line(ran, "is a file; give the name of a folder")
    ran = spender("evaluate", "sdss_demo", "--templates", tmp_path, "-o", tmp_path / "r")
    assert_one_line(ran, "ndArch-ssp", "give a folder with the templates")
    assert_one_line(
        spender("evaluate", "sdss_demo", "--instrument", "boss", "-o", tmp_path / "r"), "'boss'"
    )
    far = write_spec(tmp_path / "far.fits", Z=0.9)
    ran = spender("evaluate", "sdss_demo", far, "--mocks", "0", "--pca", "0", "-o", tmp_path / "r")
    assert ran.code == 1
    assert "no spectrum of sdss in 1 file(s)" in ran.err.splitlines()[-1]
    assert not (tmp_path / "r").exists()


def test_spectra_of_another_instrument_are_told(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    boss = write_spec(tmp_path / "b.fits", run2d="v5_13_0")
    spec = write_spec(tmp_path / "a.fits")
    options = ("--mocks", "0", "--pca", "0", "-o", tmp_path / "r")
    ran = spender("evaluate", "sdss_demo", boss, spec, *options)
    assert ran.code == 0
    assert "b.fits: of boss, not sdss; see --instrument" in ran.err


def test_mocks_of_a_file_are_judged_and_refined(spender: Spender, tmp_path: Path) -> None:
    file, folder = tmp_path / "mocks.fits", tmp_path / "report"
    assert spender("mock", "sdss", "-n", "60", "--snr", "8", "20", "-o", file).code == 0
    ran = spender(
        "evaluate", "sdss_demo", "--mock-file", file, "--pca", "0", "--refine", "3", "-o", folder
    )
    assert (ran.code, ran.err) == (0, "")
    summary = json.loads((folder / "report.json").read_text(encoding="utf-8"))["summary"]
    assert summary["mocks"] == 60
    assert not list(folder.glob("invariance*"))
    chi2 = summary["reduced chi square"]
    assert list(chi2) == ["model", "refined", "truth"]
    assert chi2["refined"]["p50"] <= chi2["model"]["p50"]


@pytest.mark.parametrize(
    ("options", "asked", "message"),
    [
        (["--no-truth"], "sdss_demo", "holds no truth to judge by"),
        ([], "boss_demo", "mocks of sdss, not of boss"),
    ],
)
def test_mocks_that_cannot_judge_a_model_are_refused(
    spender: Spender, tmp_path: Path, options: list[str], asked: str, message: str
) -> None:
    file = tmp_path / "mocks.fits"
    assert spender("mock", "sdss", "-n", "3", "-o", file, *options).code == 0
    ran = spender("evaluate", asked, "--mock-file", file, "--pca", "0", "-o", tmp_path / "r")
    assert ran.code == 1
    assert message in ran.err
    assert not (tmp_path / "r").exists()


def test_the_pca_learns_from_mocks_of_the_file_that_are_not_judged(
    spender: Spender, tmp_path: Path
) -> None:
    file, folder = tmp_path / "mocks.fits", tmp_path / "report"
    assert spender("mock", "sdss", "-n", "121", "--seed", "3", "-o", file).code == 0
    ran = spender("evaluate", "sdss_demo", "--mock-file", file, "--pca", "2", "-o", folder)
    assert (ran.code, ran.err) == (0, "")
    text = (folder / "report.json").read_text(encoding="utf-8")
    assert json.loads(text)["summary"]["mocks"] == 61
    assert "learned from rows 0 to 59 of the file" in text
    assert "60 to 120" in text
    assert not list(folder.glob("invariance*"))
    ran = spender("evaluate", "sdss_demo", "--mock-file", file, "--mocks", "55", "-o", folder)
    assert (
        json.loads((folder / "report.json").read_text(encoding="utf-8"))["summary"]["mocks"] == 55
    )


def test_options_that_a_file_of_mocks_makes_idle_are_refused(
    spender: Spender, tmp_path: Path, assert_one_line: Check
) -> None:
    options = ("--mock-file", tmp_path / "mocks.fits", "-o", tmp_path / "r")
    ran = spender("evaluate", "sdss_demo", "--mocks", "0", *options)
    assert_one_line(ran, "--mocks 0 leaves none of --mock-file")
    ran = spender("evaluate", "sdss_demo", "--templates", tmp_path, *options)
    assert_one_line(ran, "which --mock-file replaces")


def test_models_of_stars_are_not_judged_on_galaxies(
    spender: Spender, tmp_path: Path, assert_one_line: Check
) -> None:
    _, model = registry.load("sdss_demo")
    told = {"z_range": (-0.002, 0.002), "training": {"data": "mock stars"}, "name": "of_stars"}
    file = tmp_path / "of_stars.safetensors"
    registry.save(file, model, type(model.card).model_validate(model.card.model_dump() | told))
    ran = spender("evaluate", file, "-o", tmp_path / "r")
    assert_one_line(ran, "of_stars is a model of stars", "spender mock sdss --what stars")
    stars = tmp_path / "stars.fits"
    assert spender("mock", "sdss", "-n", "60", "--what", "stars", "-o", stars).code == 0
    ran = spender("evaluate", file, "--mock-file", stars, "--pca", "0", "-o", tmp_path / "r")
    assert (ran.code, ran.err) == (0, "")
