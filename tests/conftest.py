"""What all tests share: a cache of their own, real data where it is, and plugins made up."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from servers import Hub
from states import state

from spender_core import registry
from spender_core.plugins.manager import Candidate, Discovery

SETTINGS = (
    "HF_ENDPOINT",
    "HF_TOKEN",
    "SPENDER_CACHE_SIZE",
    "SPENDER_CONNECTIONS",
    "SPENDER_MIRRORS",
    "SPENDER_OFFLINE",
    "SPENDER_ROOT_DESI",
    "SPENDER_ROOT_SDSS",
    "SPENDER_SHARED_CACHE",
    "SPENDER_TIMEOUT",
    "http_proxy",
    "HTTP_PROXY",
    "all_proxy",
    "ALL_PROXY",
)

Offer = Callable[[Iterable[Candidate]], Discovery]


@pytest.fixture(autouse=True)
def spender_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test away from the user's cache and settings."""
    home = tmp_path / "spender-home"
    monkeypatch.setenv("SPENDER_HOME", str(home))
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPENDER_CONFIG", os.devnull)
    return home


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server that stands in for the Hugging Face Hub, left after 3 s without progress."""
    server = Hub().start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("SPENDER_TIMEOUT", "3")
    yield server
    server.stop()


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


@pytest.fixture(scope="session")
def checkpoint() -> Callable[..., bytes]:
    """Return a function that makes a .pt file of spender with random weights."""

    @cache
    def make(filters: tuple[int, int, int] = (128, 256, 512), rest: int = 9780) -> bytes:
        """Make a file with the layout of the published desi_edr_galaxy."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            raw = state(
                filters=filters,
                sizes=(5, 11, 21),
                encoder=(128, 64, 32),
                decoder=(64, 256, 1024),
                latents=6,
                rest=rest,
            )
        tensors = {name: values / values.shape[-1] ** 0.5 for name, values in raw.items()}
        tensors["decoder.wave_rest"] = torch.linspace(2000.0, 9824.0, rest)
        tensors["encoder.instrument.wave_obs"] = torch.linspace(
            3600.0, 9824.0, 7781, dtype=torch.float64
        )
        buffer = io.BytesIO()
        torch.save({"model": [tensors], "losses": np.zeros((3, 2))}, buffer)
        return buffer.getvalue()

    return make


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
