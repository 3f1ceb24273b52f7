"""What is drawn of one spectrum, as plain arrays in the archive's units.

Shapes: L observed pixels, R restframe pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spender_core.errors import InputError

if TYPE_CHECKING:
    from spender_core.batch import SpectrumBatch
    from spender_core.interfaces import Instrument, Reconstruction

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

_LIGHT = 299792.458  # km/s
_REACH = 4.0  # of a smoothing kernel, standard deviations


@dataclass(frozen=True)
class Curve:
    """A spectrum in restframe.

    Attributes:
        wave: Restframe wavelengths, shape (R,), Angstrom.
        flux: Flux density, shape (R,), in the units of the panel.
    """

    wave: FloatArray
    flux: FloatArray


@dataclass(frozen=True)
class Panel:
    """One spectrum to draw, in the archive's units.

    Attributes:
        title: What is written above it.
        wave: Observed wavelengths, shape (L,), Angstrom.
        flux: Flux density, shape (L,).
        sigma: Its uncertainty, shape (L,); infinite where masked.
        model: Reconstruction, shape (L,), NaN where the model does not reach; or None.
        z: Redshift, NaN if unknown.
        unit: Of the flux density, if it is to be named.
        notes: What follows the title and the redshift: instrument, model, S/N and the like.
        sky: Pixels that are never used since bright sky lines are there, shape (L,); or None.
        restframe: The reconstruction in restframe, beyond the observed range too; or None.
        truth: The true restframe spectrum, which mocks know; or None.
        raw: Flux density before it was smoothed, shape (L,); None if it was not.
        smoothing: How it was smoothed, in words.
    """

    title: str
    wave: FloatArray
    flux: FloatArray
    sigma: FloatArray
    model: FloatArray | None
    z: float
    unit: str = ""
    notes: str = ""
    sky: BoolArray | None = None
    restframe: Curve | None = None
    truth: Curve | None = None
    raw: FloatArray | None = None
    smoothing: str = ""

    @property
    def good(self) -> BoolArray:
        """Pixels that are not masked, shape (L,)."""
        return np.isfinite(self.sigma)

    @property
    def known(self) -> bool:
        """Whether the redshift is known."""
        return bool(np.isfinite(self.z))


def panel(
    batch: SpectrumBatch,
    row: int,
    instrument: Instrument,
    made: Reconstruction | None = None,
    made_row: int | None = None,
    title: str | None = None,
    unit: str = "",
    notes: str = "",
    wave_rest: Any = None,
    truth: Curve | None = None,
) -> Panel:
    """Return what to draw of one spectrum of a batch, and of its reconstruction.

    Args:
        batch: The spectra.
        row: Which of them.
        instrument: The instrument of the batch.
        made: Reconstructions, if there are any.
        made_row: The row of `made`, if it is another one than that of the batch.
        title: Written above; the spectrum's id by default.
        unit: Of the archive's flux density.
        notes: Written after title and redshift.
        wave_rest: Restframe wavelengths of `made`, shape (R,), Angstrom, if its restframe is
            to be drawn: `model.wave_rest`.
        truth: The true restframe spectrum, in the archive's units.
    """
    norm = float(batch.norm[row])
    ivar = batch.ivar[row].cpu().numpy().astype(float)
    sigma = np.full(len(ivar), np.inf)
    np.divide(norm, np.sqrt(ivar), out=sigma, where=ivar > 0)
    model, restframe = None, None
    if made is not None:
        index = row if made_row is None else made_row
        values = made.observed[index].detach().cpu().numpy() * norm
        model = np.where(made.valid[index].cpu().numpy(), values, np.nan)
        if wave_rest is not None:
            x_R = made.restframe[index].detach().cpu().numpy() * norm
            restframe = Curve(np.asarray(wave_rest, dtype=float), x_R)
    return Panel(
        batch.label(row) if title is None else title,
        instrument.wave,
        batch.flux[row].cpu().numpy() * norm,
        sigma,
        model,
        float(batch.z[row]),
        unit,
        notes,
        instrument.mask,
        restframe,
        truth,
    )


@dataclass(frozen=True)
class Kernel:
    """A Gaussian to smooth spectra with.

    Attributes:
        sigma: Its standard deviation.
        unit: Of that: "pixels" or "km/s".
    """

    sigma: float
    unit: str

    def __str__(self) -> str:
        return f"Gaussian of σ = {self.sigma:g} {self.unit}, ivar-weighted"


def kernel(text: str) -> Kernel:
    """Return the smoothing that a text asks for: `3` or `3px` (pixels), or `150km/s`.

    Raises:
        InputError: It is neither, or not positive.
    """
    plain = text.strip().casefold().replace(" ", "")
    unit = "km/s" if plain.endswith(("km/s", "kms")) else "pixels"
    for ending in ("km/s", "kms", "pixels", "pixel", "px"):
        plain = plain.removesuffix(ending)
    try:
        sigma = float(plain)
    except ValueError:
        sigma = np.nan
    if not 0 < sigma < np.inf:
        raise InputError(
            f"cannot smooth by {text!r}: give the σ of a Gaussian in pixels (3 or 3px) or in "
            "km/s (150km/s), above 0"
        )
    return Kernel(sigma, unit)


def smoothed(one: Panel, by: Kernel) -> Panel:
    """Return a spectrum smoothed with inverse variances as weights, and its model likewise.

    The model is averaged with the same weights, so that residuals still compare like with
    like. Sigma is that of the weighted mean; neighbouring pixels are no longer independent.
    Masked pixels stay masked.
    """
    ivar = np.where(one.good, one.sigma**-2.0, 0.0)
    steps = np.gradient(np.log(one.wave))
    width = by.sigma if by.unit == "pixels" else by.sigma / _LIGHT / float(steps.min())
    most = min(int(np.ceil(_REACH * width)), len(one.wave) - 1)
    if by.unit == "pixels":
        place, unit = np.arange(len(one.wave), dtype=float), by.sigma
    else:
        place, unit = np.log(one.wave) * _LIGHT, by.sigma

    def summed(values: FloatArray, power: int) -> FloatArray:
        return _convolve(values, place / unit, most, power)

    total = summed(ivar, 1)
    there = one.good & (total > 0)
    mean: Callable[[FloatArray], FloatArray] = lambda values: np.divide(  # noqa: E731
        summed(ivar * values, 1), total, out=np.full(len(total), np.nan), where=there
    )
    flux = np.where(there, mean(np.where(one.good, one.flux, 0.0)), one.flux)
    sigma = np.full(len(total), np.inf)
    np.divide(np.sqrt(summed(ivar, 2)), total, out=sigma, where=there)
    model = one.model
    if model is not None:
        reached = np.isfinite(model)
        weights = summed(ivar * reached, 1)
        values = summed(ivar * np.where(reached, model, 0.0), 1)
        smooth = np.divide(values, weights, out=model.astype(float), where=weights > 0)
        model = np.where(reached, smooth, np.nan)
    return replace(one, flux=flux, sigma=sigma, model=model, raw=one.flux, smoothing=str(by))


def _convolve(values: FloatArray, place: FloatArray, most: int, power: int) -> FloatArray:
    """Sum values of neighbours, times a Gaussian of their distance to some power."""
    total = np.array(values, dtype=float)
    for offset in range(1, most + 1):
        weight = np.exp(-0.5 * power * (place[offset:] - place[:-offset]) ** 2)
        total[:-offset] += weight * values[offset:]
        total[offset:] += weight * values[:-offset]
    return total
