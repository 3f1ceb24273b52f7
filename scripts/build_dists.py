"""Build sdists and wheels of the three packages, and check what is in them.

    python scripts/build_dists.py                          # all three, into dist/
    python scripts/build_dists.py spender-desi --to /tmp/dist
    python scripts/build_dists.py --tag spender-core-v0.1.0   # what a release builds, and its version

Wheels are built from the sdists, so that both are known to work. The wheel of spender-core holds the
compiled kernels and is one for this platform; without a C compiler nothing is built.
Needs the extra `release`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TAG = re.compile(r"(?P<package>spender-[a-z]+)-v(?P<version>\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)")
VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
STRAY = re.compile(r"(^|/)(\.|tests?/|__pycache__/|conftest)|\.(pyc|orig|rej)$")
LIBRARY = re.compile(r"spender_core/native/_native\.(so|dylib|dll)")


@dataclass(frozen=True)
class Package:
    """One of the packages of this repository."""

    name: str
    folder: Path
    compiled: bool = False

    @property
    def module(self) -> str:
        """Name of its one module."""
        return self.name.replace("-", "_")

    @property
    def version(self) -> str:
        """Version in its source."""
        found = VERSION.search((self.folder / self.module / "__init__.py").read_text("utf-8"))
        if found is None:
            raise SystemExit(f'{self.module}/__init__.py has no line __version__ = "..."')
        return found[1]


PACKAGES = {
    package.name: package
    for package in (
        Package("spender-core", ROOT, compiled=True),
        Package("spender-sdss", ROOT / "plugins/spender-sdss"),
        Package("spender-desi", ROOT / "plugins/spender-desi"),
    )
}


def tagged(tag: str) -> Package:
    """Return the package that a tag releases.

    Raises:
        SystemExit: It is no tag of a release, or the source has another version.
    """
    found = TAG.fullmatch(tag)
    if found is None or found["package"] not in PACKAGES:
        allowed = ", ".join(f"{name}-vX.Y.Z" for name in PACKAGES)
        raise SystemExit(f"tag {tag!r} releases nothing; allowed are {allowed}")
    package = PACKAGES[found["package"]]
    if package.version != found["version"]:
        raise SystemExit(
            f"tag {tag!r} is of another version than {package.module}.__version__, "
            f"{package.version!r}: set the one, or delete the other"
        )
    return package


def hatch(folder: Path, kind: str, target: Path) -> None:
    """Build one distribution of the project in a folder."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(target)],
        cwd=folder,
        env=os.environ | {"SPENDER_BUILD": "require"},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def build(package: Package, target: Path) -> tuple[Path, Path]:
    """Build the sdist of a package, and from that its wheel; return the paths of both."""
    target.mkdir(parents=True, exist_ok=True)
    hatch(package.folder, "sdist", target)
    sdist = target / f"{package.module}-{package.version}.tar.gz"
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(sdist) as archive:
            # before 3.11.4 there are no filters; this file is one of ours
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            archive.extractall(scratch)
        wheels = Path(scratch) / "wheels"
        hatch(Path(scratch) / f"{package.module}-{package.version}", "wheel", wheels)
        (made,) = wheels.iterdir()
        return sdist, Path(shutil.copy(made, target))


def members(path: Path) -> set[str]:
    """Return the files in a distribution; of an sdist, below its one folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {name for name in wheel.namelist() if not name.endswith("/")}
    with tarfile.open(path) as sdist:
        return {file.name.split("/", 1)[1] for file in sdist.getmembers() if file.isfile()}


def faults(package: Package, sdist: Path, wheel: Path) -> list[str]:
    """Return what is wrong with the distributions of a package."""
    sources, files = members(sdist), members(wheel)
    module = f"{package.module}/"
    about = f"{package.module}-{package.version}.dist-info/"
    code = {name for name in files if name.startswith(module)}
    library = {name for name in code if LIBRARY.fullmatch(name)}
    expected = {name for name in sources if name.startswith(module)}
    told = {
        "stray in the wheel": {n for n in files if STRAY.search(n)},
        "neither module nor metadata": {n for n in files - code if not n.startswith(about)},
        "in the sdist and not in the wheel": expected - code,
        "in the wheel and not in the sdist": code - library - expected,
        "stray in the sdist": {n for n in sources - {".gitignore"} if STRAY.search(n)},
        "compiled, in the sdist": {n for n in sources if LIBRARY.fullmatch(n)},
        "missing": {f"{about}licenses/LICENSE", f"{module}py.typed"} - files,
    }
    found = [f"{what}: {', '.join(sorted(names))}" for what, names in told.items() if names]
    if len(library) != package.compiled:
        found.append(f"{len(library)} compiled libraries, must be {int(package.compiled)}")
    if (
        wheel.name.endswith("-py3-none-any.whl") == package.compiled
        or "-py3-none-" not in wheel.name
    ):
        found.append(f"{wheel.name} has the wrong tag")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Build, check, and say what was made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=", ".join(PACKAGES))
    parser.add_argument("--tag", help="of a release: builds its package alone")
    parser.add_argument("--to", type=Path, default=ROOT / "dist", metavar="FOLDER")
    given = parser.parse_args(arguments)
    unknown = set(given.packages) - set(PACKAGES)
    if unknown:
        parser.error(f"no package {', '.join(sorted(unknown))}; there are {', '.join(PACKAGES)}")
    chosen = [tagged(given.tag)] if given.tag else [PACKAGES[n] for n in given.packages or PACKAGES]
    wrong, made = [], []
    for package in chosen:
        sdist, wheel = build(package, given.to)
        made += [sdist, wheel]
        wrong += [f"{package.name}: {fault}" for fault in faults(package, sdist, wheel)]
    for path in made:
        print(f"{path.stat().st_size / 2**20:7.2f} MiB  {len(members(path)):4} files  {path}")
    if wrong:
        raise SystemExit("\n".join(wrong))
    subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, made)], check=True
    )


if __name__ == "__main__":
    main()
