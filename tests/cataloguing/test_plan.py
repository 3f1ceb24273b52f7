"""Plans: the same for the same selection, in whatever order it is given, and no other."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spender_core import cataloguing
from spender_core.cataloguing.cluster import connected
from spender_core.cataloguing.plan import How, Weights, differences
from spender_core.cataloguing.selecting import _whole_files
from spender_core.cataloguing.worker import place_of
from spender_core.errors import InputError

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")

HOW = How("sdss", "grid", Weights("sdss_demo", "sdss_demo", "ab" * 32))
IDS = np.array(
    [(plate, 52000, fibre) for plate in range(260, 272) for fibre in range(1, 8)],
    dtype=[("PLATE", "i8"), ("MJD", "i8"), ("FIBERID", "i8")],
)


def numbers(plan: cataloguing.Plan) -> list[Any]:
    return [one for part in plan.parts for one in (part.tolist() if plan.kind == "ids" else part)]


def test_the_order_of_files_and_repeated_ones_change_nothing() -> None:
    files = [f"/data/spec-{number}.fits" for number in range(100)]
    plan = cataloguing.of_files(HOW, files, 7)
    shuffled = random.Random(1).sample(files, len(files))
    again = cataloguing.of_files(HOW, [*shuffled, *files[:9], "/data/./spec-1.fits"], 7)
    assert again.hash == plan.hash
    assert numbers(again) == sorted(files) == numbers(plan)
    assert [len(part) for part in plan.parts] == [7] * 14 + [2]


def test_a_user_in_a_url_is_no_other_source() -> None:
    plain = cataloguing.of_files(HOW, ["https://host/a.fits", "https://host/b.fits"])
    signed = cataloguing.of_files(HOW, ["https://me:key@host/b.fits", "https://host/a.fits"])
    assert signed.hash == plain.hash
    assert "key" not in str(signed.told)


def test_anything_that_changes_results_changes_the_plan() -> None:
    files = ["/a.fits", "/b.fits", "/c.fits"]
    others = [
        replace(HOW, refine=1),
        replace(HOW, everything=True),
        replace(HOW, redshift=True),
        replace(HOW, grid="another"),
        replace(HOW, model=replace(HOW.model, sha256="cd" * 32)),
        replace(HOW, flow=HOW.model),
    ]
    plans = [cataloguing.of_files(how, files) for how in (HOW, *others)]
    plans += [cataloguing.of_files(HOW, files[:2]), cataloguing.of_files(HOW, files, 2)]
    assert len({plan.hash for plan in plans}) == len(plans)
    for plan in plans[1:]:
        assert differences(plans[0].told, plan.told)


def test_where_a_model_lies_and_how_it_is_called_change_nothing() -> None:
    files = ["/a.fits"]
    moved = replace(HOW, model=replace(HOW.model, source="/there/m.safetensors", name="mine"))
    assert cataloguing.of_files(moved, files).hash == cataloguing.of_files(HOW, files).hash


def test_ids_come_once_in_any_order() -> None:
    plan = cataloguing.of_ids(HOW, IDS, 10)
    mixed = np.concatenate([IDS, IDS[:5]])
    np.random.default_rng(1).shuffle(mixed)
    again = cataloguing.of_ids(HOW, mixed, 10)
    assert again.hash == plan.hash
    assert Counter(numbers(plan)) == Counter(IDS.tolist())
    assert all(len(part) >= 10 for part in plan.parts[:-1])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 9))
@settings(deadline=None, max_examples=50)
def test_no_file_is_cut_in_two(lengths: list[int], size: int) -> None:
    files = [f"{place:02d}" for place, length in enumerate(lengths) for _ in range(length + 1)]
    ends = list(_whole_files(files, size))
    assert [row for first, last in ends for row in range(first, last)] == list(range(len(files)))
    assert all(last - first >= size for first, last in ends[:-1])
    held = [file for first, last in ends for file in set(files[first:last])]
    assert len(held) == len(set(held))


@pytest.mark.parametrize("files", [[], [""]])
def test_nothing_is_no_plan(files: list[str]) -> None:
    with pytest.raises(InputError, match=r"nothing to measure|is empty"):
        cataloguing.of_files(HOW, files)


def test_a_folder_of_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, and no dataset"):
        cataloguing.of_files(HOW, [str(tmp_path)])


@pytest.mark.parametrize(
    ("name", "place"), [("3", 3), ("gpu-node-12", 12), ("SLURMCluster-7-1", 1), ("tcp", 0)]
)
def test_a_worker_takes_the_gpu_of_its_number(name: str, place: int) -> None:
    assert place_of(name) == place


def test_an_address_that_is_none_is_told_at_once() -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    with pytest.raises(InputError, match="'nonsense' is no address"), connected(None, "nonsense"):
        pass
