"""Augmented spectra equal those of spender 0.3, where both have the same random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from spender_core.datasets.augment import CappedRedshift, UniformRedshift, at_redshift
from spender_core.datasets.sparse_noise import add_noise, highest

DESI = pytest.importorskip("spender.data.desi", reason="spender's DESI cannot be imported").DESI
SDSS = pytest.importorskip("spender.data.sdss", reason="spender's SDSS cannot be imported").SDSS

RATIO = 0.05
PEERS = pytest.mark.parametrize("peer", [DESI, SDSS], ids=["desi", "sdss"])


def spectra(peer: Any, n: int = 10) -> tuple[Tensor, ...]:
    """Return wavelengths, flux, ivar, and redshifts, old and new, in float64."""
    wave = peer._wave_obs.double()
    flux = 1 + torch.sin(wave / 40) + 0.3 * torch.randn(n, len(wave), dtype=torch.float64)
    ivar = 10 * torch.rand(n, len(wave), dtype=torch.float64)
    ivar[torch.rand(n, len(wave)) < 0.2] = 0
    # a masked maximum counts in spender only
    ivar.scatter_(1, flux.argmax(dim=1, keepdim=True), 5.0)
    z, z_new = 0.5 * torch.rand(2, n, dtype=torch.float64)
    return wave, flux, ivar, z, z_new


def theirs(
    monkeypatch: pytest.MonkeyPatch, peer: Any, parts: tuple[Tensor, ...], **options: Any
) -> tuple[Tensor, Tensor]:
    """Call spender with wavelengths in float64: their rounding is no matter of this test."""
    wave, flux, ivar, z, z_new = parts
    monkeypatch.setattr(peer, "_wave_obs", wave)
    batch = (flux.clone(), ivar.clone(), z)
    new_flux, new_ivar, _ = peer.augment_spectra(batch, z_new=z_new, mask=False, **options)
    return new_flux.double(), new_ivar.double()


def inside(parts: tuple[Tensor, ...]) -> Tensor:
    """Return where both interpolate alike: SDSS takes the first and last pixel for masked."""
    wave, _, _, z, z_new = parts
    points = wave * ((1 + z) / (1 + z_new))[:, None]
    return (points > wave[1]) & (points < wave[-2])


@PEERS
def test_given_redshifts(monkeypatch: pytest.MonkeyPatch, peer: Any) -> None:
    parts = spectra(peer)
    wave, flux, ivar, z, z_new = parts
    expected = theirs(monkeypatch, peer, parts, noise=False)
    new_flux, new_ivar, valid = at_redshift(flux, ivar, wave, z, z_new)
    where = inside(parts)
    assert 0.5 < where.double().mean() < 1
    torch.testing.assert_close(new_flux[where], expected[0][where], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(new_ivar[where], expected[1][where], rtol=1e-5, atol=1e-6)
    assert not new_flux[~valid].any()
    assert not new_ivar[~valid].any()
    assert not expected[1][~valid].any()


@PEERS
def test_given_noise(monkeypatch: pytest.MonkeyPatch, peer: Any) -> None:
    """With what spender draws: a normal and a uniform number for each pixel."""
    parts = spectra(peer)
    wave, flux, ivar, z, z_new = parts
    torch.manual_seed(5)
    expected = theirs(monkeypatch, peer, parts, noise=True, ratio=RATIO)
    torch.manual_seed(5)
    unit = torch.distributions.Normal(0, 1).sample(flux.shape)
    uniform = torch.distributions.Uniform(0, 1).sample(flux.shape)
    hits = (uniform <= RATIO).flatten().nonzero()[:, 0]
    new_flux, new_ivar, valid = at_redshift(flux, ivar, wave, z, z_new)
    sigma = 0.2 * highest(flux, ivar)
    add_noise(new_flux, new_ivar, hits, unit.flatten()[hits].double(), sigma, valid)
    where = inside(parts)
    torch.testing.assert_close(new_flux[where], expected[0][where], rtol=1e-5, atol=1e-6)
    # spender adds 1e-6 to each inverse variance
    torch.testing.assert_close(new_ivar[where], expected[1][where], rtol=1e-5, atol=2e-6)
    masked = where & (at_redshift(flux, ivar, wave, z, z_new)[1] == 0)
    assert masked.any()
    assert not new_ivar[masked].any()
    assert bool((expected[1][masked] > 0).all())


@PEERS
def test_drawn_redshifts(peer: Any) -> None:
    """The rules give what spender gives for the same uniform numbers, in float32."""
    n = 500
    z = torch.rand(n)
    flux = torch.ones(n, len(peer._wave_obs))
    torch.manual_seed(7)
    expected = peer.augment_spectra((flux, flux, z), noise=False, mask=False)[2]
    rule = UniformRedshift() if peer is DESI else CappedRedshift()
    ours = rule(z, torch.Generator().manual_seed(7))
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


def test_drawn_redshifts_of_stars() -> None:
    z, flux = torch.zeros(50), torch.ones(50, 7781)
    torch.manual_seed(7)
    expected = DESI.augment_spectra(
        (flux, flux, z), noise=False, z_max=0.005, z_new=torch.full((50,), 0.5)
    )[2]
    generator = torch.Generator().manual_seed(7)
    ours = UniformRedshift(-0.0025, 0.0025)(z, generator)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


@PEERS
def test_where_the_mask_begins(peer: Any) -> None:
    """Ours is drawn in the same way; spender's is the first draw when nothing else is random."""
    from spender_core.datasets.augment import Augmentation, augment_spectra

    wave = peer._wave_obs.double()
    flux = torch.ones(3, len(wave))
    settings = Augmentation(redshifts=None, noise=0, mask=0.1)
    for seed in range(20):
        torch.manual_seed(seed)
        expected = peer.augment_spectra(
            (flux, flux, torch.zeros(3)), redshift=False, noise=False, mask=True, ratio=0.1
        )
        generator = torch.Generator().manual_seed(seed)
        ours = augment_spectra(flux, flux, torch.zeros(3), wave, generator, settings)
        assert torch.equal(ours[0], expected[0])
        assert torch.equal(ours[1], expected[1])
