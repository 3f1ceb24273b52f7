"""Augmentation: its distributions, what it keeps, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.datasets import augment as module
from spender_core.datasets.augment import (
    Augmentation,
    CappedRedshift,
    UniformRedshift,
    add_noise,
    at_redshift,
    augment,
    augment_spectra,
    sparse_pixels,
)
from spender_core.errors import InputError, RedshiftError
from spender_core.grid import Linear, Log
from spender_core.interfaces import Instrument

STILL = Augmentation(redshifts=None, noise=0)


class Made(Instrument):
    name = "made"
    grid = Linear(4000.0, 2.0, 900)
    loader = None  # type: ignore[assignment]


WAVE = torch.tensor(Made.grid.wave)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 40) -> SpectrumBatch:
    flux = 2 + torch.randn(n, len(WAVE))
    ivar = 0.5 + torch.rand(n, len(WAVE))
    ivar[:, 300:330] = 0
    ids = np.array([(i,) for i in range(n)], dtype=[("TARGETID", "i8")])
    z = 0.4 * torch.rand(n, dtype=torch.float64)
    norm = 1 + torch.rand(n)
    return SpectrumBatch(flux, ivar, z=z, zerr=z / 100, norm=norm, ids=ids, instrument="made")


def test_what_is_kept_and_what_changes() -> None:
    given_batch = batch()
    copy = given_batch.flux.clone(), given_batch.ivar.clone(), given_batch.z.clone()
    new = augment(given_batch, Made(), generator(), Augmentation(mask=0.05))
    assert torch.equal(given_batch.flux, copy[0])
    assert torch.equal(given_batch.ivar, copy[1])
    assert torch.equal(given_batch.z, copy[2])
    assert new.ids is not None
    assert new.ids.tolist() == given_batch.ids.tolist()  # type: ignore[union-attr]
    for name in ("norm", "flags", "zerr"):
        assert torch.equal(getattr(new, name), getattr(given_batch, name))
    assert new.instrument == "made"
    assert new.flux.dtype == new.ivar.dtype == torch.float32
    assert new.z.dtype == torch.float64
    assert bool(((new.z >= 0) & (new.z <= 0.8)).all())
    assert not torch.equal(new.flux, given_batch.flux)


def test_a_seed_repeats_it_and_another_does_not() -> None:
    new, again, other = (augment(batch(), Made(), generator(seed)) for seed in (1, 1, 2))
    # the batches are drawn anew, so only redshifts and hits can agree
    assert torch.equal(new.z, again.z)
    assert not torch.equal(new.z, other.z)
    same = batch()
    a, b = (augment(same, Made(), generator(3)) for _ in range(2))
    assert torch.equal(a.flux, b.flux)
    assert torch.equal(a.ivar, b.ivar)


def test_the_same_redshift_changes_nothing_inside() -> None:
    given_batch = batch()
    rule = Augmentation(redshifts=lambda z, _: z, noise=0)
    new = augment(given_batch, Made(), generator(), rule)
    inside = slice(1, -1)  # the ends of the grid count as unobserved
    torch.testing.assert_close(new.flux[:, inside], given_batch.flux[:, inside])
    torch.testing.assert_close(new.ivar[:, inside], given_batch.ivar[:, inside])
    assert torch.equal(new.z, given_batch.z)


def test_lines_move_with_the_redshift() -> None:
    """A line of restframe wavelength 3500 is found at 3500 (1 + z), before and after."""
    z, z_new = torch.tensor([0.2, 0.4]).double(), torch.tensor([0.5, 0.25]).double()
    centre = 3500 * (1 + z[:, None])
    flux = torch.exp(-0.5 * ((WAVE - centre) / 20) ** 2)
    moved, _, valid = at_redshift(flux, torch.ones_like(flux), WAVE, z, z_new)
    found = (moved * WAVE).sum(dim=1) / moved.sum(dim=1)
    torch.testing.assert_close(found, 3500 * (1 + z_new), rtol=1e-6, atol=0)
    assert bool((moved.amax(dim=1) > 0.99).all())
    reached = WAVE * ((1 + z) / (1 + z_new))[:, None]
    assert torch.equal(valid, (reached > WAVE[0]) & (reached < WAVE[-1]))


def test_a_shift_on_a_log_grid_is_a_shift_of_pixels() -> None:
    wave = torch.tensor(Log(3.6, 1e-4, 500).wave)
    flux = torch.randn(2, 500, dtype=torch.float64)
    step = torch.tensor([10 ** (7e-4) - 1, 10 ** (-7e-4) - 1], dtype=torch.float64)
    moved, _, _ = at_redshift(flux, flux.square(), wave, torch.zeros(2), step)
    torch.testing.assert_close(moved[0, 10:-10], flux[0, 3:-17], rtol=0, atol=1e-7)
    torch.testing.assert_close(moved[1, 10:-10], flux[1, 17:-3], rtol=0, atol=1e-7)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_pieces_of_a_batch_do_not_matter(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    given_batch = batch()
    rule = Augmentation(redshifts=UniformRedshift(), noise=0, mask=0.1)
    whole = augment(given_batch, Made(), generator(), rule)
    monkeypatch.setattr(module, "ROWS", rows)
    pieces = augment(given_batch, Made(), generator(), rule)
    assert torch.equal(whole.flux, pieces.flux)
    assert torch.equal(whole.ivar, pieces.ivar)
    noisy = augment(given_batch, Made(), generator(), Augmentation(redshifts=None))
    share = (noisy.flux != given_batch.flux).double().mean(dim=1)
    assert bool(((share > 0.005) & (share < 0.15)).all())


@settings(max_examples=60, deadline=None)
@given(total=st.integers(0, 5000), ratio=st.floats(0, 1), seed=st.integers(0, 1000))
def test_sparse_pixels_are_in_order_and_inside(total: int, ratio: float, seed: int) -> None:
    hits = sparse_pixels(total, ratio, generator(seed))
    assert hits.dtype == torch.int64
    assert bool((hits.diff() > 0).all())
    if len(hits):
        assert hits[0] >= 0
        assert hits[-1] < total
    if ratio == 1:
        assert len(hits) == total
    if ratio == 0:
        assert len(hits) == 0


@pytest.mark.parametrize("ratio", [0.001, 0.05, 0.5, 0.9])
def test_sparse_pixels_are_independent_draws(ratio: float) -> None:
    """Their number, each pixel's frequency, and neighbours have the mean of a binomial."""
    total, runs = 400, 5000
    hit = torch.zeros(runs, total, dtype=torch.float64)
    for seed in range(runs):
        hit[seed, sparse_pixels(total, ratio, generator(seed))] = 1
    error = (ratio * (1 - ratio)) ** 0.5
    assert abs(hit.mean() - ratio) < 5 * error / (runs * total) ** 0.5
    assert float((hit.mean(dim=0) - ratio).abs().max()) < 5 * error / runs**0.5
    assert hit.sum(dim=1).var() == pytest.approx(total * error**2, rel=5 * (2 / runs) ** 0.5)
    together = (hit[:, 1:] * hit[:, :-1]).mean()
    assert together == pytest.approx(ratio**2, abs=7 * ratio / (runs * total) ** 0.5)


