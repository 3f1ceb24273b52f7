"""Chi square of several descriptions of the same spectra, and where along them it arises.

Shapes: B spectra, L observed pixels, S latents, W wavelength bins.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError, RedshiftRangeWarning
from spender_core.evaluation.pca import RestframePCA
from spender_core.evaluation.tables import plain
from spender_core.interfaces import Model, Reconstruction
from spender_core.losses import reduced_chi2

FloatArray = NDArray[np.float64]


class Truth(Protocol):
    """Objects in restframe, without noise: `mock.sources.Sources`, or alike."""

    @property
    def restframe(self) -> Tensor:
        """Flux densities, shape (B, M)."""
        ...

    @property
    def z(self) -> Tensor:
        """Redshifts, shape (B,), float64."""
        ...

    @property
    def grid(self) -> Any:
        """Their `Grid` of M restframe pixels."""
        ...


class Mock(Protocol):
    """Mock spectra with their truth: `mock.observing.Observed`, or alike."""

    @property
    def batch(self) -> SpectrumBatch:
        """The spectra as a survey would deliver them, normalised."""
        ...

    @property
    def truth(self) -> Tensor:
        """The same without noise and artefacts, in the units of the batch, shape (B, L)."""
        ...

    @property
    def sources(self) -> Truth:
        """What they were made from."""
        ...


@dataclass(frozen=True)
class Fit:
    """What one description predicts for the spectra of a batch.

    Attributes:
        observed: Shape (B, L), in the units of the batch.
        valid: Where it reaches, bool (B, L).
        parameters: How many numbers were fitted to each spectrum.
    """

    observed: Tensor
    valid: Tensor
    parameters: int


@torch.no_grad()
def reconstruct(model: Model, batch: SpectrumBatch, refine: int = 0) -> Reconstruction:
    """Encode and reconstruct, with fitted amplitude, also beyond the model's redshifts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RedshiftRangeWarning)
        return model.reconstruct(batch, normalize=True, refine=refine)


def fits(
    model: Model,
    batch: SpectrumBatch,
    made: Reconstruction,
    pca: RestframePCA | None = None,
    sizes: Sequence[int] = (),
    truth_BL: Tensor | None = None,
    refined: Reconstruction | None = None,
) -> dict[str, Fit]:
    """Return the descriptions of a batch: "model", "refined", "PCA k" of each size, "truth".

    The model has as many parameters as latents, and an amplitude; the truth has none.
    """
    parameters = made.latents.shape[1] + 1
    found = {"model": Fit(made.observed, made.valid, parameters)}
    if refined is not None:
        found["refined"] = Fit(refined.observed, refined.valid, parameters)
    if pca is not None and sizes:
        for size, fit in pca.fit(model, batch, sizes).items():
            found[pca_name(size)] = Fit(fit.observed, fit.valid, size)
    if truth_BL is not None:
        found["truth"] = Fit(truth_BL.to(batch.flux), torch.ones_like(made.valid), 0)
    return found


def pca_name(size: int) -> str:
    """Return the name of the fit by some number of components."""
    return f"PCA {size}"


def common_weight(batch: SpectrumBatch, found: Mapping[str, Fit]) -> Tensor:
    """Return ivar where every description reaches, else 0, shape (B, L)."""
    weight_BL = batch.ivar
    for fit in found.values():
        weight_BL = weight_BL * fit.valid
    return weight_BL


def chi2(batch: SpectrumBatch, found: Mapping[str, Fit]) -> dict[str, FloatArray]:
    """Return the reduced chi square of every description, shape (B,), on the same pixels."""
    weight_BL = common_weight(batch, found).double()
    flux_BL = batch.flux.double()
    return {
        name: reduced_chi2(flux_BL, weight_BL, fit.observed.double(), fit.parameters).numpy()
        for name, fit in found.items()
    }


class PullProfile:
    """Mean squared pull along the wavelength: sums over pixels, in bins.

    A pull is the deviation from a description over the uncertainty that the survey gives.

    Args:
        edges: Increasing edges of the bins, shape (W + 1,), Angstrom.
    """

    def __init__(self, edges: ArrayLike) -> None:
        self.edges = np.asarray(edges, dtype=np.float64)
        if self.edges.ndim != 1 or len(self.edges) < 2 or not np.all(np.diff(self.edges) > 0):
            raise InputError("a profile needs increasing edges of at least one bin")
        self.pixels = np.zeros(len(self.edges) - 1)
        self.squares: dict[str, FloatArray] = {}

    def add(
        self, wave_BL: Tensor, weight_BL: Tensor, flux_BL: Tensor, found: Mapping[str, Fit]
    ) -> None:
        """Add spectra.

        Args:
            wave_BL: Wavelength of every pixel, shape (B, L) or (L,), Angstrom.
            weight_BL: Inverse variances, 0 where not to be used, shape (B, L).
            flux_BL: Spectra, shape (B, L).
            found: Their descriptions by name; the same names in every call.
        """
        edges = torch.tensor(self.edges)
        place_BL = torch.bucketize(wave_BL.double(), edges, right=True).expand(weight_BL.shape)
        slots = len(self.edges) + 1
        used_BL = weight_BL > 0

        def total(values_BL: Tensor) -> FloatArray:
            sums = torch.bincount(place_BL.flatten(), values_BL.flatten().double(), slots)
            return sums.numpy()[1:-1]

        self.pixels += total(used_BL)
        for name, fit in found.items():
            pull_BL = weight_BL * (flux_BL - fit.observed).square()
            self.squares[name] = self.squares.get(name, 0.0) + total(pull_BL)

    @property
    def middle(self) -> FloatArray:
        """Centres of the bins, shape (W,)."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def mean(self, name: str) -> FloatArray:
        """Return the mean squared pull of one description, shape (W,); NaN in empty bins."""
        if name not in self.squares:
            raise InputError(f"no description {name!r} was added; there are {list(self.squares)}")
        full = np.full(len(self.pixels), np.nan)
        np.divide(self.squares[name], self.pixels, out=full, where=self.pixels > 0)
        return full

    def to_dict(self) -> dict[str, Any]:
        """Return edges, numbers of pixels and means as plain data."""
        means = {name: plain(self.mean(name).tolist()) for name in self.squares}
        pixels = [int(count) for count in self.pixels]
        return {"edges": plain(self.edges.tolist()), "pixels": pixels, "mean_square_pull": means}


def restframe_wave(wave: ArrayLike, z_B: Tensor) -> Tensor:
    """Return the restframe wavelength of every pixel, shape (B, L), float64, Angstrom."""
    return torch.tensor(np.asarray(wave, dtype=np.float64)) / (1 + z_B.double()[:, None])
