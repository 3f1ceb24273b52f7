"""What is done on a GPU, where the host must not wait, gives the values that the host gets.

Code that looks at values on the host asks `on_host`; told that it is elsewhere, it takes the other
way, here with values that can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from objectives import Near, spectra
from torch import Tensor

from spender_core import losses
from spender_core.datasets import augment as augmenting
from spender_core.datasets import sparse_noise
from spender_core.datasets.augment import Augmentation, UniformRedshift, augment_spectra
from spender_core.datasets.reobserving import reobserve_spectra
from spender_core.datasets.sparse_noise import add_dense_noise, add_noise, highest
from spender_core.ops import eager
from spender_core.ops.lsf import banded, convolve_gaussian, gaussian
from spender_core.ops.resampler import Resampler

# in `losses`, these names are those of functions
LOSSES = (import_module(f"spender_core.losses.{name}") for name in ("distances", "similarity"))
MODULES = (eager, banded, augmenting, sparse_noise, *LOSSES)
WAVE = torch.tensor(Near().wave)
Elsewhere = Callable[[], None]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """Return a function from whose call on tensors count as those of a GPU."""

    def leave() -> None:
        for module in MODULES:
            monkeypatch.setattr(module, "on_host", lambda _: False)

    return leave


def rest_grid(kind: str) -> Any:
    linear = np.linspace(3000.0, 7000.0, 400)
    return {
        "linear": linear,
        "nearly linear": linear + 0.8 * np.sin(np.arange(400)),
        "log": np.geomspace(3000.0, 3200.0, 400),
        "irregular": np.geomspace(3000.0, 7000.0, 400),
    }[kind]


@pytest.mark.parametrize("conserve_flux", [False, True])
@pytest.mark.parametrize("kind", ["linear", "nearly linear", "log", "irregular"])
def test_resampling(kind: str, conserve_flux: bool, elsewhere: Elsewhere) -> None:
    rest = rest_grid(kind)
    resampler = Resampler(rest, np.linspace(rest[20], rest[-20], 300), conserve_flux)
    x, z = torch.randn(4, 400), torch.tensor([0.0, 0.01, 0.02, 0.3], dtype=torch.float64)
    g = torch.randn(4, 300)

    def values() -> list[Tensor]:
        x_, z_ = x.clone().requires_grad_(), z.clone().requires_grad_()
        y, valid = resampler(x_, z_, backend="eager")
        return [y.detach(), valid, *torch.autograd.grad(y, (x_, z_), g)]

    expected = values()
    elsewhere()
    for ours, theirs in zip(values(), expected, strict=True):
        scale = float(theirs.double().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * scale)


def test_a_pixel_that_is_no_number_stays_where_it_is(elsewhere: Elsewhere) -> None:
    resampler = Resampler(rest_grid("linear"), np.linspace(3100.0, 6900.0, 300), True)
    x, z = torch.randn(3, 400), torch.zeros(3, dtype=torch.float64)
    x[1, 50] = torch.nan
    expected, _ = resampler(x, z, backend="eager")
    elsewhere()
    ours, _ = resampler(x, z, backend="eager")
    assert 0 < int(expected.isnan().sum()) < 5
    assert torch.equal(ours, expected) or torch.allclose(ours, expected, equal_nan=True)


def test_the_highest_pixel_that_is_not_masked(elsewhere: Elsewhere) -> None:
    flux, ivar, _ = spectra(Near())
    ivar[0], ivar[1, flux[1].argmax()], flux[2] = 0, 0, -1
    expected = highest(flux, ivar)
    elsewhere()
    assert torch.equal(highest(flux, ivar), expected)


def test_a_stretch_is_masked_alike(elsewhere: Elsewhere) -> None:
    flux, ivar, z = spectra(Near())
    settings = Augmentation(UniformRedshift(0.0, 0.1), noise=0, mask=0.1)

    def made(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return augment_spectra(flux, ivar, z, WAVE, generator, settings, check=False)

    expected = [made(seed) for seed in range(5)]
    elsewhere()
    for seed, theirs in enumerate(expected):
        for ours, other in zip(made(seed), theirs, strict=True):
            assert torch.equal(ours, other)


def test_spectra_are_observed_again_alike(elsewhere: Elsewhere) -> None:
    """Without noise, they are the same; with it, it hits what it may, and gaps stay."""
    flux, ivar, z = spectra(Near())

    def made(noise: float) -> list[Tensor]:
        settings = Augmentation(UniformRedshift(0.0, 0.1), noise=noise, mask=0.1)
        generator = torch.Generator().manual_seed(6)
        seen = reobserve_spectra(flux, ivar, z, WAVE, generator, settings, check=False)
        return [seen.flux, seen.ivar, seen.z, seen.gaps]

    expected = made(0)
    elsewhere()
    for ours, theirs in zip(made(0), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    noisy = made(0.2)
    hit = noisy[0] - expected[0] != 0
    assert 0.15 < float(hit[expected[1] > 0].double().mean()) < 0.25
    assert not hit[expected[1] == 0].any()
    assert bool((noisy[1][hit] < expected[1][hit]).all())
    assert torch.equal(noisy[3], expected[3])
    assert bool(expected[3].any())


@pytest.mark.parametrize("with_valid", [False, True])
def test_dense_noise_adds_what_sparse_noise_does(with_valid: bool) -> None:
    flux, ivar, _ = spectra(Near())
    valid = torch.rand_like(flux) < 0.7 if with_valid else None
    sigma = torch.linspace(0.1, 2, len(flux), dtype=torch.float64)
    replay = torch.Generator().manual_seed(8)
    hits = (torch.rand(flux.shape, generator=replay) < 0.07).flatten().nonzero()[:, 0]
    unit = torch.randn(flux.shape, generator=replay, dtype=torch.float64).flatten()[hits]
    expected = flux.clone(), ivar.clone()
    add_noise(*expected, hits, unit, sigma, valid)
    add_dense_noise(flux, ivar, 0.07, sigma, torch.Generator().manual_seed(8), valid)
    assert int((flux != spectra(Near())[0]).sum()) > 100
    for ours, other in zip((flux, ivar), expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-14, atol=0)


def test_noise_has_its_share_and_its_amplitude(elsewhere: Elsewhere) -> None:
    elsewhere()
    n, pixels = 300, len(WAVE)
    flux, ivar = torch.ones(n, pixels), torch.full((n, pixels), 4.0)
    settings = Augmentation(None, noise=0.05, amplitude=0.5)
    made = augment_spectra(
        flux, ivar, torch.zeros(n), WAVE, torch.Generator().manual_seed(2), settings
    )
    noise = made[0] - flux
    hit, total = noise[noise != 0], n * pixels
    share, error = len(hit) / total, math.sqrt(0.05 * 0.95 / total)
    assert abs(share - 0.05) < 5 * error
    assert float(hit.std()) == pytest.approx(0.5, rel=5 / math.sqrt(2 * len(hit)))
    torch.testing.assert_close(made[1], 1 / (1 / ivar + noise**2))


def test_gradients_flow_through_dense_noise() -> None:
    flux, ivar, _ = (
        tensor[:2, :12].clone() for tensor in (*spectra(Near())[:2], torch.zeros(2, 12))
    )
    sigma = torch.tensor([0.3, 0.8], dtype=torch.float64)

    def noisy(flux: Tensor, ivar: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        made = flux.clone(), ivar.clone()
        add_dense_noise(*made, 0.5, sigma, torch.Generator().manual_seed(3))
        return made

    leaves = [tensor.requires_grad_() for tensor in (flux, ivar + 1, sigma)]
    assert torch.autograd.gradcheck(noisy, leaves)


def test_losses(elsewhere: Elsewhere) -> None:
    s = torch.randn(9, 3, dtype=torch.float64)
    flux, ivar, _ = spectra(Near())
    wave = torch.linspace(3500, 7500, flux.shape[1], dtype=torch.float64)

    def values() -> list[Tensor]:
        leaves = [s.clone().requires_grad_(), flux.clone().requires_grad_()]
        one = losses.similarity_restframe(*leaves, wave)
        other = losses.similarity(*leaves, ivar)
        return [one.detach(), other.detach(), *torch.autograd.grad(one + other, leaves)]

    expected = values()
    elsewhere()
    for ours, theirs in zip(values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("shared", [False, True])
def test_gaussians_of_known_widths(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the widest is asked for or told, taps reach as far; a bound above it does no harm."""
    monkeypatch.setattr(gaussian.compiled, "available", lambda *_: False)
    monkeypatch.setattr(banded.compiled, "available", lambda *_: False)
    y = torch.randn(3, 60, dtype=torch.float64)
    sigma = 0.3 + 2 * torch.rand(3, 60, dtype=torch.float64)
    sigma = sigma[0] if shared else sigma
    widest = float(sigma.max())

    def values(told: float | None) -> list[Tensor]:
        leaves = [y.clone().requires_grad_(), sigma.clone().requires_grad_()]
        made = convolve_gaussian(*leaves, told)
        return [made.detach(), *torch.autograd.grad(made.square().sum(), leaves)]

    expected = values(None)
    assert all(map(torch.equal, values(widest), expected))
    for ours, theirs in zip(values(1.4 * widest), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
