"""Checks that a small untrained model works on the instrument, and is saved and loaded with it."""

from __future__ import annotations

import math

import torch

from spender_core import registry
from spender_core.grid import Log
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.records import ModelCard
from spender_core.testing.faults import NotApplicable, expect
from spender_core.testing.subject import Subject

_LATENTS, _RESTFRAME, _Z = 2, 300, 0.05


def check_model(subject: Subject) -> None:
    """A small model encodes, decodes and transforms spectra of the instrument."""
    model, size = _model(subject), subject.instrument.grid.size
    flux = torch.rand(2, size, generator=torch.Generator().manual_seed(1))
    s = model.encode(flux, subject.instrument)
    x = model.decode(s)
    y, valid = model.transform(x, subject.instrument, z=torch.full((2,), _Z))
    shapes = (tuple(s.shape), tuple(x.shape), tuple(y.shape))
    expect(
        shapes == ((2, _LATENTS), (2, _RESTFRAME), (2, size)) and bool(y.isfinite().all()),
        expected=f"finite spectra of {size} pixels on the grid",
        found=f"latents, restframe and observed of shapes {shapes}",
        fix="let grid, wave and mask of the instrument have one size",
    )
    expect(
        valid.double().mean() > 0.5,
        expected="a model of the same wavelengths covers most of the grid",
        found=f"{float(valid.double().mean()):.0%} of it",
        fix="check that the grid increases, in Angstrom",
    )


def check_registry_round_trip(subject: Subject) -> None:
    """A model on the instrument is saved, and loaded by the registry, with the same latents."""
    if subject.spec is None:
        raise NotApplicable("the instrument comes from no installed plugin")
    model, path = _model(subject), subject.folder / "check.safetensors"
    card = ModelCard(name="check", architecture="spectrum_autoencoder", latents=_LATENTS)
    registry.save(path, model, card)
    one, copy = registry.load(str(path))
    flux = torch.ones(1, subject.instrument.grid.size)
    expect(
        one.name == subject.instrument.name
        and torch.equal(copy.eval().encode(flux, one), model.encode(flux, subject.instrument)),
        expected="the loaded model has the same instrument and gives the same latents",
        found=f"instrument {one.name!r}, or other latents",
        fix="let name and grid of the instrument be those of the plugin's InstrumentSpec",
    )


def _model(subject: Subject) -> SpectrumAutoencoder:
    wave = subject.instrument.wave
    first, last = math.log10(wave[0] / (1 + _Z)), math.log10(wave[-1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SpectrumAutoencoder(
            [subject.instrument],
            Log(first, (last - first) / (_RESTFRAME - 1), _RESTFRAME),
            n_latent=_LATENTS,
            filters=(4, 4, 4),
            encoder_hidden=(4,),
            decoder_hidden=(4,),
        )
    return model.eval()
