"""Refined latents: what least squares must give, on a model whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Model

REST = Linear(3000.0, 2.0, 3000)
TRUE = torch.tensor([[0.3, -0.2], [-0.5, 0.4], [0.1, 0.6]])


class Eye(Instrument):
    name = "eye"
    grid = Linear(4000.0, 4.0, 900)
    loader: Any = None


class Waves(Model):
    """A curved family of spectra; its encoder always answers (0, 0)."""

    def __init__(self) -> None:
        super().__init__([Eye()], REST)
        self.scale = torch.nn.Parameter(torch.ones(1))
        wave = torch.tensor(REST.wave)
        self.basis = torch.stack([torch.sin(wave / 150), torch.cos(wave / 90)]).float()

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        return torch.zeros(len(flux_BL), 2)

    def decode(self, s_BS: Tensor) -> Tensor:
        return self.scale * torch.exp(0.5 * s_BS @ self.basis)

    @property
    def config(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def model() -> Waves:
    return Waves().eval()


def observed(model: Waves, sigma: float, amplitude: float = 2.5) -> SpectrumBatch:
    z = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    with torch.no_grad():
        flux = amplitude * model.transform(model.decode(TRUE), z=z)[0]
    noise = torch.randn(flux.shape, generator=torch.Generator().manual_seed(0))
    ivar = torch.full_like(flux, sigma**-2)
    ivar[:, 100:150] = 0
    flux = flux + sigma * noise
    flux[:, 100:150] = 77.0
    return SpectrumBatch(flux, ivar, z=z, instrument="eye")


def test_latents_of_clean_spectra_are_found(model: Waves) -> None:
    made = model.reconstruct(observed(model, 1e-4), refine=12)
    assert torch.allclose(made.latents, TRUE, atol=2e-4)
    good = observed(model, 1e-4).good
    assert torch.allclose(made.observed[good], observed(model, 1e-4).flux[good], atol=2e-3)


def test_noisy_spectra_end_where_scipy_ends(model: Waves) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    batch = observed(model, 0.3)
    made = model.reconstruct(batch, refine=25)
    for row in range(3):

        def residual(p: Any, row: int = row) -> Any:
            s = torch.tensor(p[None, :2], dtype=torch.float32)
            with torch.no_grad():
                y = model.transform(model.decode(s), z=batch.z[row : row + 1])[0][0]
            pull = (batch.flux[row] - p[2] * y) * batch.ivar[row].sqrt()
            return np.concatenate([pull.double().numpy(), p[:2]])  # the prior has width 1

        found = optimize.least_squares(residual, [0.1, -0.1, 2.0], diff_step=1e-3)
        assert made.latents[row].numpy() == pytest.approx(found.x[:2], abs=2e-3)


def test_the_result_is_never_worse_than_the_start(model: Waves) -> None:
    batch = observed(model, 0.1)

    def chi2(steps: int) -> Tensor:
        made = model.reconstruct(batch, refine=steps, normalize=True)
        return (batch.ivar * (batch.flux - made.observed).square()).sum(dim=1)

    values = torch.stack([chi2(steps) for steps in (0, 1, 2, 4, 8)])
    assert (values.diff(dim=0) <= 1e-3 * values[:-1]).all()
    assert (values[0] > 9 * 850).all()
    assert (values[-1] < 1.15 * 850).all()  # pixels with data


def test_without_information_latents_stay(model: Waves) -> None:
    batch = observed(model, 0.1)
    blind = batch.replace(ivar=torch.zeros_like(batch.ivar))
    made = model.reconstruct(blind, refine=3)
    assert torch.equal(made.latents, torch.zeros(3, 2))
    assert made.observed.isfinite().all()


def test_the_scale_of_spectra_does_not_matter(model: Waves) -> None:
    batch = observed(model, 0.1)
    bright = batch.replace(flux=batch.flux * 1e3, ivar=batch.ivar / 1e6)
    one, other = model.reconstruct(batch, refine=4), model.reconstruct(bright, refine=4)
    assert torch.allclose(one.latents, other.latents, atol=1e-4)


def test_fewer_steps_than_none_are_refused(model: Waves) -> None:
    with pytest.raises(InputError, match="0 or more, not -1"):
        model.reconstruct(observed(model, 0.1), refine=-1)