def test_more_pixels_are_drawn_where_the_first_did_not_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module.math, "ceil", lambda _: 3)
    hits = sparse_pixels(10_000, 0.05, generator())
    assert len(hits) == pytest.approx(500, abs=120)
    assert hits[-1] > 9_500


def test_noise_has_its_amplitude_and_its_variance_is_added() -> None:
    flux = torch.ones(60, len(WAVE))
    flux[:, 5] = torch.linspace(2, 8, 60)  # the maximum
    ivar = torch.full_like(flux, 4.0)
    ivar[:, 100:200] = 0
    z = torch.zeros(60, dtype=torch.float64)
    settings_ = Augmentation(redshifts=None, noise=0.3, amplitude=0.5)
    new_flux, new_ivar, _ = augment_spectra(flux, ivar, z, WAVE, generator(), settings_)
    noise = new_flux - flux
    hit = noise != 0
    n = hit.numel()
    assert hit.double().mean() == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / n) ** 0.5)
    unit = (noise / (0.5 * flux.amax(dim=1, keepdim=True)))[hit].double()
    assert unit.mean() == pytest.approx(0, abs=5 * (1 / (0.3 * n)) ** 0.5)
    assert unit.var() == pytest.approx(1, abs=5 * (2 / (0.3 * n)) ** 0.5)
    assert (unit**4).mean() == pytest.approx(3, abs=0.3)
    expected = torch.where(ivar > 0, 1 / (1 / ivar.clamp(min=1e-9) + noise**2), 0)
    torch.testing.assert_close(new_ivar, expected, rtol=1e-4, atol=1e-7)
    assert not new_ivar[:, 100:200].any()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_added_as_written_down(
    monkeypatch: pytest.MonkeyPatch, compiled: bool, dtype: torch.dtype
) -> None:
    if not compiled:
        monkeypatch.setattr(module.native, "library", lambda: None)
    elif module.native.library() is None:
        pytest.skip("no kernels compiled")
    torch.manual_seed(3)
    flux, ivar = torch.rand(2, 7, 50, dtype=dtype)
    ivar[2, 10:30] = 0
    valid, sigma = torch.rand(7, 50) > 0.3, 1 + torch.rand(7, dtype=dtype)
    hits = sparse_pixels(350, 0.4, generator())
    unit = torch.randn(len(hits), dtype=dtype)
    noise = torch.zeros(350, dtype=torch.float64)
    noise[hits] = (unit * sigma[hits // 50]).double()
    noise = noise.view(7, 50) * valid
    wanted = flux.double() + noise, 1 / (1 / ivar.double() + noise**2)
    add_noise(flux, ivar, hits, unit, sigma, valid)
    assert torch.allclose(flux.double(), wanted[0], rtol=1e-6, atol=0)
    assert torch.allclose(ivar.double(), wanted[1], rtol=1e-6, atol=0)


def test_noise_stays_in_its_pixels_and_in_its_spectra() -> None:
    flux, ivar = torch.zeros(3, 4), torch.ones(3, 4)
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[2, 3] = False
    hits = torch.tensor([0, 3, 8, 11])
    sigma = torch.tensor([2.0, 5.0, 10.0])
    add_noise(flux, ivar, hits, torch.tensor([1.0, -1.0, 0.5, 7.0]), sigma, valid)
    assert flux.tolist() == [[2, 0, 0, -2], [0, 0, 0, 0], [5, 0, 0, 0]]
    expected = torch.ones(3, 4)
    expected[0, 0] = expected[0, 3] = 1 / 5
    expected[2, 0] = 1 / 26
    torch.testing.assert_close(ivar, expected)


def test_nothing_beyond_the_observed_range() -> None:
    """Not even noise: flux and inverse variance are 0 there."""
    given_batch = batch()
    new = augment(given_batch, Made(), generator(), Augmentation(noise=1.0))
    reached = WAVE * ((1 + given_batch.z) / (1 + new.z))[:, None]
    outside = (reached <= WAVE[0]) | (reached >= WAVE[-1])
    assert outside.any()
    assert not new.flux[outside].any()
    assert not new.ivar[outside].any()
    assert bool((new.flux[~outside] != 0).all())


def test_one_stretch_is_masked_in_all_spectra() -> None:
    given_batch = batch()
    ones = given_batch.replace(flux=torch.ones_like(given_batch.flux))
    starts = set()
    for seed in range(50):
        rule = Augmentation(redshifts=None, noise=0, mask=0.1)
        new = augment(ones, Made(), generator(seed), rule)
        (columns,) = (new.flux[0] == 0).nonzero(as_tuple=True)
        assert columns.tolist() == list(range(int(columns[0]), int(columns[0]) + 90))
        assert torch.equal(new.flux == 0, (new.flux[:1] == 0).expand_as(new.flux))
        assert not new.ivar[:, columns].any()
        starts.add(int(columns[0]))
    assert len(starts) > 30


def test_nothing_to_do_is_a_copy() -> None:
    given_batch = batch()
    new = augment(given_batch, Made(), generator(), STILL)
    assert torch.equal(new.flux, given_batch.flux)
    assert torch.equal(new.ivar, given_batch.ivar)
    assert torch.equal(new.z, given_batch.z)
    assert new.flux.data_ptr() != given_batch.flux.data_ptr()


def test_spectra_that_lie_in_memory_by_pixel() -> None:
    given_batch = batch()
    turned = given_batch.replace(
        flux=given_batch.flux.T.contiguous().T, ivar=given_batch.ivar.T.contiguous().T
    )
    for rule in (Augmentation(), Augmentation(redshifts=None)):
        expected = augment(given_batch, Made(), generator(), rule)
        new = augment(turned, Made(), generator(), rule)
        assert torch.equal(new.flux, expected.flux)
        assert torch.equal(new.ivar, expected.ivar)


def test_everything_masked() -> None:
    new = augment(batch(), Made(), generator(), Augmentation(mask=1.0))
    assert not new.flux.any()
    assert not new.ivar.any()


class Widths:
    """A line spread function of each spectrum that can be carried, and is left out."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __call__(self, y_BL: Tensor) -> Tensor:
        return self.values[:, None] * y_BL

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: object) -> Widths:
        return Widths(self.values[index])  # type: ignore[index]

    def to(self, device: object = None, dtype: object = None) -> Widths:
        return self

    @classmethod
    def cat(cls, parts: list[Widths]) -> Widths:
        return cls(torch.cat([part.values for part in parts]))


def test_line_spread_functions_belong_to_observed_pixels() -> None:
    given_batch = batch().replace(lsf=Widths(torch.ones(40)))
    assert augment(given_batch, Made(), generator()).lsf is None
    assert augment(given_batch, Made(), generator(), STILL).lsf is given_batch.lsf


def test_unknown_redshifts_can_be_kept_but_not_changed() -> None:
    given_batch = batch().replace(z=None)
    new = augment(given_batch, Made(), generator(), Augmentation(redshifts=None))
    assert bool(new.z.isnan().all())
    with pytest.raises(RedshiftError, match="unknown: 0, 1, 2"):
        augment(given_batch, Made(), generator())


def test_rules_of_redshifts() -> None:
    z = torch.linspace(0, 1, 4001, dtype=torch.float64)
    capped = CappedRedshift()(z, generator())
    assert bool(((capped >= 0) & (capped <= 0.5)).all())
    below = z < 0.5
    assert capped[below].mean() == pytest.approx(0.25, abs=0.02)
    assert bool((capped[z > 0.999] > 0.499).all())
    uniform = UniformRedshift(-0.1, 0.3)(z, generator())
    assert uniform.aminmax() == pytest.approx((-0.1, 0.3), abs=1e-3)
    assert uniform.var() == pytest.approx(0.4**2 / 12, rel=0.05)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Augmentation(noise=1.5), "noise is a fraction"),
        (lambda: Augmentation(mask=-0.1), "mask is a fraction"),
        (lambda: Augmentation(amplitude=float("nan")), "amplitude"),
        (lambda: UniformRedshift(0.5, 0.1), "range above -1"),
        (lambda: UniformRedshift(-1.0, 0.1), "range above -1"),
        (lambda: CappedRedshift(0.0), "limit"),
    ],
)
def test_senseless_settings_are_refused(make: object, match: str) -> None:
    with pytest.raises(InputError, match=match):
        make()  # type: ignore[operator]


def test_pixels_of_another_instrument_are_refused() -> None:
    short = SpectrumBatch(torch.ones(2, 10), torch.ones(2, 10), z=[0.1, 0.2])
    with pytest.raises(InputError, match=r"10 pixels.*'made' has 900"):
        augment(short, Made(), generator())
