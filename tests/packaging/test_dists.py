"""Wheels alone, in an environment of their own, far from the sources."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("build_dists", ROOT / "scripts/build_dists.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = load_script()


@dataclass
class Environment:
    """A virtual environment; other packages are those of the one that runs the tests."""

    folder: Path

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    def run(self, *words: str) -> str:
        """Run one of its programs outside the checkout, and return what it prints."""
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        home = str(self.folder.parent / "home")
        program = str(self.folder / "bin" / words[0])
        done = subprocess.run(
            [program, *words[1:]], capture_output=True, text=True, timeout=300, check=False,
            cwd=self.folder.parent, env=env | {"SPENDER_HOME": home, "SPENDER_OFFLINE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def files(self) -> set[str]:
        """Return what is installed, without what Python makes of it when it runs."""
        every = (path.relative_to(self.folder) for path in self.folder.rglob("*"))
        return {str(path) for path in every if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def dists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """The sdist and the wheel of each package."""
    from spender_core import native

    if native.library() is None:
        pytest.skip("wheels are built where there is a C compiler")
    folder = tmp_path_factory.mktemp("dist")
    return {name: script.build(one, folder) for name, one in script.PACKAGES.items()}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    others, linked = Path(sysconfig.get_path("purelib")), tmp_path / "others"
    linked.mkdir()
    for path in others.iterdir():
        if "spender" not in path.name and path.suffix != ".pth" and not path.name.startswith("_"):
            (linked / path.name).symlink_to(path)
    made = Environment(tmp_path / "env")
    venv.create(made.folder, with_pip=True)
    (made.packages / "others.pth").write_text(f"{linked}\n")
    return made


def install(environment: Environment, *wheels: Path) -> None:
    environment.run(
        "python", "-m", "pip", "install", "-q", "--no-index", "--no-deps", *map(str, wheels)
    )


def test_they_hold_what_they_should(dists: dict[str, tuple[Path, Path]]) -> None:
    for name, (sdist, wheel) in dists.items():
        assert script.faults(script.PACKAGES[name], sdist, wheel) == []


def test_faults_of_dists_are_told(dists: dict[str, tuple[Path, Path]]) -> None:
    (sdist, _), (_, other) = dists["spender-sdss"], dists["spender-desi"]
    found = " ".join(script.faults(script.PACKAGES["spender-sdss"], sdist, other))
    assert "in the sdist and not in the wheel: spender_sdss/" in found
    assert "missing: spender_sdss-" in found


def test_models_come_and_go_with_their_plugin(
    dists: dict[str, tuple[Path, Path]], environment: Environment
) -> None:
    install(environment, dists["spender-core"][1], dists["spender-sdss"][1])
    before = environment.files()
    assert "desi" not in environment.run("spender", "list")
    install(environment, dists["spender-desi"][1])
    listed = environment.run("spender", "list")
    assert "desi_demo" in listed
    assert "sdss_demo" in listed
    environment.run("python", "-m", "pip", "uninstall", "-q", "-y", "spender-desi")
    left = environment.run("spender", "list")
    assert "desi" not in left
    assert "sdss_demo" in left
    assert environment.files() == before


def test_an_embedded_model_works(
    dists: dict[str, tuple[Path, Path]], environment: Environment
) -> None:
    install(environment, dists["spender-core"][1], dists["spender-desi"][1])
    code = """
import json, spender_core, spender_desi
from spender_core import native, registry
instrument, model = registry.load("desi_demo")
flux = 1 + 0 * instrument.wave
latents = model.encode(instrument.batch(instrument.wave, flux, 100 * flux, z=0.1))
print(json.dumps({
    "files": [spender_core.__file__, spender_desi.__file__],
    "shape": list(latents.shape),
    "finite": bool(latents.isfinite().all()),
    "native": native.library() is not None,
    "models": sorted(registry.list()),
}))
"""
    told = json.loads(environment.run("python", "-c", code))
    assert all(Path(one).is_relative_to(environment.packages) for one in told["files"])
    assert (told["shape"], told["finite"], told["native"]) == ([1, 8], True, True)
    assert "desi_demo" in told["models"]
    assert not [name for name in told["models"] if "sdss" in name]


@pytest.mark.parametrize(
    ("tag", "refused"),
    [
        ("spender-core-v{core}", None),
        ("spender-desi-v{desi}", None),
        ("spender-core-v999.0.0", "another version"),
        ("spender-moon-v0.1.0", "releases nothing"),
        ("v0.1.0", "releases nothing"),
    ],
)
def test_tags_name_one_package(tag: str, refused: str | None) -> None:
    versions = {name.split("-")[1]: one.version for name, one in script.PACKAGES.items()}
    tag = tag.format(**versions)
    if refused is None:
        assert script.tagged(tag).name == tag.rsplit("-v", 1)[0]
        return
    with pytest.raises(SystemExit, match=refused):
        script.tagged(tag)
