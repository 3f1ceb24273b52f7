"""Which names a plugin can have, and what is said of those that it cannot."""

from __future__ import annotations

import keyword
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spender_core.errors import InputError
from spender_core.plugins.manager import Candidate
from spender_core.scaffold.names import LONGEST, check_name, class_of, distribution_of, package_of

HOSTILE = [
    "",
    " ",
    ".",
    "..",
    "../escape",
    "/tmp/there",
    "a/b",
    "a\\b",
    "a b",
    "a\nb",
    "a\x00b",
    "a\x1b[31m",
    "a;rm -rf ~",
    "$(id)",
    "@name@",
    "-rf",
    "--help",
    "2df",
    "_hidden",
    "tail_",
    "two__bars",
    "Lamost",
    "my-survey",
    "naïve",
    "ﬁ",
    "光谱",
    "१a",
    "a" * (LONGEST + 1),
    "a" * 100_000,
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:20]))
def test_what_is_no_name_is_refused_in_one_printable_line(name: str) -> None:
    with pytest.raises(InputError, match="beginning with a letter") as refused:
        check_name(name)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("name", "near"),
    [("My-Survey", "my_survey"), ("spender-lamost", "lamost"), ("LAMOST LRS", "lamost_lrs")],
)
def test_a_name_that_is_near_is_proposed(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"'{near}' would do"):
        check_name(name)
    check_name(near)


@pytest.mark.parametrize("name", ["SDSS", "Class", "spender-core"])
def test_nothing_is_proposed_that_would_be_refused(name: str) -> None:
    with pytest.raises(InputError) as refused:
        check_name(name)
    assert "would do" not in str(refused.value)


@pytest.mark.parametrize("name", keyword.kwlist)
def test_words_of_python_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("boss", "the instrument 'boss'"),
        ("sdss", "the instrument 'sdss'"),
        ("desi", "the instrument 'desi'"),
        ("core", "the installed plugin 'core' of spender-core"),
    ],
)
def test_names_that_are_taken_are_refused_with_their_owner(name: str, owner: str) -> None:
    with pytest.raises(InputError, match=f"taken by {owner}"):
        check_name(name)


def test_a_broken_plugin_keeps_its_name(offer) -> None:
    def load() -> None:
        raise ImportError("no such library")

    offer([Candidate("mine", "spender-mine", "1", load)])
    with pytest.raises(InputError, match="the installed plugin 'mine' of spender-mine"):
        check_name("mine")


def test_a_distribution_without_a_plugin_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "Spender_My.Survey-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: Spender_My.Survey\nVersion: 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"the installed distribution Spender_My\.Survey"):
        check_name("my_survey")


def test_a_module_without_a_distribution_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spender_stray.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="the module spender_stray"):
        check_name("stray")
    assert "spender_stray" not in sys.modules


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.text(max_size=30))
def test_a_text_is_a_name_or_refused(name: str) -> None:
    try:
        check_name(name)
    except InputError:
        return
    assert package_of(name).isidentifier()
    assert package_of(name).isascii()
    assert class_of(name).isidentifier()
    assert distribution_of(name).removeprefix("spender-").replace("-", "_") == name
