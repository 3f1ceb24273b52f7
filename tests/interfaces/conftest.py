"""An instrument that tests may change as they like."""

from __future__ import annotations

from typing import Any

import pytest

from spender_core.grid import Linear
from spender_core.interfaces import Instrument

GRID = Linear(5000.0, 2.0, 500)


class Mine(Instrument):
    name = "mine"
    grid = GRID
    loader: Any = None
    mask = (GRID.wave > 5990) & (GRID.wave < 5998)


@pytest.fixture
def mine() -> Instrument:
    """Return an instrument of 500 pixels with a mask, without a loader."""
    return Mine()
