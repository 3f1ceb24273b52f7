"""Losses at their limits: half precision, no spectra, outliers, zeros and NaN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spender_core.losses import (
    consistency,
    fidelity,
    reduced_chi2,
    similarity,
    similarity_restframe,
)
from spender_core.losses.distances import distances, pair_distances

WAVE = torch.linspace(3500, 7500, 3000, dtype=torch.float64)
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "similarity_restframe": lambda s, x, w: similarity_restframe(s, x, WAVE),
    "similarity": similarity,
    "consistency": lambda s, x, w: consistency(s, x[:, :3]),
    "fidelity": lambda s, x, w: fidelity(x, w, torch.zeros_like(x)),
    "reduced_chi2": lambda s, x, w: reduced_chi2(x, w, torch.zeros_like(x), 3).sum(),
}
ALL = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def inputs(n: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, spectra, and weights whose chi squares go beyond half precision."""
    s, x, w = torch.randn(n, 3), 1 + torch.randn(n, 3000), 1000 * torch.rand(n, 3000)
    w[torch.rand(n, 3000) < 0.2] = 0
    w[:, 7] = 2e-6  # whose inverse is beyond half precision
    return s, x, w


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    half = [t.to(dtype).requires_grad_() for t in inputs()]
    exact = [t.detach().double().requires_grad_() for t in half]
    found, expected = loss(*half), loss(*exact)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    for value in (found, expected):
        (1000 * value / value.detach()).backward()  # gradients within reach of float16
    for a, b in zip(half, exact, strict=True):
        if b.grad is not None and b.grad.any():
            assert a.grad is not None
            assert a.grad.dtype == dtype
            off = (a.grad.double() - b.grad).abs() / b.grad.abs().max()
            # of several pixels that are the median, another one may have its gradient
            assert float((off < 0.02).double().mean()) > 0.999


def test_weights_of_another_type_than_the_spectra() -> None:
    s, x, w = inputs()
    expected = similarity(s, x.double(), w.double()).item()
    for a, b in ((x.double(), w), (x, w.double())):
        a.requires_grad_()
        found = similarity(s, a, b)
        assert found.item() == pytest.approx(expected, rel=1e-6)
        (gradient,) = torch.autograd.grad(found, a)
        assert gradient.dtype == a.dtype
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_spectra_to_compare_cost_nothing(n: int) -> None:
    s, x, w = (t.requires_grad_() for t in inputs(n))
    for name in ("similarity_restframe", "similarity", "consistency"):
        loss = LOSSES[name](s, x, w)
        assert loss.item() == 0, name
        gradients = torch.autograd.grad(loss, (s, x), allow_unused=True)
        assert all(g is None or not g.any() for g in gradients), name
    distance, each = consistency(s, s + 1, individual=True)
    assert distance.tolist() == each.tolist() == [0.0] * n


def test_latents_that_are_all_alike_leave_the_consistency_finite() -> None:
    s = torch.full((5, 3), 0.7).requires_grad_()
    moved = (s.detach() + torch.tensor([0.0, 1, 2, 3, 100])[:, None]).requires_grad_()
    distance, loss = consistency(s, moved, individual=True)
    torch.testing.assert_close(distance, torch.tensor([0.0, 1, 4, 9, 1e4]), rtol=1e-5, atol=0)
    assert bool((loss <= 0.5).all())
    for gradient in torch.autograd.grad(loss.sum(), (s, moved)):
        assert bool(gradient.isfinite().all())
    small = 1e-30 * torch.randn(5, 3)  # their squares vanish in float32
    expected = consistency(1e30 * small, 1.5e30 * small).item()
    assert consistency(small, 1.5 * small).item() == pytest.approx(expected, rel=1e-5)


def test_a_median_of_0_divides_nothing() -> None:
    s, x, _ = inputs()
    x[2] = 0
    x[5, : len(WAVE) * 3 // 4] = 0
    s.requires_grad_()
    x.requires_grad_()
    result = similarity_restframe(s, x, WAVE, individual=True)
    assert all(bool(part.isfinite().all()) for part in result)
    for gradient in torch.autograd.grad(result.loss.sum(), (s, x)):
        assert bool(gradient.isfinite().all())
        assert bool(gradient.any())


@pytest.mark.parametrize("row", [0, 3])
def test_a_spectrum_of_nan_is_seen(row: int) -> None:
    s, x, w = inputs()
    x[row, 1000] = torch.nan
    w[:, 1000] = 1
    assert similarity_restframe(s, x, WAVE).isnan()
    assert similarity(s, x, w).isnan()
    for result in (
        similarity_restframe(s, x, WAVE, individual=True),
        similarity(s, x, w, individual=True),
    ):
        assert bool(result.spectra.isnan().all())
        assert not result.latents.isnan().any()


@pytest.mark.parametrize("row", [0, 1, 7])
def test_an_outlier_costs_the_others_no_accuracy(row: int) -> None:
    """A single one, wherever it is: no distance is taken from it."""
    x = torch.randn(8, 300, dtype=torch.float64)
    x[row] *= 1e9
    weight = torch.rand(300, dtype=torch.float64)
    scale = torch.ones(8, dtype=torch.float64)
    scale[(row + 3) % 8] = 1e-9
    x[(row + 3) % 8] *= 1e-9  # small, and as large as the others once divided
    expected = (weight * ((x / scale[:, None])[:, None] - x / scale[:, None]).square()).sum(dim=2)
    found = distances(x, weight, scale)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_pairs_of_spectra_far_beyond_1() -> None:
    s, x, w = inputs()
    found = pair_distances(1e15 * x, w)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, 1e30 * pair_distances(x, w), rtol=1e-5, atol=0)
    expected = similarity_restframe(s, x, WAVE).item()
    assert similarity_restframe(s, 1e20 * x, WAVE).item() == pytest.approx(expected, rel=1e-5)
