"""The order of modules: each imports only those listed above it in docs/architecture.md."""

from __future__ import annotations

import ast
import shutil
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "spender_core"
PLUGINS = sorted(path for path in ROOT.glob("plugins/*/spender_*") if path.is_dir())
MARKER = "<!-- module order -->\n```"
LONGEST = 400
"""Lines of a module."""


def listed_modules(text: str) -> list[str]:
    """Return the modules in the fenced block below the marker, in its order."""
    _, found, rest = text.partition(MARKER)
    assert found, f"docs/architecture.md has no fenced block right below {MARKER[:-4]!r}"
    block = rest.partition("\n")[2].partition("\n```")[0]
    return [line.split()[0] for line in block.splitlines() if line.strip()]


def imported(file: Path, package: Path) -> set[str]:
    """Return what a file imports, anywhere in it, as dotted names with what is taken."""
    inside = file.relative_to(package.parent).with_suffix("").parts
    parent = ".".join(inside[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), parent)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def exports(package: Path) -> dict[str, str]:
    """Return the module that each lazily imported name of a package comes from."""
    taken = imported(package / "__init__.py", package)
    dotted = [name.split(".") for name in taken if name.startswith(f"{package.name}.")]
    return {parts[-1]: parts[1] for parts in dotted}


def modules_of(package: Path) -> set[str]:
    """Return the top-level modules and subpackages of a package."""
    files = {file.relative_to(package) for file in package.rglob("*.py")}
    return {file.parts[0].removesuffix(".py") for file in files} - {"__init__"}


def violations(package: Path, order: list[str]) -> list[str]:
    """Name every import against the order, and every difference between order and package."""
    modules, known = modules_of(package), exports(package)
    found = [f"{name} is not listed" for name in sorted(modules - set(order))]
    found += [f"{name} is listed and does not exist" for name in order if name not in modules]
    rank = {name: place for place, name in enumerate(order)}
    for file in sorted(package.rglob("*.py")):
        importer = file.relative_to(package).parts[0].removesuffix(".py")
        if importer not in rank:
            continue
        for name in sorted(imported(file, package)):
            parts = name.split(".")
            if parts[0] != package.name or parts[1:] == ["__version__"]:
                continue
            target = "" if len(parts) == 1 else known.get(parts[1], parts[1])
            if target not in rank:
                found.append(f"{file.relative_to(package)} imports {name}, which is not listed")
            elif rank[target] > rank[importer]:
                where = file.relative_to(package)
                found.append(f"{where} ({importer}) imports {name} ({target}), listed below it")
    return found


@pytest.fixture(scope="module")
def order() -> list[str]:
    return listed_modules((ROOT / "docs/architecture.md").read_text(encoding="utf-8"))


def test_every_module_imports_only_those_above_it(order: list[str]) -> None:
    assert violations(CORE, order) == []


def test_no_module_is_listed_twice(order: list[str]) -> None:
    assert len(order) == len(set(order))


def test_core_imports_no_plugin() -> None:
    plugins = {path.name for path in PLUGINS}
    assert {"spender_sdss", "spender_desi"} <= plugins
    for file in CORE.rglob("*.py"):
        tops = {name.split(".")[0] for name in imported(file, CORE)}
        assert not tops & plugins, f"{file} imports a plugin"


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugins_do_not_import_each_other(plugin: Path) -> None:
    others = {path.name for path in PLUGINS} - {plugin.name}
    for file in plugin.rglob("*.py"):
        tops = {name.split(".")[0] for name in imported(file, plugin)}
        assert not tops & others, f"{file} imports another plugin"


def test_modules_are_short() -> None:
    files = [file for package in (CORE, *PLUGINS) for file in package.rglob("*.py")]
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert lengths
    assert {file.name: n for file, n in lengths.items() if n > LONGEST} == {}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    return Path(shutil.copytree(CORE, tmp_path / CORE.name, ignore=ignored))


@pytest.mark.parametrize(
    "statement",
    [
        "from spender_core import registry",
        "import spender_core.registry",
        "from . import registry",
        "from .registry import load",
        "def late():\n    from spender_core.registry import load",
        "if TYPE_CHECKING:\n    from spender_core.registry import load",
    ],
)
def test_an_import_against_the_order_is_found(
    copied: Path, order: list[str], statement: str
) -> None:
    with (copied / "errors.py").open("a", encoding="utf-8") as file:
        file.write(f"\n\n{statement}\n")
    found = [text for text in violations(copied, order) if text.startswith("errors.py")]
    assert len(found) == 1
    assert "(errors)" in found[0]
    assert "(registry)" in found[0]


def test_a_lazily_exported_name_counts_as_its_module(copied: Path, order: list[str]) -> None:
    with (copied / "errors.py").open("a", encoding="utf-8") as file:
        file.write("\n\nfrom spender_core import SpectrumBatch\n")
    assert any("errors" in text and "batch" in text for text in violations(copied, order))


def test_a_new_module_must_be_listed_and_a_removed_one_not(copied: Path, order: list[str]) -> None:
    (copied / "stowaway.py").write_text('"""Not in the list."""\n', encoding="utf-8")
    shutil.rmtree(copied / "losses")
    found = violations(copied, order)
    assert "stowaway is not listed" in found
    assert "losses is listed and does not exist" in found
