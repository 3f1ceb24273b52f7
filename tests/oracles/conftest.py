"""Fixtures of the oracle tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real spectra and weights, or skip where there is none."""
    folder = os.environ.get("SPENDER_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: SPENDER_TEST_DATA is not set")
    path = Path(folder)
    assert path.is_dir(), f"SPENDER_TEST_DATA={folder} is not a folder"
    return path


@pytest.fixture
def record_deviation(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Return a function that notes a figure in the report of `--junitxml`."""

    def record(name: str, value: float) -> None:
        request.node.user_properties.append((name, value))

    return record
