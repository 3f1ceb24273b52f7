"""The instrument of the guide passes the checks, with the example that the guide writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from testing.mutants import air_of

from spender_core.grid import Table
from spender_core.testing.checks import CHECKS
from spender_core.testing.running import run
from spender_core.testing.subject import Subject

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"


@pytest.fixture
def guide(tmp_path, monkeypatch):
    """Names that the blocks of the page define."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "guide"}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)
    return names


def failed(guide, make, folder):
    """Return what failed; classes of a page belong to no module, so they cannot be pickled."""
    checks = [one for one in CHECKS if one.group != "processes"]
    results = run(Subject(make, folder, guide["write_example"](folder)), checks=checks)
    return {one.name: str(one.error) for one in results if one.error}


def test_the_instrument_passes(guide, tmp_path):
    mine = guide["Mine"]
    sharp = type("Sharp", (mine,), {"loader": guide["MySharpLoader"]()})
    for number, make in enumerate((mine, sharp)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert failed(guide, make, folder) == {}


def test_the_message_is_that_of_the_page(guide, tmp_path):
    mine = guide["Mine"]
    grid = Table(air_of(mine.grid.wave))
    (told,) = failed(guide, type("InAir", (mine,), {"grid": grid}), tmp_path).values()
    expected, found, fix = told.splitlines()
    page = PAGE.read_text(encoding="utf-8")
    assert expected in page
    assert found in page
    assert fix[:90] in page


def test_the_number_of_checks_is_that_of_the_page():
    assert f"{len(CHECKS)} checks" in PAGE.read_text(encoding="utf-8")
