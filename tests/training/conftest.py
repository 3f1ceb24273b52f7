"""What tests that train in processes of their own share: spectra, their starter, a whole training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from trainees import Trainees, write_data


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a recipe."""
    made = tmp_path_factory.mktemp("data")
    write_data(made)
    return made


@pytest.fixture(scope="session")
def trainees() -> Iterator[Trainees]:
    """Starts trainings."""
    with Trainees() as made:
        yield made


@pytest.fixture(scope="session")
def whole(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, trainees: Trainees
) -> tuple[Path, float]:
    """Output of a training that nothing disturbed, and the seconds that it took."""
    output = tmp_path_factory.mktemp("whole") / "out"
    return output, trainees.run(folder / "recipe.toml", output, folder, "quiet")
