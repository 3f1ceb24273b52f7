"""Streams hand out every spectrum once an epoch, in an order that can be resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_datasets import COUNT, Tiny, epoch_of, ids, written
from torch.utils.data import DataLoader

from spender_core.batch import Flag, SpectrumBatch
from spender_core.datasets.reading import Dataset
from spender_core.datasets.stream import Selection, Stream
from spender_core.errors import InputError
from spender_core.line_spread import BandedLSF, GaussianLSF

pytest.importorskip("pyarrow")

# -- what is in an epoch --------------------------------------------------------------------


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batch_size=st.integers(64, 3000),
    world=st.integers(1, 4),
    window=st.integers(1, 12),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
    prefetch=st.sampled_from([0, 2]),
)
def test_every_spectrum_comes_once_over_all_ranks(
    dataset: Dataset,
    batch_size: int,
    world: int,
    window: int,
    shuffle: bool,
    epoch: int,
    prefetch: int,
) -> None:
    everything = dataset.columns("train", ["id"])["id"]
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "window": window,
        "shuffle": shuffle,
        "selection": Selection(z_known=False),
    }
    ranks = [
        epoch_of(Stream(dataset, rank=rank, world=world, prefetch=prefetch, **common), epoch)
        for rank in range(world)
    ]
    assert sorted(number for rank in ranks for batch in rank for number in batch) == sorted(
        everything
    )
    # and the batches of all ranks together are those of one
    joined = [sum(parts, []) for parts in zip(*ranks, strict=True)]  # noqa: RUF017  a few ranks
    assert joined == epoch_of(Stream(dataset, prefetch=0, **common), epoch)


def test_values_stay_with_their_ids(dataset: Dataset, made: tuple[Path, SpectrumBatch]) -> None:
    batch = made[1]
    for found in Stream(dataset, batch_size=700, selection=Selection(z_known=False)).epoch(1):
        expected = batch[ids(found)]
        assert found.instrument == "tiny"
        for name in ("flux", "ivar", "zerr", "norm", "flags", "z"):
            ours, theirs = (getattr(b, name).float() for b in (found, expected))
            assert torch.allclose(ours, theirs, 0, 0, equal_nan=True), name


def test_batches_own_their_memory(dataset: Dataset) -> None:
    """What is done to a batch in place shows in no other."""
    stream = Stream(dataset, batch_size=2000, prefetch=2)
    expected = [batch.flux.clone() for batch in stream.epoch(0)]
    for batch, values in zip(stream.epoch(0), expected, strict=True):
        assert torch.equal(batch.flux, values)
        batch.flux.zero_()


def test_seed_and_epoch_make_the_order(dataset: Dataset) -> None:
    stream = Stream(dataset, batch_size=512, seed=5, prefetch=0)
    first = epoch_of(stream, 0)
    assert epoch_of(Stream(dataset, batch_size=512, seed=5), 0) == first
    assert epoch_of(stream, 1) != first
    assert epoch_of(Stream(dataset, batch_size=512, seed=6), 0) != first


def test_a_batch_mixes_both_shards(dataset: Dataset) -> None:
    """10,500 spectra are in two shards; their ids tell in which."""
    shards = dataset.columns("train", ["id"])["id"][8192:]
    stream = Stream(dataset, batch_size=500, window=20)
    share = [float(np.isin(batch, shards).mean()) for batch in epoch_of(stream)]
    expected = len(shards) / dataset.rows("train")
    assert 0.1 < expected < 0.4
    sigma = np.sqrt(expected * (1 - expected) / 500)
    assert max(abs(np.array(share) - expected)) < 4.5 * sigma


def test_any_batch_can_be_had_alone(dataset: Dataset) -> None:
    stream = Stream(dataset, batch_size=900, window=3, rank=1, world=2)
    inorder = epoch_of(stream, 2)
    for number in (len(stream) - 1, 0, 4):
        assert ids(stream.batch(2, number)) == inorder[number]
    assert epoch_of(stream, 2, start=5) == inorder[5:]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_of_a_data_loader_hand_out_the_same(dataset: Dataset, workers: int) -> None:
    stream = Stream(dataset, batch_size=3000, window=3, prefetch=0)
    expected = epoch_of(stream, 0) + epoch_of(stream, 1)
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    batches = iter(loader)
    assert [ids(batch) for batch in islice(batches, len(expected))] == expected
    del batches


# -- selection ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(z_known=False),
        Selection(z_range=(0.25, 0.5)),
        Selection(reject=Flag.SPARSE, z_known=False),
        Selection(z_range=(0.0, 0.1), reject=Flag.SPARSE | Flag.EMPTY),
    ],
)
def test_a_selection_keeps_what_it_says(
    dataset: Dataset, made: tuple[Path, SpectrumBatch], selection: Selection
) -> None:
    batch = made[1]
    z, flags = batch.z.float().double(), batch.flags
    keep = torch.ones(len(batch), dtype=torch.bool)
    if selection.z_known:
        keep &= ~z.isnan()
    if selection.z_range:
        keep &= (z >= selection.z_range[0]) & (z <= selection.z_range[1])
    keep &= (flags & int(selection.reject)) == 0
    everything = dataset.columns("train", ["id"])["id"]
    expected = [int(number) for number in everything if keep[number]]
    stream = Stream(dataset, batch_size=500, selection=selection)
    assert stream.spectra == len(expected)
    assert sorted(number for batch in epoch_of(stream) for number in batch) == sorted(expected)


@pytest.mark.parametrize("kind", [GaussianLSF, BandedLSF])
def test_line_spread_functions_come_along(tmp_path: Path, kind: type) -> None:
    root, batch = written(tmp_path, 300, lsf="gaussian" if kind is GaussianLSF else "banded")
    name = "sigma" if kind is GaussianLSF else "data"
    for found in Stream(Dataset(root, Tiny()), batch_size=64, lsf=True).epoch(0):
        assert type(found.lsf) is kind
        assert batch.lsf is not None
        expected = batch.lsf[np.array(ids(found))]
        assert torch.equal(getattr(found.lsf, name), getattr(expected, name))


# -- where it stands ------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1, 7, 23, 40])
def test_a_stream_goes_on_where_another_stopped(dataset: Dataset, taken: int) -> None:
    arguments: dict[str, Any] = {"batch_size": 512, "window": 4, "seed": 3}
    expected = [ids(batch) for batch in islice(Stream(dataset, **arguments), 50)]
    first = Stream(dataset, **arguments)
    batches = iter(first)
    assert [ids(batch) for batch in islice(batches, taken)] == expected[:taken]
    state = json.loads(json.dumps(first.state_dict()))
    assert divmod(taken, len(first)) == (state["epoch"], state["batch"])
    second = Stream(dataset, **arguments)
    second.load_state_dict(state)
    assert [ids(b) for b in islice(second, 50 - taken)] == expected[taken:]
    # what was only prefetched does not count
    assert divmod(50, len(second)) == second.position


GO_ON = """
import json, sys
from itertools import islice
from small_datasets import Tiny
from spender_core.datasets.reading import Dataset
from spender_core.datasets.stream import Stream

