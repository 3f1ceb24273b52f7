"""Models that apply the line spread function of each spectrum, and files that bring it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spender_core.batch import SpectrumBatch
from spender_core.errors import FileError, InputError, PluginError
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Loader, Model
from spender_core.line_spread import BandedLSF, GaussianLSF
from spender_core.nn.layers import ConstantLSF

REST = Linear(3000.0, 2.0, 3000)
TRUE = torch.tensor([[0.3, -0.2], [-0.5, 0.4], [0.1, 0.6]])
Z = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
PIXELS = 900


class Eye(Instrument):
    name = "eye"
    grid = Linear(4000.0, 4.0, PIXELS)
    loader: Any = None


class Lines(Model):
    """Strengths of two sets of narrow lines on a continuum; its encoder always answers 0."""

    def __init__(self, **modules: Any) -> None:
        super().__init__([Eye()], REST, **modules)
        self.scale = nn.Parameter(torch.ones(1))
        wave = torch.tensor(REST.wave)
        self.basis = torch.stack([torch.sin(wave / 6) ** 21, torch.cos(wave / 7) ** 21]).float()

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        return torch.zeros(len(flux_BL), 2) * self.scale

    def decode(self, s_BS: Tensor) -> Tensor:
        return self.scale * torch.exp(0.5 * s_BS @ self.basis)

    @property
    def config(self) -> dict[str, Any]:
        return {}


def lsf_of_kind(kind: str) -> Any:
    generator = torch.Generator().manual_seed(0)
    if kind == "gaussian":
        return GaussianLSF(0.8 + torch.rand(3, PIXELS, generator=generator))
    data = torch.rand(3, 5, PIXELS, generator=generator)
    return BandedLSF(data / data.sum(dim=1, keepdim=True), (2, 1, 0, -1, -2))


KINDS = pytest.mark.parametrize("kind", ["gaussian", "banded"])


def using(**modules: Any) -> Lines:
    model = Lines(**modules).eval()
    model.uses_lsf = True
    return model


def observed(model: Lines, lsf: Any) -> SpectrumBatch:
    with torch.no_grad():
        flux = 2.5 * model.transform(model.decode(TRUE), z=Z, lsf=lsf)[0]
    return SpectrumBatch(flux, torch.full_like(flux, 1e4), z=Z, instrument="eye", lsf=lsf)


@KINDS
def test_the_lsf_comes_after_the_redshift_and_before_the_learned_kernel(kind: str) -> None:
    lsf, kernel = lsf_of_kind(kind), ConstantLSF(3)
    kernel.kernel.data = torch.tensor([0.2, 0.5, 0.3])
    plain, model = Lines().eval(), using(lsf={"eye": kernel})
    x = plain.decode(TRUE)
    sharp, valid = plain.transform(x, z=Z)
    made, reached = model.transform(x, z=Z, lsf=lsf)
    torch.testing.assert_close(made, kernel(lsf(sharp)))
    assert torch.equal(reached, valid)
    assert (made - sharp).abs().max() > 0.05


@KINDS
def test_the_lsf_of_a_batch_is_applied_by_all_that_reconstruct(kind: str) -> None:
    model, lsf = using(), lsf_of_kind(kind)
    batch = observed(model, lsf)
    expected, valid = model.transform(model.decode(torch.zeros(3, 2)), z=Z, lsf=lsf)
    assert torch.equal(model.reconstruct(batch).observed, expected)
    assert torch.equal(model(batch), expected)
    residual = batch.flux - expected
    chi2 = (batch.ivar * valid * residual.square()).sum(dim=1) / 2
    good = (batch.ivar * valid > 0).sum(dim=1)
    torch.testing.assert_close(model.loss(batch, individual=True), chi2 / good)
    rows = batch[[2, 0]]
    torch.testing.assert_close(model(rows), expected[[2, 0]])


@KINDS
def test_refining_goes_through_the_lsf(kind: str) -> None:
    model, lsf = using(), lsf_of_kind(kind)
    batch = observed(model, lsf)
    made = model.reconstruct(batch, refine=12)
    torch.testing.assert_close(made.latents, TRUE, rtol=0, atol=2e-3)
    model.uses_lsf = False
    without = model.reconstruct(batch, refine=12)
    assert (without.latents - TRUE).abs().max() > 0.02


@KINDS
@pytest.mark.parametrize("uses", [True, False])
def test_refining_is_the_same_in_inference_mode(kind: str, uses: bool) -> None:
    """Also where all tensors of the spectra were made in it."""
    model = using()
    batch = observed(model, lsf_of_kind(kind))
    model.uses_lsf = uses
    expected = model.reconstruct(batch, refine=4).latents
    with torch.inference_mode():
        copy = SpectrumBatch(
            batch.flux + 0, batch.ivar + 0, z=Z + 0, instrument="eye", lsf=lsf_of_kind(kind)
        )
        assert copy.flux.is_inference()
        made = model.reconstruct(copy, refine=4).latents
    assert torch.equal(made, expected)


@KINDS
def test_gradients_reach_the_model_and_the_lsf(kind: str) -> None:
    model, lsf = using(), lsf_of_kind(kind)
    parameter = lsf.sigma if kind == "gaussian" else lsf.data
    parameter.requires_grad_()
    batch = observed(model, lsf_of_kind(kind)).replace(lsf=lsf)
    z = Z.clone().requires_grad_()
    model.loss(batch, z=z, s=0.1 * torch.ones(3, 2)).backward()
    for gradient in (parameter.grad, z.grad, model.scale.grad):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


def test_in_double_precision_the_lsf_follows() -> None:
    model, batch = using().double(), observed(using(), lsf_of_kind("gaussian"))
    model.basis = model.basis.double()
    made = model.reconstruct(batch, s=TRUE.double()).observed
    assert made.dtype == torch.float64
    torch.testing.assert_close(2.5 * made.float(), batch.flux, rtol=1e-4, atol=1e-5)


def test_spectra_without_what_the_model_needs_are_refused() -> None:
    model, lsf = using(), lsf_of_kind("gaussian")
    bare = observed(model, lsf).replace(lsf=None)
    for call in (model, model.reconstruct, model.loss):
        with pytest.raises(InputError, match=r"instrument\.read\(\.\.\., lsf=True\)"):
            call(bare)
    with pytest.raises(InputError, match="SpectrumBatch that has an lsf"):
        model(bare.flux, z=Z)
    assert model.encode(bare).shape == (3, 2), "encoding needs no lsf"
    with pytest.raises(InputError, match="widths of 3 spectra for 2"):
        model.transform(model.decode(TRUE[:2]), z=Z[:2], lsf=lsf)


def test_a_model_that_does_not_use_it_is_given_none() -> None:
    model = Lines().eval()
    assert model.lsf_of(observed(model, lsf_of_kind("banded"))) is None
    assert model.lsf_of(torch.ones(3, PIXELS)) is None


# ---- reading -------------------------------------------------------------------------------


class Plain(Loader):
    """A loader of a third party, which knows of no line spread functions."""

    id_dtype = np.dtype([("ROW", "i8")])

    def recognises(self, url: str) -> bool:
        return True

    def load(self, url: str) -> SpectrumBatch:
        n = int(Path(url).name)
        flux = torch.arange(1.0, n + 1)[:, None].expand(-1, PIXELS).clone()
        ids = np.array([(row,) for row in range(n)], dtype=self.id_dtype)
        flags = [64 if row == 1 else 0 for row in range(n)]
        return SpectrumBatch(
            flux, torch.ones(n, PIXELS), z=[0.1] * n, ids=ids, flags=flags, instrument="eye"
        )


class Widths(Plain):
    """Gives the spectrum in row r a Gaussian of r + 1 pixels."""

    def load_with_lsf(self, url: str) -> SpectrumBatch:
        batch = self.load(url)
        if len(batch) == 9:
            return batch
        if len(batch) == 8:
            raise ValueError("nonsense")
        rows = torch.arange(1.0, len(batch) + 1)[:, None]
        return batch.replace(lsf=GaussianLSF(rows.expand(-1, PIXELS).clone()))


def eye(loader: Loader) -> Instrument:
    made = Eye()
    made.loader = loader
    return made


def test_widths_stay_with_their_spectra_through_cuts_and_joins() -> None:
    batch = eye(Widths()).read(["3", "2", "4"], lsf=True)
    assert batch.norm.tolist() == pytest.approx([1, 3, 1, 1, 3, 4])
    assert batch.lsf.sigma[:, 0].tolist() == [1, 3, 1, 1, 3, 4]
    assert eye(Widths()).read("3").lsf is None


@pytest.mark.parametrize("source", ["3", ["3", "4"]])
def test_a_loader_without_the_method_is_named(source: Any) -> None:
    with pytest.raises(InputError, match=r"^Plain does not read line spread functions"):
        eye(Plain()).read(source, lsf=True)
    with pytest.raises(InputError, match=r"^Plain does not read line spread functions"):
        Plain().load_with_lsf("3")
    assert len(eye(Plain()).read(source, quality=False)) == sum(map(int, source))


def test_what_a_loader_does_wrong_is_told() -> None:
    with pytest.raises(PluginError, match=r"Widths\.load_with_lsf gave no lsf"):
        eye(Widths()).read("9", lsf=True)
    with pytest.raises(FileError, match=r"cannot read 8.*nonsense"):
        eye(Widths()).read("8", lsf=True)


def test_ones_own_arrays_bring_an_lsf_on_the_grid() -> None:
    lsf = lsf_of_kind("banded").to(dtype=torch.float64)
    flux = 1 + np.random.default_rng(0).random((3, PIXELS))
    batch = Eye().batch(Eye.grid.wave, flux, np.ones_like(flux), z=Z, lsf=lsf)
    assert batch.lsf is not None
    assert batch.lsf.data.dtype == torch.float32
    assert using()(batch).shape == (3, PIXELS)
