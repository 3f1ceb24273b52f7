"""What the transform does with inputs that lie at its limits, or beyond them."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from spender_core import native
from spender_core.errors import GridError, InputError
from spender_core.ops.redshift import redshift
from spender_core.ops.resampler import Resampler

BACKENDS = ["eager", *(["compiled"] if native.library() is not None else [])]
backends = pytest.mark.parametrize("backend", BACKENDS)
fluxes = pytest.mark.parametrize("conserve_flux", [False, True], ids=["linear", "flux"])
REST, OBSERVED = np.linspace(3000, 9000, 600), np.linspace(3600, 8000, 500)


@pytest.mark.parametrize(
    ("wave", "match"),
    [
        (np.random.default_rng(0).permutation(REST), "increase strictly"),
        (REST[::-1], "increase strictly"),
        (np.array([3000.0, 3000.0, 3001.0]), "increase strictly"),
        (np.array([3000.0, np.nan, 3001.0]), "finite and positive"),
        (np.array([-1.0, 3000.0]), "finite and positive"),
        (np.array([3000.0]), "at least two"),
        (REST.reshape(2, -1), "at least two"),
    ],
)
def test_wavelengths_that_are_no_grid_are_refused(wave, match):
    """In any other order the kernels would write beside their memory."""
    with pytest.raises(GridError, match=match):
        Resampler(wave, OBSERVED)
    with pytest.raises(GridError, match=match):
        Resampler(REST, wave)
    if wave.ndim == 1:
        with pytest.raises(GridError, match=match):
            redshift(
                torch.zeros(1, len(wave)),
                torch.tensor(wave.copy()),
                torch.tensor(OBSERVED),
                torch.zeros(1),
            )


@backends
@fluxes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("z", [math.nan, math.inf, -math.inf, -1.0, -3.0, 1e300, 1e308, -0.999999])
def test_redshifts_that_mean_nothing_reach_nothing(z, dtype, backend, conserve_flux):
    """And leave the spectra beside them alone."""
    torch.manual_seed(0)
    x = torch.randn(2, 600, dtype=dtype, requires_grad=True)
    redshifts = torch.tensor([z, 0.1], dtype=torch.float64, requires_grad=True)
    resampler = Resampler(REST, OBSERVED, conserve_flux)
    y, valid = resampler(x, redshifts, backend)
    alone = resampler(x[1:], redshifts[1:], backend)
    assert not valid[0].any()
    assert torch.equal(y[0], torch.zeros_like(y[0]))
    assert torch.equal(y[1], alone[0][0])
    assert torch.equal(valid[1], alone[1][0])
    y.sum().backward()
    assert torch.equal(x.grad[0], torch.zeros_like(x.grad[0]))
    assert x.grad.isfinite().all()
    assert redshifts.grad.isfinite().all()
    assert redshifts.grad[0] == 0
    assert redshifts.grad[1] != 0


@backends
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("conserve_flux", [False, True], ids=["linear", "flux"])
def test_a_pixel_that_is_no_number_stays_where_it_is(bad, backend, conserve_flux):
    resampler = Resampler(REST, OBSERVED, conserve_flux)
    torch.manual_seed(1)
    x, z = torch.randn(2, 600), torch.tensor([0.1, 0.2], dtype=torch.float64)
    good, _ = resampler(x, z, backend)
    x[0, 300] = bad
    y, _ = resampler(x, z, backend)
    lost = ~y.isfinite()
    assert 1 <= lost.sum() <= 6
    assert not lost[1].any()
    assert torch.allclose(y[~lost], good[~lost], rtol=0, atol=1e-6)


@backends
@pytest.mark.parametrize("z", [5.0, 20.0, 99.0, 999.0])
def test_means_over_pixels_far_narrower_than_the_model_s(z, backend):
    """At high redshift an observed pixel covers a small part of a restframe pixel."""
    rest = np.linspace(2000 / (1 + z), 20000 / (1 + z), 22500).astype(np.float32).astype(np.float64)
    observed = np.linspace(3600.0, 9824.0, 7781)
    torch.manual_seed(2)
    x = torch.where(torch.rand(1, len(rest)) > 0.5, 1.0, -1.0)
    for redshifts in (torch.tensor([z]).double(), torch.tensor([z * 1.07]).double()):
        resampler = Resampler(rest, observed, conserve_flux=True)
        y, valid = resampler(x, redshifts, backend)
        exact, valid0 = resampler(x.double(), redshifts, backend)
        assert torch.equal(valid, valid0)
        assert valid.any()
        assert (y - exact).abs().max() < 2e-6
    coarse = Resampler(np.linspace(10.0, 2000.0, 2000), observed, conserve_flux=True)
    x = torch.randn(1, 2000)
    y, _ = coarse(x, redshifts, backend)
    exact, _ = coarse(x.double(), redshifts, backend)
    assert (y - exact).abs().max() < 2e-6 * x.abs().max()


@backends
@fluxes
def test_derivatives_of_second_order_are_refused(backend, conserve_flux):
    """Left out in silence, a Hessian would be 0."""
    resampler = Resampler(REST, OBSERVED, conserve_flux)
    torch.manual_seed(3)
    x, z = torch.randn(2, 600), torch.tensor([0.1, 0.2], dtype=torch.float64)

    def power(z):
        return resampler(x, z, backend)[0].square().sum()

    with pytest.raises(InputError, match="no derivatives of second order"):
        torch.autograd.functional.hessian(power, z)
    z.requires_grad_()
    (slope,) = torch.autograd.grad(power(z), z, create_graph=True)
    with pytest.raises(InputError, match="no derivatives of second order"):
        torch.autograd.grad(slope.sum(), z, allow_unused=True)


COMPILED = """
import numpy as np, torch
from spender_core.ops.resampler import Resampler
resampler = Resampler(np.linspace(3000, 9000, 600), np.linspace(3600, 8000, 500))
torch.manual_seed(0)
x, z = torch.rand(3, 600, requires_grad=True), torch.rand(3).double().requires_grad_()
def loss(x, z):
    return (resampler(torch.sin(x), z)[0] * 3).square().sum()
wanted = loss(x, z), *torch.autograd.grad(loss(x, z), (x, z))
found = torch.compile(loss, backend="eager")(x, z)
found = found, *torch.autograd.grad(found, (x, z))
print(all(torch.allclose(a, b) for a, b in zip(found, wanted)))
"""


def test_torch_compile_goes_around_it():
    """In a process of its own, since compiling leaves state and warnings behind."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"


@backends
def test_models_reach_what_the_transform_reaches(backend):
    for conserve_flux in (False, True):
        resampler = Resampler(REST, OBSERVED, conserve_flux)
        edge = OBSERVED[-1] / REST[0] - 1
        z = torch.tensor([edge * (1 - 1e-9), edge, edge * (1 + 1e-9), 0.2, math.nan])
        first, last = resampler.reach(z.double())
        valid = resampler(torch.ones(5, 600), z.double(), backend)[1]
        assert torch.equal(valid.any(dim=1), last > first)
        assert torch.equal(valid.sum(dim=1), (last - first).long())