stream = Stream(Dataset(sys.argv[1], Tiny()), batch_size=512, seed=3)
stream.load_state_dict(json.loads(sys.argv[2]))
print(json.dumps([batch.ids["ID"].tolist() for batch in islice(stream, 12)]))
"""


def test_another_process_goes_on(dataset: Dataset) -> None:
    """It ends while the stream is open, and its threads do not keep it."""
    stream = Stream(dataset, batch_size=512, seed=3)
    batches = iter(stream)
    for _ in range(17):
        next(batches)
    done = subprocess.run(
        [sys.executable, "-c", GO_ON, dataset.root, json.dumps(stream.state_dict())],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [ids(batch) for batch in islice(batches, 12)]


def test_the_number_of_ranks_may_change(dataset: Dataset) -> None:
    one = Stream(dataset, batch_size=600)
    for _ in islice(one, 5):
        pass
    two = [Stream(dataset, batch_size=600, rank=rank, world=2) for rank in range(2)]
    parts = []
    for stream in two:
        stream.load_state_dict(one.state_dict())
        parts.append(ids(next(iter(stream))))
    assert parts[0] + parts[1] == ids(next(iter(one)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 4}, "seed 4 instead of 0"),
        ({"batch_size": 300}, "batch_size 300 instead of 512"),
        ({"window": 2}, "window 2 instead of 8"),
        ({"split": "test"}, "split test instead of train"),
        ({"shuffle": False}, "shuffle False instead of True"),
        ({"selection": Selection(z_range=(0, 0.5))}, "selection z from 0 to 0.5"),
    ],
)
def test_a_position_in_other_batches_is_refused(
    dataset: Dataset, changes: dict[str, Any], told: str
) -> None:
    state = Stream(dataset, batch_size=512).state_dict()
    other = Stream(dataset, **{"batch_size": 512, **changes})
    with pytest.raises(InputError, match=told):
        other.load_state_dict(state)


def test_a_position_in_another_dataset_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    root, _ = written(tmp_path, COUNT, first=7)
    state = Stream(dataset, batch_size=512).state_dict()
    with pytest.raises(InputError, match="not the one that this run began with"):
        Stream(Dataset(root, Tiny()), batch_size=512).load_state_dict(state)


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (0, 10**6)])
def test_a_position_that_is_none_is_refused(dataset: Dataset, place: tuple[int, int]) -> None:
    stream = Stream(dataset, batch_size=512)
    state = {**stream.state_dict(), "epoch": place[0], "batch": place[1]}
    with pytest.raises(InputError, match="no batch"):
        stream.load_state_dict(state)


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 8, "rank": 2, "world": 2}, "rank must be from 0 to 1"),
        ({"batch_size": 8, "prefetch": -1}, "prefetch must be >= 0"),
        ({"batch_size": 8, "lsf": True}, "no line spread functions"),
        ({"batch_size": 3, "world": 4}, "shared out among 4 ranks"),
        ({"batch_size": 8, "split": "valid"}, "no split 'valid'"),
        ({"batch_size": 8, "selection": Selection((5.0, 6.0))}, "none of .* passes the selection"),
    ],
)
def test_what_cannot_be_streamed_is_refused(
    dataset: Dataset, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        Stream(dataset, **arguments)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    root, _ = written(tmp_path, 1)
    dataset = Dataset(root, Tiny())
    absent = next(split for split in ("train", "test") if not dataset.rows(split))
    with pytest.raises(InputError, match=f"split '{absent}' of .* has no spectra"):
        Stream(dataset, absent, batch_size=8)


def test_redshifts_out_of_order_are_refused() -> None:
    with pytest.raises(InputError, match="in order"):
        Selection((0.5, 0.1))
