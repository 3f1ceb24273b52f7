"""Contract tests for plugins: subclass them, override their fixtures, and run pytest.

A plain class is collected by pytest, and a fixture left out fails, so that nothing is
skipped in silence::

    from spender_core.testing import InstrumentContract, LoaderContract

    class TestMine(InstrumentContract, LoaderContract):
        @pytest.fixture
        def instrument(self):
            return Mine()

        @pytest.fixture
        def files(self, tmp_path):
            return [write_a_file_of_mine(tmp_path)]
"""

from spender_core.testing.contracts import InstrumentContract, LoaderContract, ModelContract

__all__ = ["InstrumentContract", "LoaderContract", "ModelContract"]
