"""Simple stellar populations: what galaxies are mixed from.

Shapes: A ages, M pixels of `FINE`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spender_core.archives.fits.opening import open_fits
from spender_core.datasets.mock.sources import FINE
from spender_core.errors import InputError

SSP_FILES = "ndArch-ssp_hires_galaxy-*.fits"
"""Single-burst spectra as published with redmonster (github.com/timahutchinson/redmonster)."""


@dataclass(frozen=True)
class Populations:
    """Spectra of stars of one age each, without dust, gas or motion.

    Attributes:
        age: Ages, shape (A,), Gyr, two or more, increasing in equal steps of log10.
        flux: Flux density for each unit of mass formed, shape (A, M), float32, > 0, in units
            that all ages share.
        source: Where they come from, for provenance.
        dispersion: What they are broadened by already, km/s.

    Raises:
        InputError: Shapes do not fit, ages are not as said, or a flux is not finite and > 0.
    """

    age: Tensor
    flux: Tensor
    source: str
    dispersion: float = 0.0

    def __post_init__(self) -> None:
        if self.flux.shape != (len(self.age), FINE.size):
            raise InputError(
                f"flux must have shape ({len(self.age)}, {FINE.size}), got {tuple(self.flux.shape)}"
            )
        steps = self.age.double().log10().diff()
        if not (
            len(steps)
            and bool((self.age[0] > 0) & (steps > 0).all())
            and bool(((steps / steps.mean() - 1).abs() < 1e-3).all())
        ):
            raise InputError(
                "populations need two ages or more, in Gyr, that increase in equal steps of log10; "
                f"got {self.age.tolist()}"
            )
        if not bool((self.flux.isfinite() & (self.flux > 0)).all()):
            raise InputError(
                "the flux of populations must be finite and > 0 in every pixel, since features are "
                "deepened in its logarithm; fill what is missing"
            )
        if not 0 <= self.dispersion < math.inf:
            raise InputError(
                f"dispersion must be finite and 0 or more, in km/s, not {self.dispersion!r}"
            )


def read_populations(folder: str | Path) -> Populations:
    """Read stellar populations from a folder, or from any folder below it.

    The file is an image of ages x wavelengths, both in equal steps of a decimal logarithm
    (CRVAL1, CDELT1 in Angstrom; CRVAL2, CDELT2 in Gyr).

    Raises:
        InputError: There is no such file, or its axes are not those.
    """
    files = sorted(Path(folder).rglob(SSP_FILES))
    if not files:
        raise InputError(
            f"no {SSP_FILES} in {folder} or below; give a folder with the templates of "
            "redmonster, or none for the parametric populations"
        )
    with open_fits(str(files[-1])) as hdus:
        header, flux = hdus[0].header, np.asarray(hdus[0].data, dtype=np.float64)
    if flux.ndim != 2 or header.get("CNAME1") != "loglam" or header.get("CNAME2") != "log10-age":
        raise InputError(f"{files[-1]} is no image of ages x wavelengths (loglam, log10-age)")
    loglam = header["CRVAL1"] + header["CDELT1"] * np.arange(flux.shape[1])
    age = 10.0 ** (header["CRVAL2"] + header["CDELT2"] * np.arange(flux.shape[0]))
    fine = FINE.start + FINE.step * np.arange(FINE.size)
    if loglam[0] > fine[0] or loglam[-1] < fine[-1]:
        raise InputError(
            f"{files[-1]} covers {10 ** loglam[0]:.0f} to {10 ** loglam[-1]:.0f} Angstrom; "
            f"needed are {10 ** fine[0]:.0f} to {10 ** fine[-1]:.0f}"
        )
    # the mean over a pixel: interpolated integrals keep flux where the file is finer
    edges = np.append(fine, fine[-1] + FINE.step) - FINE.step / 2
    step = header["CDELT1"]
    integral = np.concatenate([np.zeros((len(age), 1)), np.cumsum(flux, axis=1) * step], axis=1)
    borders = np.append(loglam, loglam[-1] + step) - step / 2
    means = np.stack([np.diff(np.interp(edges, borders, row)) for row in integral]) / FINE.step
    return Populations(
        torch.tensor(age), torch.tensor(means, dtype=torch.float32), f"{files[-1].name}, redmonster"
    )
