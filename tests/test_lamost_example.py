"""The finished plugin of the tutorial, really installed: its own tests and checks pass."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "spender-lamost"
CORE = (ROOT, ROOT / "plugins" / "spender-sdss", ROOT / "plugins" / "spender-desi")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that has the plugin, with its entry point, built of a copy."""
    folder = tmp_path_factory.mktemp("lamost")
    copy = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns(".*_cache"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--no-cache-dir"]
    install = [sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", copy]
    subprocess.run(install, check=True)
    return folder


def run(installed: Path, *arguments: str | Path) -> str:
    """Run python with the plugin, and return what it prints."""
    paths = [str(path) for path in (installed / "site", *CORE)]
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=installed / "source",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths + given),
            "SPENDER_HOME": str(installed / "home"),
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_tests_pass(installed: Path) -> None:
    options = ["-q", "-p", "no:cacheprovider", "--no-header", "--import-mode=importlib"]
    warnings = ["-W", "error::RuntimeWarning", "-W", "error::UserWarning"]
    told = run(installed, "-B", "-m", "pytest", *options, *warnings, "tests")
    last = told.splitlines()[-1]
    assert "failed" not in last
    assert "error" not in last
    assert int(last.split(" passed")[0].split()[-1]) >= 120


def test_all_its_checks_pass(installed: Path) -> None:
    results = json.loads(run(installed, "-m", "spender_core.cli", "check", "lamost", "--json"))
    outcomes = {one["check"]: one["outcome"] for one in results}
    others = {check for check, outcome in outcomes.items() if outcome != "passed"}
    assert others <= {"load rows", "load many"}  # optional, and of no use with one spectrum a file
    assert outcomes["line wavelength"] == outcomes["lsf width"] == "passed"


def test_mocks_of_it_are_made(installed: Path) -> None:
    mocks = installed / "mocks.fits"
    run(installed, "-m", "spender_core.cli", "mock", "lamost", "-n", "2", "-o", mocks)
    code = "import sys; from astropy.io import fits; print(fits.getdata(sys.argv[1], 'MOCKS')['FLUX'].shape)"
    assert run(installed, "-c", code, mocks).strip() == "(2, 3922)"


def test_its_ids_are_numbers_on_the_command_line(installed: Path) -> None:
    code = "import sys, pathlib, spender_lamost.example as e; e.write_example(pathlib.Path(sys.argv[1]))"
    (installed / "copy").mkdir()
    run(installed, "-c", code, installed / "copy")
    where = ["--instrument", "lamost", "--root", installed / "copy", "-o", installed / "one.fits"]
    run(installed, "-m", "spender_core.cli", "read", "437513049", *where)
    assert (installed / "one.fits").is_file()


def test_nothing_of_the_template_is_left() -> None:
    texts = [path.read_text() for path in EXAMPLE.rglob("*") if path.suffix in {".py", ".toml"}]
    assert len(texts) >= 10
    assert not [text for text in texts if "EDIT:" in text]
    assert max(len(text.splitlines()) for text in texts) <= 400
