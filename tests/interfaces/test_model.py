"""What core builds on a model: encode, transform, reconstruct and loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spender_core import losses
from spender_core.batch import SpectrumBatch
from spender_core.errors import GridError, InputError, RedshiftError, UnknownNameError
from spender_core.grid import Linear, Log
from spender_core.interfaces import Instrument, Model
from spender_core.ops.redshift import redshift

REST = Log(3.55, 1e-3, 260)  # 3548 to 6442 Angstrom


class Red(Instrument):
    name = "red"
    grid = Linear(5000.0, 4.0, 200)
    loader: Any = None


class Blue(Instrument):
    name = "blue"
    grid = Linear(4000.0, 5.0, 150)
    loader: Any = None


class OtherRed(Red):
    grid = Linear(5000.0, 4.0, 201)


class Green(Instrument):
    name = "green"
    grid = Linear(4500.0, 3.0, 120)
    loader: Any = None


class Straight(Model):
    """Latents are mean and slope of a spectrum; the restframe is a straight line of them."""

    def __init__(self, instruments: Any, wave_rest: Any, **modules: Any) -> None:
        super().__init__(instruments, wave_rest, **modules)
        self.weight = nn.Parameter(torch.tensor([1.0, 1.0]))

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        slope = torch.linspace(-1, 1, flux_BL.shape[1]).to(flux_BL)
        s_BS = torch.stack([flux_BL.mean(dim=1), (flux_BL * slope).mean(dim=1)], dim=1)
        return s_BS * self.weight

    def decode(self, s_BS: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, self.rest.size).to(s_BS)
        return s_BS[:, :1] + s_BS[:, 1:] * ramp

    @property
    def config(self) -> dict[str, Any]:
        return {}


def straight(**modules: Any) -> Straight:
    return Straight([Red(), Blue()], REST, **modules).eval()


def flux(n: int = 3, pixels: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 1 + torch.rand(n, pixels, generator=generator)


IDS = np.array([(7,), (8,), (9,)], dtype=[("TARGETID", "i8")])


def batch(z: Any = (0.0, 0.1, 0.2), **changes: Any) -> SpectrumBatch:
    arguments = {"flux": flux(), "ivar": torch.ones(3, 200), "ids": IDS, "instrument": "red"}
    return SpectrumBatch(z=z, **(arguments | changes))


def test_a_model_serves_somebody() -> None:
    with pytest.raises(InputError, match="at least one instrument"):
        Straight([], REST)


def test_the_first_instrument_is_the_default() -> None:
    model = straight()
    assert model.instrument.name == "red"
    s = model.encode(flux())
    x = model.decode(s)
    assert torch.equal(model.encode(flux(), "red"), s)
    assert torch.equal(model.transform(x)[0], model.transform(x, "red")[0])
    assert model.wave_rest.dtype == torch.float64
    assert model.wave_rest.tolist() == REST.wave.tolist()


def test_a_batch_brings_its_instrument() -> None:
    model = straight()
    blue = batch(flux=flux(3, 150), ivar=torch.ones(3, 150), instrument="blue")
    assert model.encode(blue).shape == (3, 2)
    assert model(blue).shape == (3, 150)


def test_transform_redshifts_onto_the_instrument() -> None:
    model = straight()
    z = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
    x = model.decode(torch.randn(3, 2, generator=torch.Generator().manual_seed(1)))
    y, valid = model.transform(x, "blue", z)
    expected = redshift(x, torch.tensor(REST.wave), torch.tensor(Blue.grid.wave), z)
    assert torch.equal(y, expected[0])
    assert torch.equal(valid, expected[1])


def test_redshift_is_zero_by_default_and_may_be_one_number() -> None:
    model = straight()
    x = model.decode(torch.ones(3, 2))
    assert torch.equal(model.transform(x)[0], model.transform(x, z=0.0)[0])
    many = model.transform(x, z=[0.25] * 3)
    for z in (0.25, [0.25], np.float64(0.25), torch.tensor(0.25)):
        assert torch.equal(model.transform(x, z=z)[0], many[0])


@pytest.mark.parametrize("kind", [float, list, np.array])
def test_redshifts_keep_their_precision(kind: Any) -> None:
    model = straight().double()
    x = model.decode(torch.ones(1, 2, dtype=torch.float64))
    value = 0.31415926535
    exact = model.transform(x, z=torch.tensor([value], dtype=torch.float64))[0]
    given = value if kind is float else kind([value])
    assert torch.equal(model.transform(x, z=given)[0], exact)


def test_other_numbers_of_redshifts_are_refused() -> None:
    model = straight()
    with pytest.raises(InputError, match="2 redshifts for 3 spectra"):
        model.transform(model.decode(torch.ones(3, 2)), z=[0.1, 0.2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, -2.0])
def test_impossible_redshifts_are_refused(bad: float) -> None:
    model = straight()
    with pytest.raises(RedshiftError, match=r"rows \[1\]"):
        model.transform(model.decode(torch.ones(3, 2)), z=[0.1, bad, 0.2])


def test_unknown_redshifts_name_their_spectra() -> None:
    model = straight()
    unknown = batch(z=[0.0, float("nan"), float("nan")])
    for call in (model, model.reconstruct, model.loss):
        with pytest.raises(RedshiftError, match=r"redshift of 2 spectra is unknown: 8, 9\."):
            call(unknown)
    assert model.encode(unknown).shape == (3, 2)
    assert model.reconstruct(unknown, z=0.1).observed.shape == (3, 200)


def test_an_instrument_with_another_grid_is_refused() -> None:
    model = straight()
    with pytest.raises(GridError, match=r"size=201.*the model was made for.*size=200"):
        model.transform(model.decode(torch.ones(1, 2)), OtherRed())


def test_an_instrument_that_is_not_served_is_given_its_grid() -> None:
    model = straight(lsf={"red": nn.Identity()})
    x = model.decode(torch.ones(2, 2))
    y, valid = model.transform(x, Green(), z=0.1)
    assert y.shape == valid.shape == (2, 120)
    with pytest.raises(UnknownNameError, match="'green'"):
        model.encode(flux(2, 120), Green())
    with pytest.raises(UnknownNameError, match=r"'gren'.*Known: blue, red"):
        model.transform(x, "gren")


def test_an_instrument_may_be_named_or_given() -> None:
    model = straight()
    x = model.decode(torch.ones(2, 2))
    assert torch.equal(model.transform(x, "blue")[0], model.transform(x, Blue())[0])
    assert torch.equal(model.encode(flux(2, 150), "blue"), model.encode(flux(2, 150), Blue()))


@pytest.mark.parametrize("shape", [(200,), (3, 150), (3, 200, 1)])
def test_spectra_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    message = r"spectra of red must have shape \(B, 200\).*instrument\.batch"
    for call in (straight().encode, straight()):
        with pytest.raises(InputError, match=message):
            call(torch.ones(shape))


def test_reconstruction_is_encode_decode_transform() -> None:
    model, spectra = straight(), batch()
    made = model.reconstruct(spectra)
    assert torch.equal(made.latents, model.encode(spectra))
    assert torch.equal(made.restframe, model.decode(made.latents))
    observed, valid = model.transform(made.restframe, "red", spectra.z)
    assert torch.equal(made.observed, observed)
    assert torch.equal(made.valid, valid)
    assert torch.equal(model(spectra), observed)
    assert (observed[~valid] == 0).all()


def test_latents_may_be_given() -> None:
    s = torch.tensor([[1.0, 0.0]] * 3)
    made = straight().reconstruct(batch(), s=s)
    assert torch.equal(made.latents, s)
    torch.testing.assert_close(made.observed[made.valid], torch.ones(int(made.valid.sum())))


def test_normalize_fits_the_amplitude_with_the_weights() -> None:
    model = straight()
    spectra = batch(flux=5 * torch.ones(3, 200))
    made = model.reconstruct(spectra, s=torch.tensor([[1.0, 0.0]] * 3), normalize=True)
    torch.testing.assert_close(made.observed[made.valid], torch.full((int(made.valid.sum()),), 5.0))
    torch.testing.assert_close(made.restframe, torch.full_like(made.restframe, 5.0))


def test_masked_pixels_do_not_set_the_amplitude() -> None:
    values, ivar = 5 * torch.ones(3, 200), torch.ones(3, 200)
    values[:, :80], ivar[:, :80] = 1e6, 0.0
    s = torch.tensor([[1.0, 0.0]] * 3)
    masked = batch(flux=values, ivar=ivar)
    assert straight().reconstruct(masked, s=s, normalize=True).observed[0, 50] == pytest.approx(5.0)
    given = straight()(values, "red", z=0.0, s=s, normalize=True, weights=ivar)
    assert given[0, 50] == pytest.approx(5.0)
    assert straight().loss(masked, s=s, normalize=True).item() == pytest.approx(0.0, abs=1e-6)


def test_loss_is_the_fidelity_where_the_model_reaches() -> None:
    model, spectra = straight(), batch()
    made = model.reconstruct(spectra)
    assert not made.valid.all() or spectra.z.max() > 0
    expected = losses.fidelity(spectra.flux, spectra.ivar * made.valid, made.observed, True)
    torch.testing.assert_close(model.loss(spectra, individual=True), expected)
    torch.testing.assert_close(model.loss(spectra), expected.sum())


@pytest.mark.parametrize("normalize", [False, True])
def test_loss_of_tensors_is_that_of_a_batch(normalize: bool) -> None:
    model, spectra = straight(), batch()
    ivar = 1 + torch.rand(3, 200)
    spectra = spectra.replace(ivar=ivar)
    by_tensor = model.loss(
        spectra.flux, ivar, instrument="red", z=spectra.z, normalize=normalize, individual=True
    )
    torch.testing.assert_close(by_tensor, model.loss(spectra, normalize=normalize, individual=True))
    assert by_tensor.shape == (3,)


def test_loss_takes_other_weights_than_those_of_the_batch() -> None:
    spectra = batch()
    doubled = straight().loss(spectra, 2 * spectra.ivar)
    torch.testing.assert_close(doubled, 2 * straight().loss(spectra))


def test_loss_of_tensors_needs_weights() -> None:
    with pytest.raises(InputError, match="loss needs ivar"):
        straight().loss(flux())


@dataclass(frozen=True)
class Blur:
    """A line spread function of each spectrum, which fails if it is touched."""

    n: int

    def __len__(self) -> int:
        return self.n

    def touched(self, *arguments: Any) -> Any:
        raise AssertionError("the line spread function was touched")

    __call__ = __getitem__ = to = cat = touched


def test_the_lsf_of_a_batch_is_not_applied() -> None:
    """The restframe of a model without an LSF already holds the resolution of its data."""
    model = straight()
    plain, blurred = batch(), batch(lsf=Blur(3))
    assert torch.equal(model(blurred), model(plain))
    assert torch.equal(model.loss(blurred), model.loss(plain))


class Double(nn.Module):
    def forward(self, y_BL: Tensor) -> Tensor:
        return 2 * y_BL


class Tilt(nn.Module):
    def forward(self, wave_L: Tensor, y_BL: Tensor) -> Tensor:
        return y_BL * (wave_L / 5000).to(y_BL)


def test_lsf_and_calibration_belong_to_an_instrument() -> None:
    plain, model = straight(), straight(lsf={"red": Double()}, calibration={"red": Tilt()})
    x = plain.decode(torch.ones(2, 2))
    tilt = torch.tensor(Red.grid.wave / 5000).float()
    torch.testing.assert_close(
        model.transform(x, "red")[0], 2 * plain.transform(x, "red")[0] * tilt
    )
    assert torch.equal(model.transform(x, "blue")[0], plain.transform(x, "blue")[0])


def test_double_precision_stays() -> None:
    model, spectra = straight().double(), batch().to(dtype=torch.float64)
    made = model.reconstruct(spectra, normalize=True)
    assert {made.latents.dtype, made.restframe.dtype, made.observed.dtype} == {torch.float64}
    assert model.loss(spectra).dtype == torch.float64
    torch.testing.assert_close(made.observed.float(), straight()(batch(), normalize=True))


def test_gradients_reach_parameters_and_redshifts() -> None:
    model = straight().train()
    z = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)
    model.loss(flux(), torch.ones(3, 200), z=z, normalize=True).backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    assert model.weight.grad is not None
    assert model.weight.grad.isfinite().all()
