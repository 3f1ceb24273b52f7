"""Laws of the similarity and consistency losses, and their limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spender_core.errors import InputError
from spender_core.losses import (
    SimilarityConfig,
    consistency,
    restframe_weight,
    similarity,
    similarity_restframe,
    to_restframe,
)
from spender_core.losses import distances as module
from spender_core.losses.distances import distances, pair_distances

WAVE = torch.linspace(3500, 7500, 300, dtype=torch.float64)
WIDE = SimilarityConfig(bound=(0.0, 1e5))


def dense(x: Tensor, w: Tensor) -> Tensor:
    return (w * (x[:, None] - x[None]).square()).sum(-1)


def dense_pairs(x: Tensor, w: Tensor) -> Tensor:
    """In float64, pair by pair, from the definition."""
    good = w > 1e-6
    result = torch.zeros(len(x), len(x), dtype=torch.float64)
    for i in range(len(x)):
        for j in range(len(x)):
            both = good[i] & good[j]
            variance = 1 / w[i, both] + 1 / w[j, both]
            squares = (x[i, both] - x[j, both]).square() / variance
            result[i, j] = squares.sum() / max(int(both.sum()), 1)
    return result


def masked(n: int, pixels: int) -> Tensor:
    w = 30 * torch.rand(n, pixels, dtype=torch.float64)
    w[torch.rand(n, pixels) < 0.3] = 0
    return w


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 9),
    pixels=st.integers(1, 200),
    piece=st.sampled_from([1, 100, 1000]),
    seed=st.integers(0, 99),
)
def test_distances_in_any_pieces_are_the_dense_ones(
    n: int, pixels: int, piece: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x, w = torch.randn(n, pixels, dtype=torch.float64), masked(n, pixels)
    scale = 0.5 + torch.rand(n, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PRODUCT_PIECE", piece)
        patch.setattr(module, "PAIRS_PIECE", piece)
        product, pairs = distances(x, w[0], scale), pair_distances(x, w)
    torch.testing.assert_close(product, dense(x / scale[:, None], w[0]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pairs, dense_pairs(x, w), rtol=1e-12, atol=1e-12)
    for matrix in (product, pairs):
        assert torch.equal(matrix, matrix.T)
        assert not matrix.diagonal().any()
        assert bool((matrix >= 0).all())


@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_gradients_of_distances(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(module, "PRODUCT_PIECE", piece)
    monkeypatch.setattr(module, "PAIRS_PIECE", piece)
    x = torch.randn(4, 70, dtype=torch.float64, requires_grad=True)
    scale = (0.5 + torch.rand(4, dtype=torch.float64)).requires_grad_()
    w = (0.5 + torch.rand(4, 70, dtype=torch.float64)).requires_grad_()
    weight = w[0].detach()
    assert torch.autograd.gradcheck(lambda a, b: distances(a, weight, b), (x, scale))
    assert torch.autograd.gradcheck(pair_distances, (x, w))


def test_gradcheck_of_the_losses() -> None:
    torch.manual_seed(3)
    s = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    x = (3 + torch.randn(4, 300, dtype=torch.float64)).requires_grad_()
    w = (0.5 + torch.rand(4, 300, dtype=torch.float64)).requires_grad_()
    gradcheck = torch.autograd.gradcheck
    assert gradcheck(lambda a, b: similarity_restframe(a, b, WAVE), (s, x), fast_mode=True)
    assert gradcheck(similarity, (s, x, w), fast_mode=True)
    assert gradcheck(lambda a, b: consistency(a, b), (s, s.detach() + 0.3 * torch.randn(4, 2)))


def test_gradcheck_of_resampling() -> None:
    observed = torch.linspace(3600, 9000, 40, dtype=torch.float64)
    flux = torch.randn(3, 40, dtype=torch.float64, requires_grad=True)
    ivar = torch.rand(3, 40, dtype=torch.float64, requires_grad=True)
    z = torch.tensor([0.0123, 0.217, 0.331], dtype=torch.float64, requires_grad=True)
    rest = torch.linspace(3500, 7500, 31, dtype=torch.float64)

    def resampled(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return to_restframe(a, b, observed, rest, c)

    assert torch.autograd.gradcheck(resampled, (flux, ivar, z))


def test_masked_pixels_have_no_influence_and_finite_gradients() -> None:
    s = torch.randn(5, 3, dtype=torch.float64)
    x, w = torch.randn(5, 200, dtype=torch.float64), masked(5, 200)
    w[1] = 0
    other = torch.where(w > 0, x, 1e6 * torch.randn_like(x)).requires_grad_()
    w.requires_grad_()
    loss = similarity(s, other, w)
    assert loss.item() == pytest.approx(similarity(s, x, w).item(), rel=1e-12)
    gx, gw = torch.autograd.grad(loss, (other, w))
    assert bool(gx.isfinite().all())
    assert bool(gw.isfinite().all())
    assert not gx[w == 0].any()
    assert not gw[w == 0].any()
    assert bool(gw.any())


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_scales_of_latents_and_spectra_do_not_matter(scale: float) -> None:
    s, x, w = torch.randn(6, 3).double(), 3 + torch.randn(6, 300).double(), masked(6, 300)
    expected = similarity_restframe(s, x, WAVE).item(), similarity(s, x, w).item()
    assert similarity_restframe(scale * s, x, WAVE).item() == pytest.approx(expected[0], rel=1e-9)
    assert similarity_restframe(s, scale * x, WAVE).item() == pytest.approx(expected[0], rel=1e-9)
    assert similarity(scale * s, scale * x, w).item() == pytest.approx(expected[1], rel=1e-9)
    moved = s + 0.1 * torch.randn_like(s)
    mine = consistency(scale * s, scale * moved).item()
    assert mine == pytest.approx(consistency(s, moved).item(), rel=1e-9)


def test_order_of_the_batch_does_not_matter() -> None:
    s, x, w = torch.randn(7, 3).double(), 3 + torch.randn(7, 300).double(), masked(7, 300)
    order = torch.randperm(7)
    ours = similarity_restframe(s, x, WAVE, individual=True)
    again = similarity_restframe(s[order], x[order], WAVE, individual=True)
    for a, b in zip(ours, again, strict=True):
        torch.testing.assert_close(a[order][:, order], b, rtol=1e-10, atol=1e-12)
    mine = similarity(s[order], x[order], w[order]).item()
    assert mine == pytest.approx(similarity(s, x, w).item(), rel=1e-10)


def test_agreement_costs_the_least() -> None:
    """Latents whose distances are those of the spectra: 2 sigmoid(-width / 2) a pair."""
    s = torch.randn(6, 300, dtype=torch.float64)
    weight = restframe_weight(WAVE)
    x = 1 + s / weight.sqrt()
    # divided by their median, spectra would be others: it is 1 if most pixels are 1
    x = torch.cat([x, torch.ones(6, 302, dtype=torch.float64)], dim=1)
    wave = torch.cat([WAVE, torch.linspace(8e3, 9e3, 302, dtype=torch.float64)])
    result = similarity_restframe(s, x, wave, WIDE, individual=True)
    torch.testing.assert_close(result.latents, result.spectra, rtol=1e-9, atol=1e-9)
    off = ~torch.eye(6, dtype=torch.bool)
    floor = 2 * torch.sigmoid(torch.tensor(-2.5, dtype=torch.float64))
    torch.testing.assert_close(result.loss[off], floor.expand(30))
    total = similarity_restframe(s, x, wave, WIDE).item()
    assert total == pytest.approx(5 * floor.item())


def test_spectra_that_hardly_differ_in_float32() -> None:
    """A large common spectrum, and differences of some units in the last place."""
    common = 5 + torch.randn(300)
    x = common + 3e-5 * torch.randn(8, 300)
    s = torch.randn(8, 3)
    ours = similarity_restframe(s, x, WAVE, WIDE, individual=True).spectra
    exact = x.double()
    exact = exact / exact.median(dim=1, keepdim=True).values
    reference = dense(exact, restframe_weight(WAVE))
    reference = reference * 56 / reference.sum()
    torch.testing.assert_close(ours, reference.float(), rtol=1e-5, atol=0)


def test_bfloat16_products_are_not_taken() -> None:
    s, x = torch.randn(6, 3), 3 + torch.randn(6, 300)
    expected = similarity_restframe(s, x, WAVE), similarity(s, x, torch.ones_like(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert similarity_restframe(s, x, WAVE) == expected[0]
        assert similarity(s, x, torch.ones_like(x)) == expected[1]


@pytest.mark.parametrize("n", [0, 1, 4])
def test_nothing_to_compare_is_0_with_gradients_of_0(n: int) -> None:
    """One spectrum, or several that are all alike: spender has NaN."""
    s = torch.zeros(n, 3, requires_grad=True)
    x = torch.ones(n, 300, requires_grad=True)
    result = similarity_restframe(s, x, WAVE, individual=True)
    assert not result.latents.any()
    assert not result.spectra.any()
    loss = similarity_restframe(s, x, WAVE) + similarity(s, x, torch.ones(n, 300))
    if n < 2:
        assert loss.item() == 0
    assert bool(loss.isfinite())
    assert all(not g.any() for g in torch.autograd.grad(loss, (s, x)))


def test_bounds_of_the_consistency() -> None:
    s = torch.randn(5, 3)
    assert consistency(s, s).item() == 0
    distance, loss = consistency(s, s + 1e3, individual=True)
    assert bool((distance > 1e3).all())
    torch.testing.assert_close(loss, torch.full((5,), 0.5))


def test_wrong_shapes_are_refused() -> None:
    s, x = torch.randn(5, 3), torch.randn(5, 300)
    with pytest.raises(InputError, match=r"\(4, 300\).*wave_rest \(300,\)"):
        similarity_restframe(s, x[:4], WAVE)
    with pytest.raises(InputError, match=r"wave_rest \(299,\)"):
        similarity_restframe(s, x, WAVE[:-1])
    with pytest.raises(InputError, match=r"weights \(5, 1\)"):
        similarity(s, x, x[:, :1])
    with pytest.raises(InputError, match="no restframe pixel"):
        similarity_restframe(s, x, WAVE, SimilarityConfig(bound=(100.0, 200.0)))
    with pytest.raises(InputError, match="must both have shape"):
        consistency(s, s[:4])
