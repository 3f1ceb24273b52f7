"""Conditions drawn from the files of a survey: its real noise, sky, masks and resolution.

Shapes: C conditions, N spectra of a file, L observed pixels, K taps of a line spread function.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spender_core.archives.location import redacted
from spender_core.batch import Flag, SpectrumBatch
from spender_core.datasets.mock.broadening import gaussian_taps, matrix_taps
from spender_core.errors import InputError, NoSpectraError
from spender_core.interfaces.instrument import Instrument
from spender_core.interfaces.loader import FileConditions

FAINT = 5.0
"""Median signal-to-noise ratio of a pixel below which a spectrum of an object may stand for
one of the sky."""

MOST = 256
"""Conditions to take from files, if no number is given: their LSF fills the memory."""

_ENOUGH = 0.5
"""Share of pixels with data that a spectrum needs to be used."""
_WIDE = 101
"""Pixels of the running median that is the continuum of an object."""
_POOL = 7
"""Neighbouring pixels whose scatter is taken together."""
_HALF_NORMAL = 0.4549
"""Median of the square of a standard normal number."""

FloatArray = NDArray[np.float64]


def read_conditions(
    instrument: Instrument, files: Iterable[str], faint: float = FAINT, most: int = MOST
) -> dict[str, Any]:
    """Return the fields of `Conditions` of real spectra: of sky fibres, or else of faint objects.

    The variance is 1 / ivar, less what the photons of the object added, which are
    v (1 + flux / equal_light) by `FileConditions`; where masked, it is interpolated. The sky
    residual is the part of the scatter around the object's continuum that ivar does not
    explain, where all spectra together show it to be there. Masks are those of objects where
    there are any, in turn: of the pixels of SDSS, 14 percent are masked in sky fibres and 8
    percent in objects.

    Args:
        instrument: Whose files; its loader must have `conditions`.
        files: Paths or URLs.
        faint: Where there is no sky fibre, spectra with a median signal-to-noise ratio a pixel
            below this are used.
        most: Conditions at most; evenly chosen among more, of each file and of all.

    Raises:
        FileError: A file cannot be read.
        InputError: The loader does not tell how spectra were taken, or most is below 1.
        NoSpectraError: No file holds a spectrum of the sky, or of a faint object.
    """
    if instrument.loader is None:
        raise InputError(f"{instrument.name} reads no files; use Conditions.parametric")
    if most < 1:
        raise InputError(f"most must be 1 or more, not {most}")
    dark: list[_Taken] = []
    dim: list[_Taken] = []
    masks = []
    for url in files:
        batch, told = instrument.loader.load(url), instrument.loader.conditions(url)
        objects = _usable(batch) & ~_is_sky(batch)
        masks.append((batch.ivar > 0).numpy()[objects][:most])
        dark.append(_taken(url, batch, told, _usable(batch) & _is_sky(batch), most))
        if any(len(one.batch) for one in dark):
            dim.clear()
        else:
            dim.append(_taken(url, batch, told, objects & (batch.snr.numpy() < faint), most))
    parts = [_Spectra(one) for one in _thinned(dark, most) or _thinned(dim, most)]
    if not parts:
        raise NoSpectraError(
            f"none of {len(masks)} files of {instrument.name} holds a spectrum of a sky fibre, or of "
            f"an object with a median S/N below {faint:g}; give others, or use "
            "Conditions.parametric"
        )
    variance, light, excess, good = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("variance", "light", "excess", "good")
    )
    smooth = _running_median(variance / light, _WIDE)
    return {
        "variance": torch.from_numpy(variance).float(),
        "photons": torch.from_numpy(smooth).float(),
        "residual": torch.from_numpy(_residual(excess, variance, good)).float(),
        "good": torch.from_numpy(_masks(masks, good)),
        "lsf": _joined([part.taps for part in parts]),
        "seams": parts[0].seams,
        "sigma": _widths([part.sigma for part in parts]),
    }


class _Taken(NamedTuple):
    """Some spectra of a file, and what it tells of them."""

    url: str
    batch: SpectrumBatch
    told: FileConditions


def _taken(
    url: str, batch: SpectrumBatch, told: FileConditions, wanted: NDArray[np.bool_], most: int
) -> _Taken:
    """Return the spectra that are wanted, no more than some, without holding the others."""
    rows = np.flatnonzero(wanted)
    rows = rows[_evenly(len(rows), most)]
    return _Taken(
        url,
        batch[torch.from_numpy(rows)],
        FileConditions(
            told.equal_light[rows],
            None if told.sigma is None else told.sigma[rows],
            None if told.resolution is None else told.resolution[rows],
            told.seams,
        ),
    )


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return places among some, all of them or `most` that are evenly spread."""
    return np.arange(min(count, most)) * count // max(min(count, most), 1)


def _thinned(parts: Sequence[_Taken], most: int) -> list[_Taken]:
    """Return files with no more than `most` spectra in all, evenly chosen."""
    file = np.repeat(np.arange(len(parts)), [len(one.batch) for one in parts])
    chosen = np.isin(np.arange(len(file)), _evenly(len(file), most))
    kept = [chosen[file == k] for k in range(len(parts))]
    return [_taken(*one, rows, most) for one, rows in zip(parts, kept, strict=True) if rows.any()]


