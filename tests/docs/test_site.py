"""The site builds without a warning, has everything public, and every link in it leads somewhere."""

from __future__ import annotations

import inspect
import re
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer

import spender_core
from spender_core import registry
from spender_core.cli.app import app

DOCS = Path(__file__).parents[2] / "docs"
STATIC = DOCS / "_static"
WHOLE = [
    "batch",
    "errors",
    "grid",
    "interfaces",
    "line_spread",
    "losses",
    "plot",
    "records",
    "registry",
    "testing",
    "training",
    "weights",
]
"""Modules of which every public name is documented."""


def public(module: Any) -> list[str]:
    """Return the public names of a module: those it lists, or the classes and functions it has."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, member in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(member) or inspect.isfunction(member))
        and member.__module__ == module.__name__
    ]


def test_builds_without_a_word(site: Any) -> None:
    assert site.told == ""
    assert "index.html" in site.pages


def test_what_people_import_has_an_entry(site: Any) -> None:
    entries = site.entries()
    missing = [name for name in spender_core.__all__ if f"spender_core.{name}" not in entries]
    assert not missing


@pytest.mark.parametrize("name", WHOLE)
def test_public_names_have_entries(site: Any, name: str) -> None:
    module = import_module(f"spender_core.{name}")
    names = public(module)
    assert names
    entries = site.entries()
    homes = (f"spender_core.{name}", "spender_core")
    missing = [one for one in names if not any(f"{home}.{one}" in entries for home in homes)]
    ours = [one for one in missing if one.upper() != one]  # constants need none
    assert not ours


def test_members_of_interfaces_have_entries(site: Any) -> None:
    entries = site.entries()
    for name in ("Instrument", "Loader", "Model"):
        owner = getattr(spender_core, name)
        members = [
            member
            for member, value in vars(owner).items()
            if not member.startswith("_")
            and (inspect.isfunction(value) or isinstance(value, property | classmethod))
        ]
        assert members
        missing = [one for one in members if f"spender_core.{name}.{one}" not in entries]
        assert not missing


def test_hooks_have_entries_with_their_examples(site: Any) -> None:
    hooks = import_module("spender_core.plugins.hookspecs")
    names = [name for name in vars(hooks) if name.startswith("spender_")]
    entries, page = site.entries(), site.text("hooks.html")
    assert len(names) >= 3
    for name in names:
        assert entries[f"spender_core.plugins.hookspecs.{name}"] == "function"
    assert page.count("@hookimpl") >= len(names)


def test_links_lead_somewhere(site: Any) -> None:
    dead = []
    for page in site.pages.values():
        for path, anchor in page.targets():
            if path in site.pages:
                found = not anchor or anchor in site.pages[path].anchors
            else:
                found = (site.folder / path).exists()
            if not found:
                dead.append(f"{page.path}: {path}#{anchor}")
    assert not dead


def test_pages_are_reached_from_the_first(site: Any) -> None:
    reached, waiting = set(), ["index.html"]
    while waiting:
        path = waiting.pop()
        if path in site.pages and path not in reached:
            reached.add(path)
            waiting += [target for target, _ in site.pages[path].targets()]
    assert reached == set(site.pages)


def test_every_page_of_the_folder_is_in_the_site(site: Any) -> None:
    sources = {
        file.relative_to(DOCS).with_suffix(".html").as_posix()
        for file in DOCS.rglob("*.md")
        if not file.relative_to(DOCS).parts[0].startswith("_")
    }
    assert sources == set(site.pages)


def test_nothing_is_loaded_from_elsewhere(site: Any) -> None:
    foreign = {
        f"{page.path}: {source}"
        for page in site.pages.values()
        for source in page.loads
        if source.startswith(("http:", "https:", "//"))
    }
    assert not foreign


def test_every_model_has_its_card(site: Any) -> None:
    page, text = site.pages["models.html"], site.text("models.html")
    for name in registry.list():
        card = registry.info(name)
        assert any(anchor.replace("-", "_") == name.lower() for anchor in page.anchors), name
        assert card.sha256[:8] in text
        assert all(alias in text for alias in card.aliases)


def test_every_command_has_its_options(site: Any) -> None:
    text = site.text("commands.html")
    waiting = [("spender", typer.main.get_command(app))]
    seen = 0
    while waiting:
        path, command = waiting.pop()
        inner = getattr(command, "commands", {})
        waiting += [(f"{path} {name}", one) for name, one in inner.items()]
        if not inner:
            assert f">{path}<" in text, path
            seen += 1
            for option in command.params:
                if option.param_type_name == "option" and option.name != "help":
                    assert option.opts[0] in text, (path, option.opts)
    assert seen > 10


def test_nothing_is_left_to_be_written(site: Any) -> None:
    assert not [path for path in site.pages if "written at build" in site.text(path)]


def test_names_in_docstrings_are_linked_to_what_they_mean(site: Any) -> None:
    text = site.text("api/instruments.html")
    assert 'href="spectra.html#spender_core.SpectrumBatch"' in text
    assert 'href="spectra.html#spender_core.SpectrumBatch.flags"' not in text
    # the table that `query` returns is astropy's
    assert "spender_core.grid.Table" not in text
    # a type `list` is not the function of that name
    assert 'title="spender_core.registry.list"><em' not in site.text("api/registry.html")


def test_names_in_guides_are_linked(site: Any) -> None:
    links = site.pages["concepts.html"].targets()
    assert ("api/spectra.html", "spender_core.SpectrumBatch") in links
    assert ("api/registry.html", "spender_core.registry.load") in site.pages[
        "training.html"
    ].targets()


def test_drawings_follow_the_theme(site: Any) -> None:
    for page, name in (("index.html", "hero"), ("concepts.html", "data-path")):
        drawing = (STATIC / f"{name}.svg").read_text(encoding="utf-8")
        root = ElementTree.fromstring(drawing)
        assert root.get("aria-label")
        assert drawing.strip() in site.text(page)
        for theme in ("light", "dark"):
            assert f'html[data-theme="{theme}"] .{name}' in drawing
        used = set(re.findall(r"var\(--(\w+)\)", drawing))
        assert used <= set(re.findall(r"--(\w+):", drawing))


def test_gallery_shows_what_its_blocks_write() -> None:
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"_static/gallery/([\w.-]+)", page)
    assert shown == re.findall(r'Path\("([\w.-]+)"\)', page)
    files = list((STATIC / "gallery").iterdir())
    assert sorted(shown) == sorted(file.name for file in files)
    assert sum(file.stat().st_size for file in files) < 300_000


def test_a_fault_stops_the_build(tmp_path: Path, builds: Any) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(DOCS / "conf.py", source)
    for folder in ("_ext", "_static"):
        shutil.copytree(DOCS / folder, source / folder)
    page = "# Page\n\n[nowhere](nowhere.md), [no anchor](#no-anchor)\n\n"
    page += "```{eval-rst}\n:py:class:`spender_core.Nothing`\n```\n"
    (source / "index.md").write_text(page)
    done = builds(source, tmp_path / "site")
    assert done.returncode != 0
    for fault in ("nowhere", "no-anchor", "spender_core.Nothing"):
        assert fault in done.stderr
