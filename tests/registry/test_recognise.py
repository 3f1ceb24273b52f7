"""An instrument is recognised although the loader of another one fails on its file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spender_core import registry
from spender_core.errors import FileError, MissingFileError

LOADERS = """\
from pathlib import Path

import numpy as np

from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Loader


class FirstByte(Loader):
    id_dtype = np.dtype([("ROW", "i8")])
    def __init__(self, byte):
        self.byte = byte
    def recognises(self, url):
        first = Path(url).read_bytes()[:1]
        return 1 // (first != b"!") and first == self.byte
    def load(self, url):
        raise NotImplementedError


class Faulty(FirstByte):
    def recognises(self, url):
        super().recognises(url)
        return {}["an odd file"]


class First(Instrument):
    name = "first"
    grid = Linear(4000.0, 10.0, 60)
    loader = Faulty(b"1")


class Second(First):
    name = "second"
    loader = FirstByte(b"2")
"""


@pytest.fixture
def both(
    tmp_path: Path, survey: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Install two instruments, the first of which fails on every file."""
    (tmp_path / "faulty_survey.py").write_text(LOADERS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    survey(first="faulty_survey:First", second="faulty_survey:Second")
    yield
    sys.modules.pop("faulty_survey", None)


def test_a_loader_that_fails_does_not_hide_the_right_one(both: Any, tmp_path: Path) -> None:
    (tmp_path / "two").write_bytes(b"2")
    assert registry.recognise(str(tmp_path / "two")).name == "second"


def test_if_none_knows_the_file_the_failure_is_told(both: Any, tmp_path: Path) -> None:
    (tmp_path / "three").write_bytes(b"3")
    with pytest.raises(FileError, match=r"three: .*KeyError: 'an odd file'"):
        registry.recognise(str(tmp_path / "three"))
    (tmp_path / "bang").write_bytes(b"!")
    with pytest.raises(FileError, match=r"bang: .*ZeroDivisionError"):
        registry.recognise(str(tmp_path / "bang"))


def test_an_absent_file_is_absent(both: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no file"):
        registry.recognise(str(tmp_path / "none"))
