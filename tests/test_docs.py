"""Every Python block of the docs runs, every link to a file resolves, every name is documented."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest

import spender_core
from spender_core import registry
from spender_core.plugins import hookspecs

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
]
BLOCK = re.compile(r"(?:<!-- (?P<mark>[\w ]+) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def python_blocks(page: Path) -> list[tuple[str | None, str]]:
    return [(m["mark"], m["code"]) for m in BLOCK.finditer(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other; those that need the network compile."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "docs"}
    for number, (mark, code) in enumerate(python_blocks(page)):
        compiled = compile(code, f"{page.name}, block {number}", "exec")
        assert mark in (None, "needs network")
        if mark is None:
            exec(compiled, namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_public_names_are_documented() -> None:
    for name in spender_core.__all__:
        assert inspect.getdoc(getattr(spender_core, name)), name
    for name, member in vars(registry).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            assert inspect.getdoc(member), name


def test_hooks_have_complete_examples() -> None:
    hooks = [f for name, f in vars(hookspecs).items() if name.startswith("spender_")]
    assert len(hooks) == 3
    for hook in hooks:
        example = inspect.cleandoc(hook.__doc__ or "").split("::\n", 1)[1]
        code = inspect.cleandoc(example)
        assert "@hookimpl" in code
        compile(code, hook.__name__, "exec")


def test_published_models_have_a_line_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in registry.list())


def test_contributing_names_every_verb() -> None:
    makefile = (ROOT / "Makefile").read_text()
    verbs = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert verbs is not None
    text = (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "README.md").read_text()
    assert all(f"make {verb}" in text for verb in verbs[1].split() if verb != "clean")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
