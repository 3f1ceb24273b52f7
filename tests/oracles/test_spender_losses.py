"""Similarity and consistency losses equal those of spender 0.3, in values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from spender_core import losses
from spender_core.losses import SimilarityConfig

peer = pytest.importorskip("spender.loss", reason="the oracle spender 0.3 is not installed")
peer_util = pytest.importorskip("spender.util", reason="spender.util cannot be imported")

OTHER = SimilarityConfig(slope=0.7, width=3.0, centre=4400.0, sigma=900.0, bound=(4100.0, 5000.0))
CONFIGS = pytest.mark.parametrize("config", [SimilarityConfig(), OTHER], ids=["default", "other"])
WAVE = torch.linspace(3500, 7500, 601, dtype=torch.float64)
OBSERVED = torch.linspace(3600, 9000, 701, dtype=torch.float64)
Record = Callable[[str, float], None]


def their_config(config: SimilarityConfig) -> Any:
    return peer.LossConfig(
        similarity_wid=config.width,
        similarity_slope=config.slope,
        restframe_mu=config.centre,
        restframe_sigma=config.sigma,
        restframe_bound=config.bound,
    )


def test_defaults_are_those_of_spender() -> None:
    assert asdict(peer.LossConfig()).items() >= asdict(their_config(SimilarityConfig())).items()


def latents(n: int = 12) -> Tensor:
    return torch.randn(n, 5, dtype=torch.float64).requires_grad_()


def spectra(n: int = 12) -> Tensor:
    """Spectra whose medians are well away from 0."""
    slope = torch.linspace(-1, 1, len(WAVE), dtype=torch.float64) * torch.randn(n, 1)
    return (3 + slope + 0.3 * torch.randn(n, len(WAVE))).requires_grad_()


def their_restframe(s: Tensor, x: Tensor, config: SimilarityConfig, individual: bool) -> Any:
    decoder = SimpleNamespace(wave_rest=WAVE)
    model = SimpleNamespace(decode=lambda _: x, decoder=decoder)
    return peer.similarity_restframe_loss(model, s, individual, their_config(config))


def worst(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach(), theirs.detach()
    assert ours.shape == theirs.shape
    assert float(theirs.abs().max()) > 0
    return float((ours - theirs).abs().max() / theirs.abs().max())


@CONFIGS
def test_restframe_values_and_gradients(config: SimilarityConfig, record_deviation: Record) -> None:
    s, x = latents(), spectra()
    ours = losses.similarity_restframe(s, x, WAVE, config)
    theirs = their_restframe(s, x, config, False)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    pairs = zip(torch.autograd.grad(ours, (s, x)), torch.autograd.grad(theirs, (s, x)), strict=True)
    for name, (mine, other) in zip(("latents", "spectra"), pairs, strict=True):
        record_deviation(f"gradient of {name}", worst(mine, other))
        assert worst(mine, other) <= 1e-10, name


@CONFIGS
def test_restframe_pairs(config: SimilarityConfig) -> None:
    s, x = latents(), spectra()
    ours = losses.similarity_restframe(s, x, WAVE, config, individual=True)
    theirs = their_restframe(s, x, config, True)
    cotangents = [torch.randn(12, 12, dtype=torch.float64) for _ in ours]
    for mine, other in zip(ours, theirs, strict=True):
        assert worst(mine, other) <= 1e-10
    mine = torch.autograd.grad(ours, (s, x), cotangents)
    other = torch.autograd.grad(theirs, (s, x), cotangents)
    assert worst(mine[0], other[0]) <= 1e-10
    assert worst(mine[1], other[1]) <= 1e-10


def test_restframe_in_float32(record_deviation: Record) -> None:
    """Ours in float32 against spender's in float64."""
    s, x = latents(), spectra()
    small = [t.detach().float().requires_grad_() for t in (s, x)]
    exact = [t.detach().double().requires_grad_() for t in small]
    ours = losses.similarity_restframe(*small, WAVE)
    theirs = their_restframe(*exact, SimilarityConfig(), False)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    mine, other = torch.autograd.grad(ours, small), torch.autograd.grad(theirs, exact)
    for a, b in zip(mine, other, strict=True):
        assert a.dtype == torch.float32
        record_deviation("gradient in float32", worst(a, b))
        assert worst(a, b) <= 1e-5


