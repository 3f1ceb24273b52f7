"""New plugins, really installed: they pass their own tests, spender sees them, and they go again."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from astropy.io import fits

from spender_core.scaffold import Settings, write

OTHERS = {"log": Settings("log", 3.985, 1e-4, 500, author='Ada "L" Söhne')}
"""The name of a grid; in the forest of OH lines, where it gets no mask."""

OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--no-cache-dir"]


class Place:
    """A virtual environment that also has the packages of this one.

    Args:
        folder: Where it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.executable = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        (packages,) = folder.rglob("site-packages")
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        (packages / "shared.pth").write_text("\n".join(lines))

    def python(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run python in the environment, and return what it prints."""
        done = subprocess.run(
            [self.executable, *arguments],
            cwd=cwd or self.folder,
            env={**os.environ, "COLUMNS": "250", "SPENDER_HOME": str(self.folder / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def spender(self, *arguments: str) -> str:
        """Run the command line in the environment, and return what it prints."""
        return self.python("-m", "spender_core.cli", *arguments)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Plugins as they are written: by the command, and with other wavelengths."""
    folder = tmp_path_factory.mktemp("sources")
    made = {name: write(name, folder, settings) for name, settings in OTHERS.items()}
    command = ["-m", "spender_core.cli", "new-plugin", "lamost2", "--to", str(folder)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return {"lamost2": folder / "spender-lamost2", **made}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, Path]) -> Place:
    """An environment in which they are installed."""
    place = Place(tmp_path_factory.mktemp("place"))
    place.python("-m", "pip", "install", *OFFLINE, *sources.values())
    return place


def test_the_tests_of_a_new_plugin_pass_untouched(place: Place, sources: dict[str, Path]) -> None:
    before = {path: path.read_bytes() for path in sources["lamost2"].rglob("*") if path.is_file()}
    options = ["-q", "-p", "no:cacheprovider", "--no-header", "-W", "error::RuntimeWarning"]
    told = place.python("-B", "-m", "pytest", *options, cwd=sources["lamost2"])
    last = told.splitlines()[-1]
    assert "failed" not in last
    assert "error" not in last
    assert int(last.split(" passed")[0].split()[-1]) >= 40
    after = {path: path.read_bytes() for path in sources["lamost2"].rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize("name", ["lamost2", *OTHERS])
def test_all_its_checks_pass(place: Place, name: str) -> None:
    results = json.loads(place.spender("check", name, "--json"))
    outcomes = {one["check"]: one["outcome"] for one in results}
    optional = {"load rows", "load many", "by id"}
    assert {check for check in outcomes if outcomes[check] != "passed"} <= optional
    assert outcomes["line wavelength"] == outcomes["lsf width"] == outcomes["plugin offers"]
    assert outcomes["remote equals local"] == outcomes["ids of example"] == "passed"


def test_spender_sees_it(place: Place) -> None:
    rows = [line.split("│") for line in place.spender("plugins").splitlines()]
    told = {row[1].strip(): [cell.strip() for cell in row] for row in rows if len(row) > 4}
    for name in ("lamost2", *OTHERS):
        distribution = f"spender-{name.replace('_', '-')}"
        assert told[name][2:5] == [f"{distribution} 0.1.0", "ok", name]


def test_a_file_of_it_is_read_and_one_on_another_grid_refused(
    place: Place, sources: dict[str, Path], tmp_path: Path
) -> None:
    example = runpy.run_path(str(sources["lamost2"] / "spender_lamost2" / "example.py"))
    (path,) = example["write_example"](tmp_path).paths
    place.spender("read", str(path), "-o", str(tmp_path / "read.fits"))
    assert (tmp_path / "read.fits").is_file()
    with fits.open(path) as hdus:
        hdus["SPECTRA"].header["WAVE0"] += 1.0
        hdus.writeto(tmp_path / "shifted.fits")
    read = [place.executable, "-m", "spender_core.cli", "read", tmp_path / "shifted.fits"]
    done = subprocess.run(
        [*read, "-o", tmp_path / "no.fits"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "shifted.fits" in done.stderr
    assert "4001.00" in done.stderr
    assert "download" not in done.stderr, "the file is sound"
    assert not (tmp_path / "no.fits").exists()


def test_a_fault_that_is_put_in_is_found(place: Place, sources: dict[str, Path]) -> None:
    """Two pixels too far: neither the file nor the example, only the grid is changed."""
    changed = place.folder / "changed"
    shutil.copytree(sources["lamost2"], changed)
    instrument = changed / "spender_lamost2" / "instrument.py"
    text = instrument.read_text()
    instrument.write_text(text.replace("Linear(4000.0,", "Linear(4004.0,"))
    loader = changed / "spender_lamost2" / "loader.py"
    loader.write_text(loader.read_text().replace("< 0.01", "< 100"))
    done = subprocess.run(
        [place.executable, "-B", "-m", "pytest", "-q", "-k", "line_wavelength"],
        cwd=changed,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(changed), *sys.path[1:]])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert re.search(r"off by \+(3\.9|4\.0)\d Angstrom", done.stdout)


def test_what_is_built_has_all_that_it_needs(sources: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", tmp_path]
    subprocess.run([*command, sources["log"]], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"spender_log/py.typed", "spender_log/loader.py"} <= set(names)
    assert not [name for name in names if "test" in name]
    (metadata,) = [name for name in names if name.endswith("METADATA")]
    told = zipfile.ZipFile(wheel).read(metadata).decode()
    assert 'Author: Ada "L" Söhne' in told
    assert "License-Expression: MIT" in told
    assert "License-File: LICENSE" in told
    assert "Requires-Dist: spender-core<0.2,>=0.1" in told


def test_types_hold(sources: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="needs mypy, of the extra check")
    packages = [folder / f"spender_{name}" for name, folder in sources.items()]
    options = ["--config-file", sources["lamost2"] / "pyproject.toml", "--cache-dir", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues found in 10 source files" in done.stdout


def test_uninstalled_it_is_gone_and_nothing_else(place: Place) -> None:
    """Runs last: the environment is left without the plugin."""
    code = "from spender_core import registry as r; print(*r.instruments(), *r.list())"
    before = set(place.python("-c", code).split())
    place.python("-m", "pip", "uninstall", "--quiet", "--yes", "spender-lamost2")
    assert before - set(place.python("-c", code).split()) == {"lamost2"}
    assert "lamost2" not in place.spender("plugins")
    assert place.python("-c", "import importlib.util as u; print(u.find_spec('spender_lamost2'))")
