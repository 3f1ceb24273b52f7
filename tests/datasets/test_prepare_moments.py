"""At no moment may a dataset look like what it is not, nor an interruption lose a spectrum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from disk_states import interrupted_at, states, traced
from pixel_survey import Tiny, contents, write_survey

from spender_core.datasets.layout import SPLITS
from spender_core.datasets.prepare import prepare
from spender_core.datasets.reading import Dataset
from spender_core.datasets.shards import write_dataset
from spender_core.datasets.sourcing import digest_of, key_of, name_of
from spender_core.errors import InputError, SpenderError

MODULES = (
    "datasets/prepare.py",
    "datasets/sourcing.py",
    "datasets/shards.py",
    "datasets/stores.py",
    "datasets/manifest.py",
    "archives/writing.py",
)
FILES, ROWS = 9, 1400


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two chunks of files; the first shard is full in the second."""
    return write_survey(tmp_path_factory.mktemp("survey"), FILES, ROWS)


@pytest.fixture(scope="module")
def whole(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("whole")
    prepare(root, Tiny(), files)
    return shards(root)


def shards(root: Path) -> dict[str, bytes]:
    return {name: c for name, c in contents(root).items() if name.endswith(".parquet")}


def objects(root: Path) -> list[int] | None:
    """Return the objects of a dataset, or None where it is refused."""
    try:
        dataset = Dataset(root, Tiny())
        parts = [dataset.columns(s, ["ids"])["ids"]["OBJECT"] for s in SPLITS if dataset.rows(s)]
    except SpenderError:
        return None
    found: list[int] = sorted(np.concatenate(parts).tolist())
    return found


def objects_of(files: list[str]) -> list[int]:
    ids = Tiny().read(files).ids
    assert ids is not None
    found: list[int] = sorted(ids["OBJECT"].tolist())
    return found


def test_ctrl_c_at_any_line_loses_nothing(
    files: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    lines, expected = 0, objects_of(files)

    def count() -> None:
        nonlocal lines
        lines += 1

    with traced(MODULES, count):
        prepare(tmp_path / "counted", Tiny(), files, threads=1)
    stopped = 0
    for number, line in enumerate(np.linspace(1, lines, 20).astype(int).tolist()):
        root = tmp_path / str(number)
        stopped += interrupted_at(line, MODULES, lambda root=root: prepare(root, Tiny(), files))
        assert objects(root) in (None, expected)
        prepare(root, Tiny(), files)
        assert shards(root) == whole, line
    assert stopped > 15


def test_no_state_of_a_new_dataset_passes_as_another(
    files: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    found = states(root, tmp_path / "copies", MODULES, lambda: prepare(root, Tiny(), files))
    assert len(found) > 6
    expected = objects_of(files)
    for state in found:
        assert objects(state) in (None, expected)
        prepare(state, Tiny(), files)
        assert shards(state) == whole


def test_sources_of_a_chunk_that_is_not_noted_can_be_exchanged(
    files: list[str], tmp_path: Path
) -> None:
    """A run that is killed as a shard is full has noted none of its sources yet."""
    root, big = tmp_path / "root", write_survey(tmp_path / "survey", 14, 1700)
    expected = objects_of(big[8:])
    found = states(root, tmp_path / "copies", MODULES, lambda: prepare(root, Tiny(), big[:8]))
    accepted = 0
    for state in found:
        try:
            prepare(state, Tiny(), big[8:])
        except InputError:
            continue
        accepted += 1
        assert objects(state) == expected
        assert len(list(state.glob("data/[!.]*"))) == 3
    assert accepted > 2


def test_no_state_of_a_growing_dataset_passes_as_another(
    files: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    prepare(root, Tiny(), files[:4])
    found = states(root, tmp_path / "copies", MODULES, lambda: prepare(root, Tiny(), files))
    allowed = (None, objects_of(files[:4]), objects_of(files))
    assert len(found) > 5
    for state in found:
        assert objects(state) in allowed
        prepare(state, Tiny(), files)
        assert shards(state) == whole


def test_no_state_of_a_dataset_that_is_overwritten_passes_as_another(
    files: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    prepare(root, Tiny(), files)
    batch = Tiny().read(files[3:9])
    for number, call in enumerate(
        (
            lambda: prepare(root, Tiny(), files[5:], overwrite=True),
            lambda: write_dataset(str(root), [batch], Tiny(), overwrite=True),
        )
    ):
        before = objects(root)
        found = states(root, tmp_path / f"copies{number}", MODULES, call)
        allowed = (None, before, objects(root))
        assert allowed[1] != allowed[2]
        assert [objects(state) in allowed for state in found] == [True] * len(found)


def test_sources_are_told_by_all_of_their_url_but_the_password() -> None:
    one, two = "https://h/spectrum?plate=1", "https://h/spectrum?plate=2"
    assert name_of(one) == name_of(two)
    assert digest_of([key_of(one)]) != digest_of([key_of(two)])
    assert key_of("https://me:SECRET@h/a?b=c@d") == key_of("https://h/a?b=c@d")
    assert key_of("simplecache::s3://k:SECRET@h/a") == "simplecache::s3://h/a"
