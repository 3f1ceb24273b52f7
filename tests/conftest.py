"""What all tests share: a cache of their own, real data where it is, and plugins made up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from spender_core import registry
from spender_core.plugins.manager import Candidate, Discovery

Offer = Callable[[Iterable[Candidate]], Discovery]


@pytest.fixture(autouse=True)
def spender_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test away from the user's cache and settings."""
    home = tmp_path / "spender-home"
    monkeypatch.setenv("SPENDER_HOME", str(home))
    for name in ("HF_ENDPOINT", "SPENDER_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draw the same random numbers in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real survey files, for the tests that read them."""
    folder = os.environ.get("SPENDER_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: SPENDER_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Offer]:
    """Make the registry find the plugins given, and no others."""

    def install(candidates: Iterable[Candidate]) -> Discovery:
        found = Discovery(candidates)
        monkeypatch.setattr(registry, "discovery", lambda: found)
        registry.instrument.cache_clear()
        return found

    yield install
    registry.instrument.cache_clear()