def data(n: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Return observed spectra, inverse variances with masked pixels, and redshifts."""
    flux = 3 + 0.5 * torch.randn(n, len(OBSERVED), dtype=torch.float64)
    ivar = 20 * torch.rand(n, len(OBSERVED), dtype=torch.float64)
    ivar[torch.rand(n, len(OBSERVED)) < 0.2] = 0
    ivar[0, 100:400] = 0
    ivar[1] = 0
    ivar[2, 50] = 5e-7  # below the limit
    return flux, ivar, 0.4 * torch.rand(n, dtype=torch.float64)


def their_data(
    s: Tensor, flux: Tensor, ivar: Tensor, z: Tensor, config: SimilarityConfig, individual: bool
) -> Any:
    model = SimpleNamespace(decoder=SimpleNamespace(wave_rest=WAVE))
    instrument = SimpleNamespace(wave_obs=OBSERVED)
    return peer.similarity_loss(
        instrument, model, flux, ivar, z, s, individual, their_config(config)
    )


@CONFIGS
def test_data_values_and_gradients(config: SimilarityConfig) -> None:
    s, (flux, ivar, z) = latents(), data()
    flux.requires_grad_()
    resampled = losses.to_restframe(flux, ivar, OBSERVED, WAVE, z)
    ours = losses.similarity(s, *resampled, config)
    theirs = their_data(s, flux, ivar, z, config, False)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    mine, other = torch.autograd.grad(ours, (s, flux)), torch.autograd.grad(theirs, (s, flux))
    assert worst(mine[0], other[0]) <= 1e-10
    assert worst(mine[1], other[1]) <= 1e-9  # the steps of spender's grid have an epsilon more


def test_data_pairs() -> None:
    s, (flux, ivar, z) = latents(), data()
    resampled = losses.to_restframe(flux, ivar, OBSERVED, WAVE, z)
    ours = losses.similarity(s, *resampled, individual=True)
    theirs = their_data(s, flux, ivar, z, SimilarityConfig(), True)
    for mine, other in zip(ours, theirs, strict=True):
        assert worst(mine, other) <= 1e-10


def test_gradients_of_weights_where_spender_has_them() -> None:
    """Only without masked pixels: those are NaN in spender."""
    s, x = latents(), spectra()
    w = (0.1 + torch.rand_like(x)).detach().requires_grad_()
    ours = losses.similarity(s, x, w)
    theirs = their_pairs(s, x, w)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    leaves = (s, x, w)
    mine, other = torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves)
    for a, b in zip(mine, other, strict=True):
        assert worst(a, b) <= 1e-10


def their_pairs(s: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """Return spender's loss of spectra that need no resampling."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer, "resample_to_restframe", lambda obs, rest, y, weight, z: (y, weight))
        model = SimpleNamespace(decoder=SimpleNamespace(wave_rest=WAVE))
        instrument = SimpleNamespace(wave_obs=WAVE)
        loss: Tensor = peer.similarity_loss(instrument, model, x, w, None, s)
    return loss


def test_resampling_to_the_restframe() -> None:
    flux, ivar, z = data()
    theirs = peer_util.resample_to_restframe(OBSERVED, WAVE, flux, ivar, z)
    ours = losses.to_restframe(flux, ivar, OBSERVED, WAVE, z)
    assert worst(ours[1], theirs[1]) <= 1e-12
    points = WAVE * (1 + z[:, None])
    inside = (points > OBSERVED[0]) & (points < OBSERVED[-1])
    assert 0 < inside.sum() < inside.numel()
    assert worst(ours[0][inside], theirs[0][inside]) <= 1e-12
    assert not ours[0][~inside].any()


def test_restframe_weight() -> None:
    model = SimpleNamespace(decoder=SimpleNamespace(wave_rest=WAVE))
    for config in (SimilarityConfig(), OTHER):
        theirs = peer.restframe_weight(model, their_config(config))
        ours = losses.restframe_weight(WAVE, config.centre, config.sigma)
        assert worst(ours, theirs) <= 1e-14


def test_consistency() -> None:
    s, s_aug = latents(), latents()
    ours, theirs = losses.consistency(s, s_aug), peer.consistency_loss(s, s_aug)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    leaves = (s, s_aug)
    mine, other = torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves)
    assert max(map(worst, mine, other)) <= 1e-12
    each, reference = losses.consistency(s, s_aug, True), peer.consistency_loss(s, s_aug, True)
    assert max(map(worst, each, reference)) <= 1e-12
