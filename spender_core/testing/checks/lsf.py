"""Checks of the line spread function of each spectrum, for loaders that read it."""

from __future__ import annotations

import numpy as np
import torch

from spender_core.batch import SpectrumBatch
from spender_core.interfaces import Loader
from spender_core.testing.faults import ContractError, NotApplicable, expect
from spender_core.testing.subject import Subject


def check_lsf(subject: Subject) -> None:
    """Each spectrum has an LSF of the grid's shape, and broadening a constant leaves it."""
    batch = _with_lsf(subject)
    try:
        level = batch.lsf(torch.ones_like(batch.flux))
        fits = level.shape == batch.flux.shape
        found = f"shape {tuple(level.shape)}"
    except (ValueError, RuntimeError) as error:
        fits, found = False, str(error)
    expect(
        fits and len(batch.lsf) == len(batch),
        expected=f"the LSF broadens spectra of shape {tuple(batch.flux.shape)}",
        found=f"wrong shape: {found}",
        fix="sigma has shape (spectra, pixels), diagonals (spectra, diagonals, pixels)",
    )
    middle = level[:, level.shape[1] // 4 : -(level.shape[1] // 4)].double()
    median = float(middle.median())
    expect(
        abs(median - 1) < 0.05,
        expected="the LSF is normalised: it turns a constant 1 into 1, to 5 percent",
        found=f"not normalised: it turns 1 into {median:g}",
        fix="divide kernels by their sums, or use GaussianLSF, which keeps flux",
    )


def check_lsf_width(subject: Subject) -> None:
    """The width of the LSF is that of the example, in pixels."""
    example = subject.example
    if example.sigma is None or example.line is None:
        raise NotApplicable("the example states no width of the LSF, or no line")
    batch, line, wave = _with_lsf(subject), example.line, subject.instrument.wave
    pixel = int(np.argmin(np.abs(wave - line.wave)))
    spike = torch.zeros_like(batch.flux)
    spike[:, pixel] = 1.0
    shape = batch.lsf(spike)[line.row].double().numpy()
    places = np.arange(len(wave)) - pixel
    sigma = float(np.sqrt(max((shape * places**2).sum() / shape.sum(), 0.0)))
    width = float(np.gradient(wave)[pixel])
    units = {"Angstrom": example.sigma * width, "FWHM": example.sigma * 2.3548}
    near = [f"; that is {unit}" for unit, v in units.items() if abs(sigma / v - 1) < 0.1]
    # a Gaussian taken at pixels is wider than its sigma where that is small
    expect(
        abs(sigma - example.sigma) < 0.1 * example.sigma + 0.05,
        expected=f"sigma of the LSF is {example.sigma:g} pixels at {line.wave:g} Angstrom",
        found=f"{sigma:.3g} pixels{''.join(near[:1])}",
        fix="give sigma in pixels: Angstrom divided by the width of a pixel, FWHM by 2.3548",
    )


def _with_lsf(subject: Subject) -> SpectrumBatch:
    loader, path = subject.loader, subject.example.paths[0]
    if type(loader).load_with_lsf is Loader.load_with_lsf:
        raise NotApplicable(f"{type(loader).__name__} has no load_with_lsf, which is optional")
    try:
        batch = loader.load_with_lsf(str(path))
    except Exception as error:
        raise ContractError(
            "load_with_lsf gives what load gives, with an LSF of the same shape",
            f"{type(error).__name__}: {error}",
            "sigma has shape (spectra, pixels) and is in pixels, finite",
        ) from error
    expect(
        batch.lsf is not None and torch.equal(batch.flux, subject.raw().flux),
        expected="load_with_lsf gives the spectra of load, with an LSF",
        found="no LSF" if batch.lsf is None else "another flux",
        fix="return self.load(url).replace(lsf=...)",
    )
    return batch
