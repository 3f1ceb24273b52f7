"""The compiled way to normalise gives what torch gives, to the last bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spender_core import native
from spender_core.ops import normalize as ops
from spender_core.ops.normalize import NORM_WINDOW, Normalized, normalize

WAVE = torch.linspace(3600, 9824, 1557, dtype=torch.float64)  # every 4 Angstrom

pytestmark = pytest.mark.skipif(native.library() is None, reason="the kernels are not compiled")


def spectra(rows: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return flux, ivar and z; some windows are masked, unobserved, negative or empty."""
    generator = torch.Generator().manual_seed(seed)
    flux = torch.randn(rows, len(WAVE), generator=generator, dtype=dtype)
    flux += torch.linspace(-1, 3, rows, dtype=dtype)[:, None]
    ivar = torch.rand(rows, len(WAVE), generator=generator, dtype=dtype)
    ivar[torch.rand(ivar.shape, generator=generator) < 0.2] = 0
    z = torch.rand(rows, generator=generator, dtype=torch.float64) * 1.2
    z[::7] = float("nan")
    z[1::11] = -0.4
    ivar[2::9] = 0
    flux[3::10] = 0
    return flux, ivar, z


def assert_same(ours: Normalized, reference: Normalized) -> None:
    for name, left, right in zip(Normalized._fields, ours, reference, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0, msg=name)


def by_torch(flux: Tensor, ivar: Tensor, z: Tensor, keep: Tensor | None) -> Normalized:
    return ops._by_torch(flux, ivar, z, WAVE, NORM_WINDOW, keep)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 130])
def test_the_kernel_gives_what_torch_gives(dtype: torch.dtype, masked: bool, rows: int) -> None:
    flux, ivar, z = spectra(rows, dtype, seed=rows)
    keep = (torch.arange(len(WAVE)) % 5 != 0) if masked else None
    made = normalize(flux, ivar, z, WAVE, NORM_WINDOW, keep)
    assert_same(made, by_torch(flux, ivar, z, keep))
    assert rows < 100 or (0 < int(made.used_rms.sum()) < rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overflows_are_masked_alike(dtype: torch.dtype) -> None:
    flux, ivar, z = spectra(40, dtype, seed=3)
    most = torch.finfo(dtype).max
    flux[0, 5], flux[1, 900], ivar[4, 3], ivar[5] = most, -most, most / 2, most
    flux[6] *= torch.finfo(dtype).smallest_normal
    made = normalize(flux, ivar, z, WAVE)
    assert_same(made, by_torch(flux, ivar, z, None))
    assert int((made.over > 0).sum()) >= 2
    assert made.flux.isfinite().all()
    assert made.ivar.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    levels=st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=40),
    z=st.sampled_from([0.0, 0.013, 0.5, 0.84, 0.85, 0.9]),
)
def test_medians_of_any_pixels_are_those_of_torch(levels: list[float], z: float) -> None:
    """Many equal values, few pixels, and windows at the edge of the grid."""
    wave = torch.linspace(5290, 9824, len(levels), dtype=torch.float64)
    flux = torch.tensor([levels])
    ivar = torch.ones_like(flux)
    redshift = torch.tensor([z], dtype=torch.float64)
    made = normalize(flux, ivar, redshift, wave)
    assert_same(made, ops._by_torch(flux, ivar, redshift, wave, NORM_WINDOW, None))


@pytest.mark.parametrize("edge", NORM_WINDOW)
def test_pixels_on_the_edge_of_the_window_are_outside(edge: float) -> None:
    """Exactly there, and one rounding beside it."""
    centre = torch.tensor(edge, dtype=torch.float64)
    up, down = (torch.nextafter(centre, torch.tensor(to).double()) for to in (9e9, 0.0))
    wave = torch.stack([down, centre, up])
    flux, ivar = torch.tensor([[1.0, 10.0, 100.0]]), torch.ones(1, 3)
    z = torch.zeros(1, dtype=torch.float64)
    made = normalize(flux, ivar, z, wave)
    inside = up if edge == NORM_WINDOW[0] else down
    assert made.norm.item() == flux[0, wave == inside].item()
    assert not bool(made.used_rms)
    assert_same(made, ops._by_torch(flux, ivar, z, wave, NORM_WINDOW, None))


def test_other_layouts_and_types_give_the_same() -> None:
    flux, ivar, z = spectra(30, torch.float32, seed=1)
    expected = normalize(flux, ivar, z, WAVE)
    turned = [values.T.contiguous().T for values in (flux, ivar)]
    assert_same(normalize(*turned, z, WAVE), expected)
    assert_same(
        normalize(flux, ivar, z.float(), WAVE), normalize(flux, ivar, z.float().double(), WAVE)
    )


def test_gradients_go_through_torch() -> None:
    flux, ivar, z = spectra(3, torch.float64, seed=1)
    made = normalize(flux.requires_grad_(), ivar, z, WAVE)
    (made.flux.sum()).backward()  # type: ignore[no-untyped-call]
    assert flux.grad is not None
    assert flux.grad.isfinite().all()
