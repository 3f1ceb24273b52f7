"""The compiled way to join cameras gives what the one of numpy does, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spender_desi import coadd
from spender_desi.coadd import GRID, Camera, join

from spender_core import native
from spender_core.errors import DamagedFileError

ODD = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, -3e38, 1e-6, 1.0000001e-6, -1.0, 1e30)
SPANS = {"B": (0, 2751), "R": (2700, 2326), "Z": (4900, 2881)}

compiled = pytest.mark.skipif(native.library() is None, reason="the kernels are not compiled")


def camera(
    first: int, pixels: int, rows: int, rng: np.random.Generator, order: str, odd: float
) -> Camera:
    """Return a camera with a share of odd values."""
    flux, ivar = (rng.standard_normal((rows, pixels)) for _ in range(2))
    ivar = np.abs(ivar)
    with np.errstate(all="ignore"):
        for values in (flux, ivar):
            there = rng.random(values.shape) < odd
            values[there] = rng.choice(ODD, size=int(there.sum()))
        stored = [values.astype(f"{order}f4") for values in (flux, ivar)]
    mask = (rng.random((rows, pixels)) < 0.1) * rng.integers(0, 256, (rows, pixels))
    return Camera(GRID.wave[first : first + pixels], *stored, mask.astype(np.uint8))


def both(cameras: Mapping[str, Camera]) -> list[tuple[Any, Any, Any]]:
    """Return flux, ivar and broken rows as the kernel and as numpy give them."""
    rows = len(next(iter(cameras.values())).flux)
    made = []
    for way in (join, coadd._joined):
        flux, ivar = (np.full((rows, GRID.size), np.nan, dtype=np.float32) for _ in range(2))
        made.append((flux, ivar, way(cameras, flux, ivar)))
    return made


def assert_same(cameras: Mapping[str, Camera]) -> None:
    ours, reference = both(cameras)
    for found, expected in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert np.isfinite(ours[0]).all()
    assert (ours[1] >= 0).all()


@compiled
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("odd", [0.0, 1e-4, 0.2])
@pytest.mark.parametrize("rows", [1, 37])
def test_the_kernel_gives_what_numpy_gives(order: str, odd: float, rows: int) -> None:
    rng = np.random.default_rng(rows)
    assert_same({c: camera(*at, rows, rng, order, odd) for c, at in SPANS.items()})


@compiled
@settings(max_examples=25, deadline=None)
@given(
    spans=st.lists(st.tuples(st.integers(0, 7000), st.integers(1, 700)), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_wherever_cameras_are(spans: list[tuple[int, int]], seed: int) -> None:
    """Apart, side by side, one within another, three at once: pixels that none sees are 0."""
    rng = np.random.default_rng(seed)
    assert_same({str(k): camera(*at, 2, rng, ">", 0.1) for k, at in enumerate(spans)})


@compiled
def test_cameras_of_other_types_go_by_numpy() -> None:
    rng = np.random.default_rng(0)
    cameras = {c: camera(*at, 2, rng, ">", 0.1) for c, at in SPANS.items()}
    cameras["R"] = camera(*SPANS["R"], 2, rng, "<", 0.1)
    assert_same(cameras)


@compiled
def test_a_part_of_the_rows_of_large_arrays() -> None:
    rng = np.random.default_rng(0)
    cameras = {c: camera(*at, 8, rng, ">", 0.01) for c, at in SPANS.items()}
    flux, ivar, broken = both(cameras)[0]
    part = {name: whole[2:5] for name, whole in cameras.items()}
    into = [np.zeros((9, GRID.size), dtype=np.float32) for _ in range(2)]
    there = join(part, into[0][4:7], into[1][4:7])
    np.testing.assert_array_equal(into[0][4:7], flux[2:5])
    np.testing.assert_array_equal(into[1][4:7], ivar[2:5])
    np.testing.assert_array_equal(there, broken[2:5])
    assert not into[0][:4].any()
    assert not into[0][7:].any()


def test_wavelengths_off_the_grid_are_refused() -> None:
    rng = np.random.default_rng(0)
    moved = camera(0, 100, 1, rng, ">", 0)
    off = Camera(moved.wave + 0.4, moved.flux, moved.ivar, moved.mask)
    into = np.zeros((2, 1, GRID.size), dtype=np.float32)
    with pytest.raises(DamagedFileError, match="not on the DESI grid"):
        join({"B": off}, into[0], into[1])
