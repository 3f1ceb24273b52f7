"""Grids: exact nodes, hashes that stay, and what is refused."""

from __future__ import annotations

import pickle
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spender_core.errors import GridError, InputError
from spender_core.grid import Grid, Linear, Log, Table, as_grid

DESI = Linear(3600.0, 0.8, 7781)
SDSS = Log(3.578, 1e-4, 3921)
BOSS = Log(3.549, 1e-4, 4686)


def test_linear_nodes_are_the_decimal_ones() -> None:
    exact = np.array([float(Decimal("3600") + Decimal("0.8") * i) for i in range(DESI.size)])
    assert np.abs(DESI.wave - exact).max() <= np.spacing(9824.0)
    assert DESI.wave[0] == 3600.0
    assert DESI.wave[-1] == 9824.0


@pytest.mark.parametrize(("grid", "start"), [(SDSS, "3.578"), (BOSS, "3.549")])
def test_log_nodes_are_the_decimal_ones(grid: Log, start: str) -> None:
    pixels = [*range(0, grid.size, 97), grid.size - 1]
    with localcontext() as context:
        context.prec = 30
        exact = [float(Decimal(10) ** (Decimal(start) + Decimal("0.0001") * i)) for i in pixels]
    np.testing.assert_allclose(grid.wave[pixels], exact, rtol=4e-15)


def test_table_nodes_are_those_given() -> None:
    wave = np.array([4000.0, 4001.1, 4002.3000001, 9000.7])
    assert Table(wave).wave.tolist() == wave.tolist()
    assert Table(torch.tensor(wave)).wave.tolist() == wave.tolist()
    assert Table(wave.astype("f4")).wave.dtype == np.float64


def test_table_does_not_follow_its_source() -> None:
    wave = np.array([4000.0, 4001.0, 4002.0])
    grid = Table(wave)
    wave[0] = 1.0
    assert grid.wave[0] == 4000.0


@pytest.mark.parametrize("grid", [DESI, SDSS, Table([4000.0, 4001.0])])
def test_wavelengths_are_float64_and_read_only(grid: Grid) -> None:
    assert grid.wave.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        grid.wave[0] = 1.0


def test_hashes_stay_as_they_are() -> None:
    """Published models hold these hashes."""
    assert DESI.sha256 == "1a6f926af944282a4f802271fe7f45eea54fe20c69da4261524e416a83d15513"
    assert SDSS.sha256 == "c2cea2c522d30189010b582d4837e164878e6cf8db159aca0ea8334432c7e61d"
    assert BOSS.sha256 == "5cca0d652f18c15c36ef53cdeb9251d7c663f5311bf97ae95ab9beaf1c6db89a"


def test_different_grids_have_different_hashes() -> None:
    grids = [
        DESI,
        SDSS,
        BOSS,
        Linear(3600.0, 0.8, 7780),
        Linear(3600.0, 0.8000001, 7781),
        Linear(3600.1, 0.8, 7781),
        Log(3.578, 1e-4, 3920),
        Table(DESI.wave),
        Table([4000.0, 4001.0]),
        Table([4000.0, np.nextafter(4001.0, 5000.0)]),
    ]
    assert len({grid.sha256 for grid in grids}) == len(grids)


@pytest.mark.parametrize(
    "same",
    [Linear(3600, 0.8, 7781), Linear(np.float64(3600.0), np.float64(0.8), np.int64(7781))],
    ids=["integer", "numpy"],
)
def test_hash_does_not_depend_on_the_type_of_the_numbers(same: Linear) -> None:
    assert same.sha256 == DESI.sha256


def test_equality_is_that_of_the_definition() -> None:
    assert Log(3.578, 1e-4, 3921) == SDSS
    assert hash(Log(3.578, 1e-4, 3921)) == hash(SDSS)
    assert SDSS != BOSS
    assert SDSS != "sdss"
    assert pickle.loads(pickle.dumps(SDSS)) == SDSS
    assert Table([4000.0, 4001.0]) == Table([4000.0, 4001.0])


def test_length_is_the_number_of_nodes() -> None:
    for grid in (DESI, SDSS, Table([4000.0, 4001.0, 4003.0])):
        assert len(grid) == grid.size == len(grid.wave)


def test_edges_lie_between_the_nodes() -> None:
    assert Table([4000.0, 4002.0, 4006.0]).edges.tolist() == [3999.0, 4001.0, 4004.0, 4008.0]


@given(start=st.floats(500, 5000), steps=st.lists(st.floats(0.1, 10), min_size=1, max_size=30))
@settings(deadline=None, max_examples=40)
def test_every_pixel_holds_its_node(start: float, steps: list[float]) -> None:
    grid = Table(start + np.concatenate([[0.0], np.cumsum(steps)]))
    assert len(grid.edges) == grid.size + 1
    assert (grid.edges[:-1] < grid.wave).all()
    assert (grid.wave < grid.edges[1:]).all()


def test_pixel_offset_counts_in_pixels() -> None:
    assert DESI.pixel_offset(DESI.wave) == 0.0
    assert DESI.pixel_offset(DESI.wave + 0.2) == pytest.approx(0.25)
    assert DESI.pixel_offset(DESI.wave[:-1]) == float("inf")


def test_sdss_grid_of_spender_is_ours_in_float32() -> None:
    theirs = 10 ** torch.arange(3.578, 3.97, 0.0001)
    assert 0.002 < SDSS.pixel_offset(theirs.numpy()) < 0.0025


def test_boss_grid_of_spender_is_ours_in_float32() -> None:
    theirs = 10 ** torch.arange(3.549, 4.0175, 0.0001)
    assert 0.004 < BOSS.pixel_offset(theirs.numpy()) < 0.0045


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        ([4000.0, 4001.0, 4000.5], "pixel 1 is at 4001.0"),
        ([4000.0, 4000.0], "increase strictly"),
        ([4000.0, float("nan"), 4002.0], "finite"),
        ([4000.0, float("inf")], "finite"),
        ([0.0, 1.0], "positive"),
        ([-1.0, 1.0], "positive"),
        ([[4000.0, 4001.0]], r"shape \(1, 2\)"),
        ([4000.0], r"shape \(1,\)"),
    ],
)
def test_malformed_tables_are_refused(wave: list[float], message: str) -> None:
    with pytest.raises(GridError, match=message) as caught:
        Table(wave)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize("grid", [Linear(4000.0, -1.0, 10), Log(3.6, 0.0, 10), Linear(5.0, 1.0, 1)])
def test_malformed_definitions_are_refused(grid: Grid) -> None:
    with pytest.raises(GridError):
        _ = grid.wave


def test_as_grid_keeps_grids_and_makes_tables() -> None:
    assert as_grid(SDSS) is SDSS
    assert as_grid(range(3000, 3003)) == Table([3000.0, 3001.0, 3002.0])
