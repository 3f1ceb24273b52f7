"""What the packages say they need is what the oldest environment is made of."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT, ROOT / "plugins/spender-sdss", ROOT / "plugins/spender-desi"]
FOR_USERS = ("parquet", "cluster", "flow", "train", "tensorboard", "push")


def needed() -> dict[str, Version]:
    """Return the lower bounds of all that users install, the highest of each."""
    found: dict[str, Version] = {}
    for folder in PROJECTS:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        extras = project.get("optional-dependencies", {})
        lines = [
            *project["dependencies"],
            *(one for key in FOR_USERS for one in extras.get(key, [])),
        ]
        for requirement in map(Requirement, lines):
            name = requirement.name.replace("_", "-").lower()
            if name.startswith("spender-"):
                continue
            (bound,) = [one.version for one in requirement.specifier if one.operator == ">="]
            found[name] = max(Version(bound), found.get(name, Version("0")))
    return found


def pinned(part: int) -> dict[str, Version]:
    """Return what is pinned: 0 for what the packages need, 1 for what that needs."""
    text = (ROOT / "constraints-oldest.txt").read_text().split("# what these need", 1)[part]
    return {name: Version(version) for name, version in re.findall(r"^([\w-]+)==(.+)$", text, re.M)}


def test_the_oldest_versions_are_those_stated() -> None:
    assert pinned(0) == needed()


def test_nothing_is_pinned_twice() -> None:
    assert not set(pinned(0)) & set(pinned(1))


@pytest.mark.parametrize("folder", PROJECTS[1:], ids=lambda folder: folder.name)
def test_plugins_need_no_more_than_core(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    names = {Requirement(one).name for one in project["dependencies"]} - {"spender-core"}
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert names <= {Requirement(one).name for one in core["dependencies"]}
