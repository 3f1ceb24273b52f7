"""`spender new-plugin`: what it writes, says and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_it_says_what_comes_next(spender, tmp_path: Path) -> None:
    ran = spender("new-plugin", "my_survey", "--to", tmp_path, "--author", "Ada Lovelace")
    assert ran.code == 0, ran.err
    first, *rest = ran.out.splitlines()
    assert Path(first) == tmp_path / "spender-my-survey"
    assert "  spender check my_survey" in rest
    assert any("EDIT:" in line for line in rest)
    assert "Ada Lovelace" in (Path(first) / "LICENSE").read_text()


def test_by_default_it_is_made_here(
    spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert spender("new-plugin", "mine").out.splitlines()[0] == "spender-mine"
    assert (tmp_path / "spender-mine" / "pyproject.toml").is_file()


def test_wavelengths_are_those_asked_for(spender, tmp_path: Path) -> None:
    options = ["--grid", "log", "--first", "3.5682", "--step", "0.0001", "--pixels", "3909"]
    assert spender("new-plugin", "mine", "--to", tmp_path, *options).code == 0
    package = tmp_path / "spender-mine" / "spender_mine"
    assert "grid = Log(3.5682, 0.0001, 3909)" in (package / "instrument.py").read_text()
    assert "STEP, PIXELS = 3.5682, 0.0001, 3909" in (package / "example.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sdss"], "taken by the instrument 'sdss'"),
        (["My-Survey"], "'my_survey' would do"),
        (["mine", "--grid", "log", "--first", "3700"], "log10 of 3700"),
        (["mine", "--grid", "cubic"], "linear or log"),
        (["mine", "--to", "nowhere"], "no folder nowhere"),
        (["a\x1b[31m"], r"a\x1b[31m"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_refused_leaves_nothing(
    spender,
    assert_one_line,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(spender("new-plugin", *arguments), words)
    assert list(tmp_path.iterdir()) == []
