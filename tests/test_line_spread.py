"""Line spread functions of each spectrum: rows, types, and what they refuse."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch, SpectrumLSF
from spender_core.errors import InputError
from spender_core.line_spread import BandedLSF, GaussianLSF
from spender_core.nn.layers import PixelGaussianLSF
from spender_core.ops.lsf import apply_banded, convolve_gaussian

OFFSETS = (2, 0, -1)


def gaussian(n: int = 4) -> GaussianLSF:
    return GaussianLSF(0.5 + torch.rand(n, 30))


def banded(n: int = 4) -> BandedLSF:
    return BandedLSF(torch.randn(n, 3, 30), OFFSETS)


BOTH = pytest.mark.parametrize("make", [gaussian, banded])


def values(lsf: Any) -> Tensor:
    return lsf.sigma if isinstance(lsf, GaussianLSF) else lsf.data


@BOTH
def test_they_are_what_a_batch_carries(make: Any) -> None:
    lsf, y = make(), torch.randn(4, 30)
    assert isinstance(lsf, SpectrumLSF)
    batch = SpectrumBatch(y, torch.ones(4, 30), lsf=lsf)
    assert torch.equal(values(batch[[3, 1]].lsf), values(lsf)[[3, 1]])
    joined = SpectrumBatch.cat([batch[:1], batch[1:]])
    assert torch.equal(joined.lsf(y), lsf(y))
    assert batch.to(dtype=torch.float64).lsf(y.double()).dtype == torch.float64
    assert "4 spectra of 30 pixels" in repr(lsf)
    assert torch.equal(pickle.loads(pickle.dumps(lsf))(y), lsf(y))


def test_they_are_the_functions_of_ops() -> None:
    y, narrow, matrix = torch.randn(4, 30), gaussian(), banded()
    assert torch.equal(narrow(y), convolve_gaussian(y, narrow.sigma))
    assert torch.equal(matrix(y), apply_banded(y, matrix.data, OFFSETS))


@BOTH
@pytest.mark.parametrize(
    "index",
    [
        2,
        -1,
        slice(1, 3),
        slice(None, None, 2),
        [3, 0, 3],
        [],
        torch.tensor([1, 2]),
        np.array([True, False, False, True]),
        torch.tensor([False, True, False, False]),
    ],
    ids=str,
)
def test_rows_are_selected_as_of_an_array(make: Any, index: Any) -> None:
    lsf = make()
    where: Any = slice(0) if isinstance(index, list) and not index else index
    rows = np.atleast_1d(np.arange(4)[where.numpy() if isinstance(where, Tensor) else where])
    chosen = lsf[index]
    assert type(chosen) is type(lsf)
    assert torch.equal(values(chosen), values(lsf)[torch.from_numpy(rows.copy())])


def test_a_slice_of_rows_shares_memory() -> None:
    lsf = banded()
    assert lsf[1:].data.data_ptr() == lsf.data[1:].data_ptr()


def test_matrices_of_other_diagonals_are_joined() -> None:
    one, other, y = banded(2), BandedLSF(torch.randn(1, 2, 30), (-4, 0)), torch.randn(3, 30)
    joined = BandedLSF.cat([one, other])
    assert joined.offsets == (2, 0, -1, -4)
    torch.testing.assert_close(joined(y), torch.cat([one(y[:2]), other(y[2:])]))


def test_different_kinds_are_not_joined() -> None:
    for kind in (GaussianLSF, BandedLSF):
        with pytest.raises(InputError, match="cannot join"):
            kind.cat([gaussian(), banded()])


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (torch.ones(30), r"shape \(B, L\)"),
        (torch.ones(2, 30, dtype=torch.int64), "floating numbers"),
        (torch.full((2, 30), -0.1), "from 0 to 7.5 pixels.*in pixels"),
        (torch.full((2, 30), 7.6), "quarter of a spectrum"),
        (torch.full((2, 30), float("nan")), "is nan to nan"),
        (torch.full((2, 30), float("inf")), "is inf to inf"),
    ],
)
def test_widths_that_cannot_be_are_refused(sigma: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        GaussianLSF(sigma)


@pytest.mark.parametrize(
    ("data", "offsets", "message"),
    [
        (torch.ones(2, 3, 30), (1, 0), r"2 diagonals must .* shape \(B, 2, L\)"),
        (torch.ones(3, 30), OFFSETS, "shape"),
        (torch.ones(2, 3, 30).int(), OFFSETS, "floating numbers"),
        (torch.ones(2, 3, 30), (1, 0, 1), "offsets must differ"),
        (torch.full((2, 3, 30), float("nan")), OFFSETS, "must be finite"),
    ],
)
def test_matrices_that_cannot_be_are_refused(
    data: Tensor, offsets: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        BandedLSF(data, offsets)


def test_parameters_are_learned() -> None:
    sigma, y = torch.full((2, 30), 0.8, requires_grad=True), torch.randn(2, 30)
    GaussianLSF(sigma)(y).square().sum().backward()
    assert sigma.grad is not None
    assert sigma.grad.abs().sum() > 0


def test_the_width_of_an_instrument_is_learned() -> None:
    """Least squares find the widths with which lines were broadened."""
    lines = torch.zeros(8, 60)
    for row in range(8):
        lines[row, 6 + 6 * row] = 1.0
    true = torch.linspace(0.7, 1.6, 60)
    seen, layer = convolve_gaussian(lines, true), PixelGaussianLSF(torch.full((60,), 1.0))
    search = torch.optim.LBFGS(layer.parameters(), max_iter=100)

    def loss() -> Tensor:
        search.zero_grad()
        missed = (layer(lines) - seen).square().sum()
        missed.backward()
        return missed

    search.step(loss)
    found = layer.sigma.detach()[6::6][:8]
    torch.testing.assert_close(found, true[6::6][:8], rtol=1e-3, atol=0)
    torch.testing.assert_close(layer(seen).sum(), seen.sum(), rtol=0.02, atol=0)


def test_widths_of_an_instrument_are_checked() -> None:
    with pytest.raises(InputError, match="quarter of a spectrum"):
        PixelGaussianLSF(torch.full((20,), 9.0))
    layer = PixelGaussianLSF(torch.full((20,), 1.0))
    layer.sigma.data[3] = float("nan")
    with pytest.raises(InputError, match="is nan"):
        layer.check_state()
