"""Blocks that pool first equal the layers of torch, in values and in gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spender_core.nn import blocks, pooled
from spender_core.nn.blocks import conv_norm_pool
from spender_core.nn.pooled import first_block, tap_statistics

EPS = 1e-5


def layers(x_BCL: Tensor, w: Tensor, bias: Tensor, slope: Tensor, pool: int) -> Tensor:
    """The block, one layer of torch after the other; channels last in what it returns."""
    made = F.conv1d(x_BCL, w, bias, padding=w.shape[2] // 2)
    made = F.prelu(F.instance_norm(made, eps=EPS), slope)
    return F.max_pool1d(made, pool, padding=pool // 2).transpose(1, 2)


def inputs(
    n_batch: int, n_in: int, n_out: int, length: int, taps: int, seed: int, falling: bool
) -> list[Tensor]:
    """Return inputs (B, C, L), taps, bias and slopes, some of them negative if wanted."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    slope = 0.5 * normal(n_out) if falling else torch.full((n_out,), 0.25, dtype=torch.float64)
    x = 0.3 + normal(n_batch, n_in, length)
    made = [x, normal(n_out, n_in, taps), normal(n_out), slope]
    return [part.requires_grad_() for part in made]


def assert_same(found: Tensor, expected: Tensor, parts: list[Tensor]) -> None:
    """Compare values and the gradients of all parts for a random cotangent."""
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11 * scale)
    generator = torch.Generator().manual_seed(9)
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    mine = torch.autograd.grad(found, parts, cotangent)
    other = torch.autograd.grad(expected, parts, cotangent)
    for a, b in zip(mine, other, strict=True):
        atol = 1e-10 * max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@given(
    n_batch=st.integers(1, 9),
    length=st.integers(8, 90),
    taps=st.sampled_from([1, 3, 5, 11]),
    pool=st.sampled_from([1, 3, 5]),
    falling=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_conv_norm_pool_equals_layers(
    n_batch: int, length: int, taps: int, pool: int, falling: bool, seed: int
) -> None:
    parts = inputs(n_batch, 3, 4, length, taps, seed, falling)
    x, w, bias, slope = parts
    found = conv_norm_pool(x.transpose(1, 2), w, bias, slope, EPS, pool)
    assert_same(found, layers(x, w, bias, slope, pool), parts)


@given(
    n_batch=st.integers(1, 9),
    length=st.integers(2, 90),
    taps=st.sampled_from([1, 3, 5, 7]),
    falling=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_first_block_equals_layers(
    n_batch: int, length: int, taps: int, falling: bool, seed: int
) -> None:
    parts = inputs(n_batch, 1, 4, length, taps, seed, falling)
    x, w, bias, slope = parts
    found = first_block(x[:, 0], w[:, 0], bias, slope, EPS)
    assert_same(found, layers(x, w, bias, slope, taps), parts)


def test_pieces_of_work_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = inputs(7, 3, 4, 60, 5, 1, True)
    expected = conv_norm_pool(parts[0].transpose(1, 2), *parts[1:], EPS, 5)
    first = first_block(parts[0][:, 0], parts[1][:, 0], *parts[2:], EPS)
    monkeypatch.setattr(blocks, "COLUMNS", 1)
    monkeypatch.setattr(pooled, "PIECE", 3)
    found = conv_norm_pool(parts[0].transpose(1, 2), *parts[1:], EPS, 5)
    assert_same(found, expected, parts)
    assert_same(first_block(parts[0][:, 0], parts[1][:, 0], *parts[2:], EPS), first, parts)


@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize(("n_batch", "length"), [(1, 12), (2, 17)])
def test_gradients_by_finite_differences(n_batch: int, length: int, falling: bool) -> None:
    x, w, bias, slope = inputs(n_batch, 2, 3, length, 3, 3, falling)

    def block(x: Tensor, w: Tensor, slope: Tensor) -> Tensor:
        return conv_norm_pool(x.transpose(1, 2), w, bias.detach(), slope, EPS, 3)

    def first(x: Tensor, w: Tensor, slope: Tensor) -> Tensor:
        return first_block(x[:, 0], w[:, 0], bias.detach(), slope, EPS)

    assert torch.autograd.gradcheck(block, (x, w, slope))
    assert torch.autograd.gradcheck(first, (x, w, slope))


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_constant_spectra(level: float) -> None:
    """Without any variance, eps alone scales; at the ends zeros are padded, as by torch."""
    _, w, bias, slope = inputs(1, 1, 4, 40, 5, 0, True)
    x = torch.full((2, 1, 40), level, dtype=torch.float64)
    expected = layers(x, w, bias, slope, 5)
    for found in (
        first_block(x[:, 0], w[:, 0], bias, slope, EPS),
        conv_norm_pool(x.transpose(1, 2), w, bias, slope, EPS, 5),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        for grad in torch.autograd.grad(found.sum(), (w, bias, slope)):
            assert bool(grad.isfinite().all())


def test_of_equal_pixels_the_first_takes_the_gradient() -> None:
    _, w, _, slope = inputs(1, 1, 2, 30, 3, 0, False)
    bias = torch.zeros(2, dtype=torch.float64)
    x = torch.zeros(1, 1, 30, dtype=torch.float64, requires_grad=True)
    found = first_block(x[:, 0], w[:, 0], bias, slope, EPS)
    assert_same(found, layers(x, w, bias, slope, 3), [x, w])


def test_what_is_not_a_number_stays_with_its_spectrum() -> None:
    x, w, bias, slope = (part.detach() for part in inputs(3, 2, 4, 40, 5, 0, True))
    x[1, :, 39] = torch.nan
    clean = x[[0, 2]]
    for block in (
        lambda x: first_block(x[:, 0], w[:, 0], bias, slope, EPS),
        lambda x: conv_norm_pool(x.transpose(1, 2), w, bias, slope, EPS, 5),
    ):
        found = block(x)
        assert bool(found[1].isnan().any())
        torch.testing.assert_close(found[[0, 2]], block(clean), rtol=0, atol=1e-12)


def test_the_gradient_too_stays_with_its_spectrum() -> None:
    x, w, bias, slope = inputs(3, 1, 4, 40, 5, 0, False)
    flux = x.detach()[:, 0].clone()
    flux[1] = torch.nan
    flux.requires_grad_()
    (grad,) = torch.autograd.grad(first_block(flux, w[:, 0], bias, slope, EPS)[0].sum(), flux)
    assert bool(grad[0].isfinite().all())


@given(length=st.integers(2, 60), taps=st.sampled_from([1, 3, 7]), level=st.floats(-1e3, 1e3))
@settings(max_examples=30, deadline=None)
def test_statistics_of_taps(length: int, taps: int, level: float) -> None:
    x, w, *_ = (part.detach() for part in inputs(2, 1, 3, length, taps, 5, False))
    x += level
    made = F.conv1d(x, w, padding=taps // 2)
    mean, variance = tap_statistics(x[:, 0], w[:, 0])
    torch.testing.assert_close(mean, made.mean(dim=2))
    expected = made.var(dim=2, unbiased=False)
    torch.testing.assert_close(variance, expected, rtol=1e-7, atol=1e-9 * (1 + level**2))
