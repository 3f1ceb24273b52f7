"""Losses, by hand and on noise."""

from __future__ import annotations

import pytest
import torch

from spender_core.losses import fidelity, reduced_chi2


def test_fidelity_by_hand() -> None:
    flux = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    weight = torch.tensor([[1.0, 4.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    model = torch.tensor([[0.0, 1.0, 9.0, 4.0], [1.0, 1.0, 1.0, -1.0]])
    each = fidelity(flux, weight, model, individual=True)
    assert each.tolist() == [0.5 * (1 + 4) / 4, 0.5 * 8 / 4]
    assert fidelity(flux, weight, model).item() == pytest.approx(each.sum().item())


def test_fidelity_of_a_perfect_model_is_zero() -> None:
    flux = torch.rand(3, 7)
    assert fidelity(flux, torch.rand(3, 7), flux).item() == 0


def test_reduced_chi2_by_hand() -> None:
    flux, model = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.0, 2.0, 9.0, 2.0]])
    weight = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    assert reduced_chi2(flux, weight, model, parameters=1).item() == pytest.approx(5 / 2)


@pytest.mark.parametrize("parameters", [0, 100])
def test_reduced_chi2_of_noise_is_one(parameters: int) -> None:
    """Fitting P parameters takes the share P / L of the noise, which is counted."""
    generator = torch.Generator().manual_seed(1)
    pixels, n = 400, 500
    ivar = 0.1 + torch.rand(n, pixels, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, pixels, generator=generator, dtype=torch.float64)
    noise[:, :parameters] = 0  # a model with one parameter for each of these pixels
    values = reduced_chi2(noise / ivar.sqrt(), ivar, torch.zeros(n, pixels), parameters)
    expected_error = (2 / (pixels - parameters) / n) ** 0.5
    assert values.mean().item() == pytest.approx(1.0, abs=5 * expected_error)


def test_reduced_chi2_needs_more_pixels_than_parameters() -> None:
    ones, weight = torch.ones(3, 6), torch.ones(3, 6)
    weight[1, 2:], weight[2] = 0, 0
    values = reduced_chi2(ones, weight, 0 * ones, parameters=2)
    assert values[0].item() == pytest.approx(6 / 4)
    assert values[1:].isnan().all()
