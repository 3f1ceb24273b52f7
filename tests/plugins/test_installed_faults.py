"""Faulty plugins, really installed with pip: each is named, and all else works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{distribution}"
version = "2.5"

[project.entry-points.spender]
{package} = "{package}"

[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""

MODEL = """\
from spender_core import hookimpl
from spender_core.records import ModelCard

@hookimpl
def {hook}():
    return [
        ModelCard(name="{model}", architecture="spectrum_autoencoder", latents=2{fields})
    ]
"""

NEWER = ", api_version=9, telescope='Rubin'"
SOURCES = {
    "tiny-good": MODEL.format(hook="spender_models", model="tiny_good_model", fields=""),
    "tiny-broken": "import a_package_that_is_not_there\n",
    "tiny-quitting": "raise SystemExit('no licence found')\n",
    "tiny-misspelt": MODEL.format(hook="spender_modells", model="lost_model", fields=""),
    "tiny-newer": MODEL.format(hook="spender_models", model="newer_model", fields=NEWER),
    "tiny-twin-left": MODEL.format(hook="spender_models", model="twin_model", fields=""),
    "tiny-twin-right": MODEL.format(hook="spender_models", model="twin_model", fields=""),
}
FAULTS = {
    "tiny-broken": "a_package_that_is_not_there",
    "tiny-quitting": "no licence found",
    "tiny-misspelt": "did you mean spender_models",
    "tiny-newer": "api_version 9",
    "tiny-twin-left": "tiny-twin-left 2.5 and tiny-twin-right 2.5",
    "tiny-twin-right": "tiny-twin-left 2.5 and tiny-twin-right 2.5",
}


def write_package(folder: Path, distribution: str, source: str) -> Path:
    """Write the sources of a distribution with one plugin in it."""
    package = distribution.replace("-", "_")
    (folder / distribution / package).mkdir(parents=True)
    text = PYPROJECT.format(distribution=distribution, package=package)
    (folder / distribution / "pyproject.toml").write_text(text, encoding="utf-8")
    (folder / distribution / package / "__init__.py").write_text(source, encoding="utf-8")
    return folder / distribution


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder into which good and bad distributions are installed."""
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("site")
    packages = [write_package(sources, name, source) for name, source in SOURCES.items()]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def python(site: Path, *arguments: str) -> str:
    """Run python with the distributions installed, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(site: Path, expression: str) -> Any:
    """Return what an expression of the registry gives, through JSON."""
    code = f"import json\nfrom spender_core import registry\nprint(json.dumps({expression}))"
    return json.loads(python(site, "-c", code))


@pytest.fixture(scope="module")
def problems(site: Path) -> dict[str, str]:
    return dict(ask(site, "{p.distribution: ' '.join(p.problems) for p in registry.plugins()}"))


@pytest.mark.parametrize("distribution", FAULTS)
def test_a_faulty_distribution_is_named_with_its_fault(
    problems: dict[str, str], distribution: str
) -> None:
    assert FAULTS[distribution] in problems[distribution]


@pytest.mark.parametrize(
    "distribution", ["spender-core", "spender-sdss", "spender-desi", "tiny-good"]
)
def test_a_sound_distribution_is_not_harmed(problems: dict[str, str], distribution: str) -> None:
    assert problems[distribution] == ""


def test_versions_are_those_of_the_distributions(site: Path) -> None:
    versions = ask(site, "{p.distribution: p.version for p in registry.plugins()}")
    assert {versions[name] for name in SOURCES} == {"2.5"}


def test_every_other_model_can_be_asked_for(site: Path) -> None:
    names = ask(site, "[registry.info(name).name for name in registry.list()]")
    assert {"tiny_good_model", "sdss_II", "desi_edr_galaxy"} <= set(names)
    assert not {"twin_model", "lost_model", "newer_model"} & set(names)


def test_instruments_can_be_asked_for(site: Path) -> None:
    assert set(ask(site, "[registry.instrument(n).name for n in registry.instruments()]")) >= {
        "boss",
        "desi",
        "sdss",
    }


def test_asking_for_the_duplicate_raises_naming_both(site: Path) -> None:
    code = (
        "from spender_core import registry\n"
        "from spender_core.errors import DuplicateNameError\n"
        "try:\n    registry.load('twin_model')\n"
        "except DuplicateNameError as error:\n    print(error)"
    )
    message = python(site, "-c", code)
    assert "tiny-twin-left 2.5" in message
    assert "tiny-twin-right 2.5" in message


def test_the_command_line_lists_every_plugin_and_fault(site: Path) -> None:
    text = python(site, "-m", "spender_core.cli", "plugins")
    for distribution in ("spender-sdss", "spender-desi", *SOURCES):
        assert distribution in text
    assert "a_package_that_is_not_there" in text
