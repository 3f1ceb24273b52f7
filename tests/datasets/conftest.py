"""A dataset that several modules read."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_datasets import COUNT, Tiny, written

from spender_core.batch import SpectrumBatch
from spender_core.datasets.reading import Dataset


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SpectrumBatch]:
    """Root of a dataset with two shards to train on, 1,024 to a row group; and what was written."""
    pytest.importorskip("pyarrow")
    return written(tmp_path_factory.mktemp("dataset"), COUNT)


@pytest.fixture(scope="session")
def dataset(made: tuple[Path, SpectrumBatch]) -> Dataset:
    return Dataset(made[0], Tiny())
