"""The contract tests of spender, on a file of each layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from spender_core import Instrument, registry
from spender_core.testing import Example, InstrumentContract, LoaderContract

from spender_lamost.example import write_example
from spender_lamost.instrument import LAMOST


class TestLamost(InstrumentContract, LoaderContract):
    """What holds for all instruments, inherited (`pytest -v` names each rule)."""

    @pytest.fixture
    def instrument(self) -> Instrument:
        """Return the instrument under test."""
        return LAMOST()

    @pytest.fixture
    def example(self, tmp_path: Path) -> Example:
        """Return files for it to read, and what is true of them."""
        return write_example(tmp_path)

    def test_spender_finds_the_instrument(self) -> None:
        """Once the package is installed, the instrument is known by its name."""
        assert isinstance(registry.instrument("lamost"), LAMOST)
