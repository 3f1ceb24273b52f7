"""What an import loads, and what it gives; each in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(code: str, folder: Path) -> str:
    """Run code in a new interpreter, away from the source tree, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded(code: str, names: set[str], folder: Path) -> set[str]:
    """Return which of the modules are loaded once the code has run."""
    return set(run(f"{code}\nimport sys\nprint(*(sys.modules.keys() & {names}))", folder).split())


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = {"torch", "astropy", "numpy", "pydantic", "fsspec", "matplotlib"}
    assert loaded("import spender_core", heavy, tmp_path) == set()


@pytest.mark.parametrize(
    "call",
    [
        "registry.list()",
        "registry.plugins()",
        "registry.instruments()",
        "registry.info('desi_edr')",
    ],
)
def test_listing_loads_neither_torch_nor_astropy(call: str, tmp_path: Path) -> None:
    code = f"from spender_core import registry\nassert {call}"
    assert loaded(code, {"torch", "astropy"}, tmp_path) == set()


def test_the_public_names_can_be_imported(tmp_path: Path) -> None:
    names = "registry, Instrument, Loader, Model, SpectrumBatch"
    code = f"from spender_core import {names}\nprint(*(n.__name__ for n in ({names})))"
    expected = ["spender_core.registry", "Instrument", "Loader", "Model", "SpectrumBatch"]
    assert run(code, tmp_path).split() == expected


def test_every_name_of_all_exists_and_is_listed_by_dir(tmp_path: Path) -> None:
    code = (
        "import spender_core as s\n"
        "print(all(hasattr(s, name) for name in s.__all__), set(s.__all__) <= set(dir(s)))"
    )
    assert run(code, tmp_path) == "True True"


def test_an_unknown_attribute_is_an_attribute_error(tmp_path: Path) -> None:
    code = (
        "import spender_core\n"
        "try:\n    spender_core.Spectrograph\n"
        "except AttributeError as error:\n    print(error)"
    )
    assert "'spender_core' has no attribute 'Spectrograph'" in run(code, tmp_path)
