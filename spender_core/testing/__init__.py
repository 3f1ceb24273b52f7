"""Contract tests for plugins: subclass them, override their fixtures, and run pytest.

A plain class is collected by pytest, and a fixture left out fails, so that nothing is
skipped in silence::

    from spender_core.testing import InstrumentContract, LoaderContract

    class TestMine(InstrumentContract, LoaderContract):
        @pytest.fixture
        def instrument(self):
            return Mine()

        @pytest.fixture
        def example(self, tmp_path):
            return write_files_of_mine(tmp_path)  # an Example

In place of `example`, a fixture `files` may return a list of files, of which nothing is known.
Names are imported when first used, so that `Example` and `Line` need neither pytest nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spender_core.testing.contracts import InstrumentContract as InstrumentContract
    from spender_core.testing.contracts import LoaderContract as LoaderContract
    from spender_core.testing.contracts import ModelContract as ModelContract
    from spender_core.testing.example import Example as Example
    from spender_core.testing.example import Line as Line
    from spender_core.testing.faults import ContractError as ContractError

_HOMES = {
    "ContractError": "faults",
    "Example": "example",
    "InstrumentContract": "contracts",
    "Line": "example",
    "LoaderContract": "contracts",
    "ModelContract": "contracts",
}

__all__ = [
    "ContractError",
    "Example",
    "InstrumentContract",
    "Line",
    "LoaderContract",
    "ModelContract",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'spender_core.testing' has no attribute {name!r}")
    return getattr(import_module(f"spender_core.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
