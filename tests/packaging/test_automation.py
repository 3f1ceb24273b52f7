"""Workflows, hooks and fragments of news fit the project that they are of."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def content(path: Path) -> dict[Any, Any]:
    made = yaml.safe_load(path.read_text())
    assert isinstance(made, dict)
    return made


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in content(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_there_is(path: Path) -> None:
    verbs = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    ran = "\n".join(step.get("run", "") for step in steps(path))
    assert set(re.findall(r"make (\w+)", ran)) <= verbs
    assert all((ROOT / name).is_file() for name in re.findall(r"python (\S+\.py)", ran))
    for step in steps(path):
        assert ("run" in step) != ("uses" in step)
        assert re.fullmatch(r"[\w/-]+@(v\d+[\d.]*|release/v1)", step.get("uses", "a/b@v1"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_do_no_more_than_they_must(path: Path) -> None:
    about = content(path)
    assert about["permissions"] == {"contents": "read"}
    writing = {name for name, job in about["jobs"].items() if "permissions" in job}
    assert writing == {"docs": {"deploy"}, "release": {"publish"}}.get(path.stem, set())
    assert all("timeout-minutes" in job for name, job in about["jobs"].items() if name != "deploy")
    assert "secrets." not in path.read_text()


def test_every_package_has_its_tag() -> None:
    (pattern,) = content(ROOT / ".github/workflows/release.yml")[True]["push"]["tags"]
    assert pattern == "spender-*-v*"
    names = [PROJECT["project"]["name"], *(one.name for one in (ROOT / "plugins").iterdir())]
    assert all(name.startswith("spender-") for name in names)


def test_the_oldest_python_is_tested() -> None:
    jobs = content(ROOT / ".github/workflows/tests.yml")["jobs"]
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert jobs["tests"]["strategy"]["matrix"]["python"][0] == oldest
    told = [step["with"]["python-version"] for step in jobs["oldest"]["steps"] if "with" in step]
    assert told == [oldest]


def test_hooks_have_the_versions_of_the_checks() -> None:
    repositories = content(ROOT / ".pre-commit-config.yaml")["repos"]
    versions = {one["repo"].rsplit("/", 1)[-1]: one.get("rev") for one in repositories}
    checks = dict(re.findall(r"^([\w-]+)==(.+)$", "\n".join(
        PROJECT["project"]["optional-dependencies"]["check"]), re.MULTILINE))  # fmt: skip
    assert versions["ruff-pre-commit"] == f"v{checks['ruff']}"


def test_fragments_become_the_changelog(tmp_path: Path) -> None:
    if find_spec("towncrier") is None:
        pytest.skip("towncrier is not installed: pip install 'spender-core[test]'")
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "changelog.d", tmp_path / "changelog.d")
    (tmp_path / "changelog.d/+grids.added.md").write_text("Grids that are round.\n")
    (tmp_path / "changelog.d/12.fixed.md").write_text("Squares have four corners again.\n")
    words = ["build", "--yes", "--name", "spender", "--version", "9.8.7", "--date", "2030-01-02"]
    command = [sys.executable, "-m", "towncrier", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "CHANGELOG.md").read_text()
    assert text.index("## 9.8.7 (2030-01-02)") < text.index("## 0.1.0")
    assert "Grids that are round." in text
    assert "Squares have four corners again. (#12)" in text
    assert text.endswith((ROOT / "CHANGELOG.md").read_text().split("## 0.1.0", 1)[1])
