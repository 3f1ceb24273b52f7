"""What the tests of archives share: servers that fail are asked again soon."""

from __future__ import annotations

import pytest

from spender_core.archives.remote import fetching


@pytest.fixture(autouse=True)
def real_pause(monkeypatch: pytest.MonkeyPatch) -> float:
    """Shorten the pauses between tries; gives the real one, seconds."""
    real = fetching.PAUSE
    monkeypatch.setattr(fetching, "PAUSE", 0.005)
    return real
