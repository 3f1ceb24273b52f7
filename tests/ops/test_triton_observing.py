"""One pass with an LSF in Triton's interpreter, beside resampling first and the LSF after it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by test_triton.py, with Triton's interpreter", allow_module_level=True)
pytest.importorskip("triton", reason="needs Triton (pip install triton, on Linux)")

from spender_core import native
from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.grid import Linear, Log
from spender_core.interfaces import Instrument
from spender_core.line_spread import BandedLSF, GaussianLSF
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.nn.layers import ConstantLSF
from spender_core.ops import fused
from spender_core.ops.fused import Taps
from spender_core.ops.lsf import apply_banded, convolve_constant
from spender_core.ops.observing import observe
from spender_core.ops.resampler import Resampler

PIXELS = 263
REST, OBSERVED = Linear(2000.0, 10.0, 301), Log(3.3617, 1.6e-3, PIXELS)
Z = torch.tensor([0.1234, 0.6, -0.05], dtype=torch.float64)
OFFSETS = (3, 1, 0, -2)
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-10}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)
KINDS = pytest.mark.parametrize("kind", ["kernel of 4", "kernel of 5", "banded"])
TORCH_WARNS = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # its own use
ONE_PASS = "_ObserveBackward"
"""Name of its node in the graph of autograd."""


class Eye(Instrument):
    name = "eye"
    grid = OBSERVED
    loader: Any = None


@pytest.fixture(autouse=True)
def _serving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernels serve the host, where the interpreter runs them."""
    monkeypatch.setattr(fused, "serves", lambda _, layout: not layout.conserve_flux)


def on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernels serve nothing, as without a GPU."""
    monkeypatch.setattr(fused, "serves", lambda *_: False)


def resampler(conserve_flux: bool = False) -> Resampler:
    return Resampler(REST.wave, OBSERVED.wave, conserve_flux)


def lsf_of(kind: str, dtype: torch.dtype) -> tuple[Any, Tensor]:
    """Return an LSF, and the tensor that it is made of, which takes gradients."""
    if kind == "banded":
        data = torch.randn(len(Z), len(OFFSETS), PIXELS, dtype=dtype).requires_grad_()
        return BandedLSF(data, OFFSETS), data
    lsf = ConstantLSF(int(kind.split()[-1])).to(dtype)
    with torch.no_grad():
        lsf.kernel += torch.rand_like(lsf.kernel)
    return lsf, lsf.kernel


def way(y: Tensor) -> str:
    assert y.grad_fn is not None
    return y.grad_fn.name()


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare to a fraction of the largest value."""
    got, expected = got.detach().double(), expected.detach().double()
    scale = max(float(expected.abs().max()), 1e-300)
    assert float((got - expected).abs().max()) <= tolerance * scale


