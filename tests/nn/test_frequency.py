"""Tiles: convolution by way of their transforms equals convolution, and adjoints are adjoint."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spender_core.errors import InputError
from spender_core.nn.frequency import (
    TAPS_COST,
    KernelCache,
    Tile,
    analyse,
    analyse_adjoint,
    best_tile,
    kernel_products,
    kernel_products_adjoint,
    saved,
    transforms,
)


@st.composite
def tiles(draw: st.DrawFn) -> Tile:
    taps = draw(st.integers(1, 12))
    return Tile(taps, draw(st.integers(max(1, taps - 1), 40)))


def values(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@given(tile=tiles())
@settings(max_examples=60, deadline=None)
def test_products_between_transforms_are_a_convolution(tile: Tile) -> None:
    made = transforms(tile, torch.float64)
    w, x = values(tile.taps), values(tile.inputs, seed=1)
    assert made.analysis.shape == (tile.products, tile.inputs)
    found = made.synthesis @ ((made.kernel @ w) * (made.analysis @ x))
    torch.testing.assert_close(found, x.unfold(0, tile.taps, 1) @ w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tile", [Tile(11, 22), Tile(21, 48), Tile(11, 33)])
def test_float32_is_as_exact_as_a_transform(tile: Tile) -> None:
    w, x = values(tile.taps), values(200, tile.inputs, seed=1)
    made = transforms(tile, torch.float32)
    found = ((made.kernel @ w.float()) * (x.float() @ made.analysis.T)) @ made.synthesis.T
    expected = x.unfold(1, tile.taps, 1) @ w
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-6


@given(tile=tiles(), count=st.integers(1, 4), n_batch=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_adjoints(tile: Tile, count: int, n_batch: int) -> None:
    """<A x, g> = <x, A* g>, for inputs and for taps."""
    x = values(n_batch, count * tile.outputs + tile.taps - 1, 3)
    columns = analyse(x, tile, count)
    g = values(*columns.shape, seed=1)
    back = analyse_adjoint(g, tile, n_batch)
    assert float((back[:, x.shape[1] :]).abs().sum()) == 0
    inner = (x * back[:, : x.shape[1]]).sum()
    torch.testing.assert_close((columns * g).sum(), inner, rtol=1e-10, atol=1e-10)
    w = values(2, 3, tile.taps)
    products = kernel_products(w, tile)
    g = values(*products.shape, seed=2)
    inner = (w * kernel_products_adjoint(g, tile)).sum()
    torch.testing.assert_close((products * g).sum(), inner, rtol=1e-10, atol=1e-10)


def test_tiles_overlap_neighbours_only() -> None:
    with pytest.raises(InputError, match="at least 4 outputs, not 3"):
        Tile(5, 3)


@pytest.mark.parametrize(("pixels", "taps", "step"), [(1557, 11, 11), (142, 21, 1), (7, 5, 3)])
def test_the_best_tile_holds_whole_windows(pixels: int, taps: int, step: int) -> None:
    tile = best_tile(pixels, taps, step, 128, 256)
    assert tile.outputs % step == 0
    assert tile.taps == taps


def test_what_tiles_save() -> None:
    """Most of the work of published networks, and less than nothing of tiny ones."""
    large, tiny = best_tile(1557, 11, 11, 128, 256), best_tile(30, 5, 5, 2, 3)
    assert saved(1557, large, 128, 256, 32, kept=True) > 0.7 * 32 * 561e6
    assert saved(30, tiny, 2, 3, 1, kept=True) < 0


def test_taps_cost_once_what_is_not_kept() -> None:
    tile = best_tile(1557, 11, 11, 128, 256)
    costs = [
        saved(1557, tile, 128, 256, n, kept=True) - saved(1557, tile, 128, 256, n, kept=False)
        for n in (1, 64)
    ]
    assert costs[0] == costs[1] == TAPS_COST * tile.products * 128 * 256


def test_the_cache_follows_the_taps() -> None:
    cache, tile, w = KernelCache(), Tile(3, 6), torch.nn.Parameter(values(2, 2, 3))
    first = cache.products(w, tile)
    assert cache.products(w, tile) is first
    assert not first.requires_grad
    version = w._version
    w.data.mul_(2)  # tells nobody
    assert w._version == version
    torch.testing.assert_close(cache.products(w, tile), kernel_products(w.detach(), tile))
    for other, size in ((w.float(), tile), (w, Tile(3, 8))):
        torch.testing.assert_close(
            cache.products(other, size), kernel_products(other.detach(), size)
        )
    cache.products(w, tile)
    cache.clear()
    assert cache.products(w, tile) is not first
    for twin in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert len(pickle.dumps(twin)) < 200
        assert twin.products(w, tile) is not cache.products(w, tile)
