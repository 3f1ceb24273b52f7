"""Redshifts beyond a model: told where it was not trained, refused where nothing is left."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spender_core.batch import SpectrumBatch
from spender_core.errors import (
    InputError,
    RedshiftError,
    RedshiftRangeWarning,
    SpenderWarning,
    UnknownNameError,
)
from spender_core.grid import Linear, Log
from spender_core.interfaces import Instrument, Model
from spender_core.records import ModelCard

REST = Log(3.55, 1e-3, 260)  # 3548 to 6442 Angstrom


class Red(Instrument):
    name = "red"
    grid = Linear(5000.0, 4.0, 200)  # to 5796
    loader: Any = None


class Blue(Red):
    name = "blue"


class Flat(Model):
    """Knows the mean of a spectrum."""

    def __init__(self, z_range: tuple[float, float] | None = None) -> None:
        super().__init__([Red()], REST)
        self.weight = nn.Parameter(torch.ones(1))
        self.card = ModelCard(name="flat", architecture="flat", latents=1, z_range=z_range)

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        return flux_BL.mean(dim=1, keepdim=True) * self.weight

    def decode(self, s_BS: Tensor) -> Tensor:
        return s_BS.expand(-1, self.rest.size)

    @property
    def config(self) -> dict[str, Any]:
        return {}


def batch(*z: float, instrument: str = "red") -> SpectrumBatch:
    flux = torch.ones(len(z), 200)
    ids = np.array([(f"galaxy{k}",) for k in range(len(z))], dtype=[("NAME", "U9")])
    return SpectrumBatch(flux, flux, z=list(z), ids=ids, instrument=instrument)


def test_redshifts_out_of_range_are_told_once_a_call() -> None:
    model = Flat((0.0, 0.2))
    with pytest.warns(RedshiftRangeWarning) as told:
        made = model.reconstruct(batch(0.1, 0.3, -0.01, 0.2))
    (warning,) = told
    assert str(warning.message) == (
        "the model 'flat' was made for z of 0 to 0.2; beyond it are 2 of 4 spectra: "
        "galaxy1 (z = 0.3), galaxy2 (z = -0.01)"
    )
    assert warning.filename == __file__
    assert issubclass(RedshiftRangeWarning, SpenderWarning)
    assert made.observed.shape == (4, 200)


def test_at_most_five_spectra_are_named() -> None:
    with pytest.warns(
        RedshiftRangeWarning, match=r"7 of 7 spectra: .*galaxy4 \(z = 0\.3\), \.\.\.$"
    ):
        Flat((0.0, 0.2)).reconstruct(batch(*[0.3] * 7))


def test_redshifts_given_apart_are_told_too() -> None:
    model = Flat((0.0, 0.2))
    with pytest.warns(RedshiftRangeWarning, match=r"1 of 2 spectra: row 1 \(z = 0\.3\)"):
        model.reconstruct(torch.ones(2, 200), z=[0.1, 0.3])
    with pytest.warns(RedshiftRangeWarning, match="2 of 2 spectra: galaxy0"):
        model.reconstruct(batch(0.1, 0.1), z=0.3)


@pytest.mark.parametrize("z_range", [None, (0.0, 0.3)])
def test_redshifts_in_range_are_not_told(z_range: Any) -> None:
    model = Flat(z_range)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.reconstruct(batch(0.0, 0.3))
        model.reconstruct(torch.ones(2, 200))


def test_training_is_told_nothing() -> None:
    """Neither forward nor loss compares redshifts with the range."""
    model = Flat((0.0, 0.2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(batch(0.3, 3.0))
        losses = model.loss(batch(0.3, 3.0), individual=True)
    assert losses.tolist()[1] == 0


def test_a_spectrum_that_the_model_does_not_reach_is_refused() -> None:
    model = Flat()
    with pytest.raises(RedshiftError, match=r"3548 to 64\d\d .*1 of 2 spectra: galaxy1 \(z = 3\)"):
        model.reconstruct(batch(0.1, 3.0))
    with pytest.raises(RedshiftError, match="reaches no pixel of 1 of 1 spectra: row 0"):
        model.reconstruct(torch.ones(1, 200), z=-0.9)


def test_reaches_tells_what_the_transform_reaches() -> None:
    model = Flat()
    z = np.linspace(-0.5, 1.5, 401)
    _, valid = model.transform(torch.ones(401, REST.size), z=z)
    assert (model.reaches(z) == valid.any(dim=1)).all()
    assert model.reaches([0.1, float("nan"), -1.0, -2.0]).tolist() == [True, False, False, False]
    assert model.reaches(0.1, "red").tolist() == [True]


def test_unknown_and_impossible_redshifts_are_refused() -> None:
    for z in (float("nan"), float("inf"), -1.0, -5.0):
        with pytest.raises(RedshiftError):
            Flat().reconstruct(torch.ones(1, 200), z=z)
    with pytest.raises(RedshiftError, match="unknown: galaxy0"):
        Flat().reconstruct(batch(float("nan")))


@pytest.mark.parametrize("use", ["encode", "reconstruct", "loss", "__call__"])
def test_a_batch_of_another_instrument_is_refused(use: str) -> None:
    model = Flat()
    with pytest.raises(UnknownNameError, match=r"instrument of this model named 'blue'.*red"):
        getattr(model, use)(batch(0.1, instrument="blue"))
    with pytest.raises(InputError, match="the batch holds spectra of blue, not of red"):
        getattr(model, use)(batch(0.1, instrument="blue"), instrument="red")
    with pytest.raises(UnknownNameError, match="encoder for an instrument named 'blue'"):
        getattr(model, use)(batch(0.1, instrument="blue"), instrument=Blue())