@DTYPES
@KINDS
def test_one_pass_equals_two_steps(kind: str, dtype: torch.dtype) -> None:
    (lsf, parameter), banded = lsf_of(kind, dtype), kind == "banded"
    x = torch.randn(len(Z), REST.size, dtype=dtype).requires_grad_()
    z, g = Z.clone().requires_grad_(), torch.randn(len(Z), PIXELS, dtype=dtype)
    y, valid = resampler()(x, z, lsfs=[lsf])
    assert way(y) == ONE_PASS
    assert y.dtype == dtype
    sharp, reached = resampler()(x.double(), z, backend="eager")
    made = torch.autograd.grad(y, (x, z, parameter), g)
    exact = parameter.double()
    expected = BandedLSF(exact, OFFSETS)(sharp) if banded else convolve_constant(sharp, exact)
    wanted = torch.autograd.grad(expected, (x, z, parameter), g.double())
    assert torch.equal(valid, reached)
    assert_close(y, expected, TOLERANCE[dtype])
    for got, gradient, like in zip(made, wanted, (x, z, parameter), strict=True):
        assert got.shape == like.shape
        assert_close(got, gradient, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@KINDS
def test_short_types_are_worked_on_in_float32(kind: str, dtype: torch.dtype) -> None:
    lsf, parameter = lsf_of(kind, torch.float32)
    x = torch.randn(len(Z), REST.size).to(dtype).requires_grad_()
    y, _ = resampler()(x, Z, lsfs=[lsf])
    exact, _ = resampler()(x.float(), Z, lsfs=[lsf])
    assert way(exact) == ONE_PASS
    assert torch.equal(y, exact.to(dtype))
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert parameter.grad is not None
    assert parameter.grad.dtype == torch.float32


@TORCH_WARNS
@KINDS
def test_gradcheck_backward_and_forward(kind: str) -> None:
    rest, points = torch.linspace(2000, 5000, 12), torch.linspace(2300, 5200, 9)
    x = torch.randn(2, 12, dtype=torch.float64).requires_grad_()
    z = torch.tensor([0.12, 0.4], dtype=torch.float64).requires_grad_()
    shape = (2, 4, 9) if kind == "banded" else (int(kind.split()[-1]),)
    values = torch.randn(shape, dtype=torch.float64).requires_grad_()
    grids = Resampler(rest.double().numpy(), points.double().numpy())

    def function(x: Tensor, z: Tensor, values: Tensor) -> Tensor:
        taps = Taps.banded(values, OFFSETS) if kind == "banded" else Taps.constant(values)
        return observe(x, z, taps, grids)[0]

    assert way(function(x, z, values)) == ONE_PASS
    assert gradcheck(function, (x, z, values), check_forward_ad=True, fast_mode=True)


@TORCH_WARNS
@KINDS
def test_it_works_under_torch_func(kind: str) -> None:
    taps, grids = lsf_of(kind, torch.float64)[0].as_taps(), resampler()
    inputs = torch.randn(len(Z), REST.size, dtype=torch.float64), Z, taps.values.detach()
    several = tuple(one + 0.01 * torch.rand(4, *one.shape, dtype=torch.float64) for one in inputs)

    def one_pass(x: Tensor, z: Tensor, values: Tensor) -> Tensor:
        return observe(x, z, Taps(values, taps.offsets), grids)[0]

    def two_steps(x: Tensor, z: Tensor, values: Tensor) -> Tensor:
        data = values if kind == "banded" else values[:, None].expand(-1, PIXELS)
        return apply_banded(grids(x, z, backend="eager")[0], data, taps.offsets)

    def slopes(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *tangents: torch.func.jvp(function, inputs, tangents)[1]

    def total(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        return torch.func.grad(lambda *each: function(*each).square().sum(), (0, 1, 2))

    for dims in ((0, 0, 0), (0, None, None), (None, 0, None), (None, None, 0)):
        given = [m if d == 0 else one for m, one, d in zip(several, inputs, dims, strict=True)]
        for law in (lambda function: function, slopes, total):
            made, wanted = (
                torch.func.vmap(law(function), dims)(*given) for function in (one_pass, two_steps)
            )
            pairs = zip(made, wanted, strict=True) if isinstance(made, tuple) else [(made, wanted)]
            for got, expected in pairs:
                assert_close(got, expected, 1e-10)


@TORCH_WARNS
@pytest.mark.parametrize("backend", [None, *(["compiled"] if native.library() else [])])
def test_resampling_alone_has_gradients_under_torch_func(backend: str | None) -> None:
    grids = resampler()
    x = torch.randn(2, len(Z), REST.size, dtype=torch.float64)

    def gradients(backend: str | None) -> tuple[Tensor, Tensor]:
        def total(x: Tensor, z: Tensor) -> Tensor:
            return grids(x, z, backend)[0].square().sum()

        made: tuple[Tensor, Tensor] = torch.func.vmap(torch.func.grad(total, (0, 1)), (0, None))(
            x, Z
        )
        return made

    for got, expected in zip(gradients(backend), gradients("eager"), strict=True):
        assert_close(got, expected, 1e-10)


def autoencoder(dtype: torch.dtype, **changes: Any) -> SpectrumAutoencoder:
    torch.manual_seed(0)
    small: dict[str, Any] = {"n_latent": 3, "filters": (4, 6, 8), "sizes": (3, 5, 7)}
    small |= {"encoder_hidden": (9, 5), "decoder_hidden": (7,)}
    return SpectrumAutoencoder([Eye()], REST, **(small | changes)).to(dtype)


def model_of(kind: str, dtype: torch.dtype) -> tuple[SpectrumAutoencoder, SpectrumBatch]:
    """Return a model with a learned kernel, or for LSFs of each spectrum, and a batch for it."""
    banded = kind == "banded"
    model = autoencoder(dtype, lsf_taps=None if banded else {"eye": int(kind.split()[-1])})
    model.uses_lsf = banded
    for name, parameter in model.lsf.named_parameters():
        assert name == "eye.kernel"
        parameter.data += torch.rand_like(parameter)
    flux = 1 + torch.rand(len(Z), PIXELS, dtype=dtype)
    lsf = lsf_of(kind, dtype)[0] if banded else None
    return model, SpectrumBatch(flux, torch.rand_like(flux), Z, instrument="eye", lsf=lsf)


@DTYPES
@KINDS
def test_a_model_is_the_same_with_and_without_the_kernels(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = model_of(kind, dtype)
    x = model.decode(model.encode(batch))
    parameters = list(model.parameters()) + ([batch.lsf.data] if model.uses_lsf else [])

    def results() -> tuple[str, Tensor, Tensor, list[Tensor], Tensor]:
        y, valid = model.transform(x, "eye", batch.z, model.lsf_of(batch))
        gradients = torch.autograd.grad(model.loss(batch), parameters)
        refined = model.eval().reconstruct(batch, refine=3).latents
        return way(y), y, valid, list(gradients), refined

    made = results()
    on_the_host(monkeypatch)
    wanted = results()
    assert made[0] == ONE_PASS
    assert wanted[0] != ONE_PASS
    assert_close(made[1], wanted[1], TOLERANCE[dtype])
    assert torch.equal(made[2], wanted[2])
    # together, since those of biases before a normalisation are 0 but for rounding
    flat = [torch.cat([part.flatten() for part in parts]) for parts in (made[3], wanted[3])]
    assert_close(flat[0], flat[1], 10 * TOLERANCE[dtype])  # a kernel's cancel, its sum being kept
    # the place of a minimum is known to the root of the rounding of its height
    assert_close(made[4], wanted[4], 4 * torch.finfo(dtype).eps ** 0.5)


def wide() -> BandedLSF:
    return BandedLSF(torch.rand(len(Z), 2, PIXELS), (0, 600))


@pytest.mark.parametrize(
    ("lsfs", "options"),
    [
        ([GaussianLSF(torch.ones(len(Z), PIXELS))], {}),
        ([wide()], {}),
        ([lsf_of("banded", torch.float32)[0], lsf_of("kernel of 5", torch.float32)[0]], {}),
        ([torch.nn.Tanh()], {}),
        ([lsf_of("banded", torch.float32)[0]], {"backend": "eager"}),
        ([lsf_of("kernel of 5", torch.float32)[0]], {"conserve_flux": True}),
    ],
    ids=["Gaussian", "too wide", "two", "no taps", "eager", "flux conserved"],
)
def test_others_are_applied_after_resampling(lsfs: list[Any], options: dict[str, Any]) -> None:
    grids, backend = resampler(options.get("conserve_flux", False)), options.get("backend")
    x = torch.randn(len(Z), REST.size).requires_grad_()
    y, valid = grids(x, Z, backend, lsfs)
    expected, reached = grids(x, Z, backend)
    for lsf in lsfs:
        expected = lsf(expected)
    assert way(y) == way(expected) != ONE_PASS
    assert torch.equal(y, expected)
    assert torch.equal(valid, reached)


def test_matrices_for_other_spectra_are_refused() -> None:
    lsf = BandedLSF(torch.rand(len(Z) + 1, 1, PIXELS), (0,))
    with pytest.raises(InputError, match=rf"do not fit the spectra.*\(3, 1, {PIXELS}\)"):
        resampler()(torch.randn(len(Z), REST.size), Z, lsfs=[lsf])


@KINDS
def test_a_batch_may_be_empty(kind: str) -> None:
    lsf, parameter = lsf_of(kind, torch.float32)
    lsf = lsf[:0] if kind == "banded" else lsf
    x = torch.zeros(0, REST.size, requires_grad=True)
    y, valid = resampler()(x, Z[:0], lsfs=[lsf])
    assert way(y) == ONE_PASS
    assert y.shape == valid.shape == (0, PIXELS)
    y.sum().backward()
    assert parameter.grad is not None
    assert not parameter.grad.any()