def _masks(masks: Sequence[NDArray[np.bool_]], own: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return pixels with data of usable objects, as many as `own` has, or `own` without any."""
    there = np.concatenate(masks)
    return there[np.arange(len(own)) % len(there)] if len(there) else own


class _Spectra:
    """Spectra of one file, without gaps: variance, equal light, excess, good, taps."""

    def __init__(self, taken: _Taken) -> None:
        url, batch, told = taken
        flux = batch.flux.numpy().astype(np.float64)
        ivar = batch.ivar.numpy().astype(np.float64)
        self.good = ivar > 0
        self.light = _filled(url, told.equal_light)
        continuum = _running_median(_filled(url, np.where(self.good, flux, np.nan)), _WIDE)
        total = np.divide(1, ivar, out=np.full(ivar.shape, np.nan), where=self.good)
        sky = 0 if bool(_is_sky(batch).all()) else continuum.clip(min=0)
        self.variance = _filled(url, total / (1 + sky / self.light), np.log, np.exp)
        self.excess = np.where(self.good, flux - continuum, 0)
        self.seams = told.seams
        self.sigma: Tensor | None = None
        if told.resolution is not None:
            self.taps = matrix_taps(torch.from_numpy(told.resolution).float())
        elif told.sigma is not None:
            self.sigma = torch.from_numpy(_filled(url, told.sigma)).float()
            self.taps = gaussian_taps(self.sigma)
        else:
            raise InputError(
                f"{redacted(url)} tells no line spread function: neither sigma nor resolution; "
                "leave it out"
            )


def _is_sky(batch: SpectrumBatch) -> NDArray[np.bool_]:
    return (batch.flags & int(Flag.NOT_TARGET)).bool().numpy()


def _usable(batch: SpectrumBatch) -> NDArray[np.bool_]:
    enough = (batch.ivar > 0).float().mean(dim=1) >= _ENOUGH
    return (enough & ((batch.flags & int(Flag.FIBRE)) == 0)).numpy()


def _filled(url: str, values: FloatArray, there: Any = None, back: Any = None) -> FloatArray:
    """Return rows with NaN interpolated, in the logarithm if functions say so."""
    filled = np.array(values, dtype=np.float64)
    for row in filled:
        known = np.flatnonzero(np.isfinite(row))
        if len(known) == 0:
            raise InputError(
                f"a spectrum of {redacted(url)} tells no sky or no resolution; leave that file out"
            )
        nodes = there(row[known]) if there else row[known]
        between = np.interp(np.arange(len(row)), known, nodes)
        row[:] = back(between) if back else between
    return filled


def _running_median(values: FloatArray, width: int, every: int = 8) -> FloatArray:
    """Return running medians along rows, the ends repeated, interpolated between some pixels."""
    padded = np.pad(values, ((0, 0), (width // 2, width // 2)), mode="edge")
    pixels = np.arange(values.shape[1])
    smooth = np.empty(values.shape)
    for row, out in zip(padded, smooth, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(row, width)[::every]
        out[:] = np.interp(pixels, pixels[::every], np.median(windows, axis=1))
    return smooth


def _residual(excess: FloatArray, variance: FloatArray, good: NDArray[np.bool_]) -> FloatArray:
    """Return the part of the scatter that noise does not explain, shape (C, L).

    Where squares exceed the variance by a factor 1 + e over all spectra and a few pixels, the
    scatter of each is multiplied by sqrt(e / (1 + e)), so that the residuals have the RMS of
    the excess, and the shape along the spectrum that the real ones have. The median of the
    squares decides, which a line of one object does not move.
    """
    chi2 = np.where(good, excess**2 / variance, np.nan)
    padded = np.pad(chi2, ((0, 0), (_POOL // 2, _POOL // 2)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _POOL, axis=1)
    pooled = np.moveaxis(windows, 1, 0).reshape(windows.shape[1], -1)
    count = np.isfinite(pooled).sum(axis=1)
    ratio = np.ones(len(pooled))
    ratio[count > 0] = np.nanmedian(pooled[count > 0], axis=1) / _HALF_NORMAL
    # the median of n squares scatters by 2.3 / sqrt(n) of itself
    sure = ratio > 1 + 3 * 2.3 / np.sqrt(np.maximum(count, 1))
    share = np.where(sure, np.sqrt(1 - 1 / np.maximum(ratio, 1)), 0)
    limit = 5 * np.sqrt(variance * np.maximum(ratio, 1))
    return share * np.clip(excess, -limit, limit)


def _widths(parts: list[Tensor | None]) -> Tensor | None:
    """Join widths, if all files tell them."""
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def _joined(parts: list[Tensor]) -> Tensor:
    """Join taps of different numbers, with zeros around the fewer."""
    most = max(part.shape[1] for part in parts)
    padded = [
        torch.nn.functional.pad(
            part, (0, 0, (most - part.shape[1]) // 2, (most - part.shape[1]) // 2)
        )
        for part in parts
    ]
    return torch.cat(padded)
