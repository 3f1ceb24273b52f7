"""What the tests of damaged files share: a folder of their own, and no network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import guard, mutations, targets
from fuzz.mutate_pt import CANARY
from fuzz.mutations import Case

Check = Callable[[Case], list[str]]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a temporary folder, without the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPENDER_OFFLINE", "1")


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Return a function that reads a case, and returns how the stages ended."""

    def read(case: Case) -> list[str]:
        (folder := tmp_path / f"{case.kind}-{case.seed}-{case.number}").mkdir()
        path = mutations.write(case, folder)
        with warnings.catch_warnings(), guard.within(guard.SLOW):
            warnings.simplefilter("ignore")
            ended = targets.run(case.kind, path)
        assert not (tmp_path / CANARY).exists(), f"{case} ran code"
        return ended

    return read
