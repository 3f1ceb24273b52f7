"""Judge a model on a stream of mocks, batch by batch.

Shapes: B spectra, L observed pixels, R restframe pixels, W wavelength bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError, NoSpectraError
from spender_core.evaluation.invariance import Invariance
from spender_core.evaluation.measures import (
    Fit,
    Mock,
    PullProfile,
    chi2,
    common_weight,
    fits,
    reconstruct,
    restframe_wave,
)
from spender_core.evaluation.pca import RestframePCA
from spender_core.evaluation.real import RealSpectrum
from spender_core.evaluation.report import Example, MockResult, Report, RestProfile
from spender_core.evaluation.restframe import at_resolution, errors, profile
from spender_core.interfaces import Instrument, Model

FloatArray = NDArray[np.float64]

_CHUNK = 64
"""Spectra that go through model and PCA at once."""
_BINS = 90
"""Bins of a profile of pulls."""
_REST_BIN = 50.0
"""Width of a bin in the profile of restframe errors, Angstrom."""
_TELLING = 5.0
"""S/N a pixel from which a good fit says something."""
_KEPT = 48
"""Spectra among which the median example is sought."""


def evaluate(
    model: Model,
    instrument: Instrument,
    mocks: Iterable[Mock],
    n: int,
    pca: RestframePCA | None = None,
    sizes: Sequence[int] = (),
    invariance: Invariance | None = None,
    real: Iterable[RealSpectrum] = (),
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
    refine: int = 0,
) -> Report:
    """Judge a model on mocks that know their truth.

    Args:
        model: The model.
        instrument: What observed the mocks; one that the model serves.
        mocks: Batches of them, none seen in training; no more are taken than needed.
        n: Number of mocks.
        pca: Components, fitted to the same spectra.
        sizes: How many of them, one fit each; the first goes into the pictures.
        invariance: As measured by `invariance.invariance`, for the report.
        real: As judged by `real.judge_real`, for the report.
        about: What the report should say of the mocks.
        progress: Called with the number of spectra of each step.
        refine: Steps of `Model.reconstruct` towards the best latents; judged beside those of
            the encoder, if there are any.

    Raises:
        InputError: The model has no encoder for the instrument.
        NoSpectraError: There are no mocks.
    """
    if instrument.name not in model.instruments:
        raise InputError(
            f"the model serves {', '.join(model.instruments)}, not {instrument.name}; judge it on one of these"
        )
    judge = Judge(model, instrument, pca, tuple(sizes), refine)
    for mock in mocks:
        for start in range(0, min(len(mock.batch), n - judge.count), _CHUNK):
            stop = min(start + _CHUNK, start + n - judge.count, len(mock.batch))
            judge.add(_rows(mock, slice(start, stop)))
            if progress is not None:
                progress(stop - start)
        if judge.count >= n:
            break
    name = model.card.name if model.card else type(model).__name__
    told = {"latents": model.card.latents} if model.card else {}
    return Report(
        name, instrument.name, told | dict(about or {}), judge.result(), invariance, tuple(real)
    )


@dataclass(frozen=True)
class Part:
    """Mocks with what judging needs of them: a `Mock`."""

    batch: SpectrumBatch
    truth: torch.Tensor
    sources: Any


def _rows(mock: Mock, rows: slice) -> Mock:
    sources: Any = mock.sources
    return Part(mock.batch[rows], mock.truth[rows], sources[rows])


@dataclass
class Judge:
    """Gathers what a `MockResult` needs, batch by batch.

    Attributes:
        model: The model.
        instrument: What observed the mocks.
        pca: Components, fitted to the same spectra.
        sizes: How many of them, one fit each.
        refine: Steps towards the best latents.
        count: Number of mocks so far.
    """

    model: Model
    instrument: Instrument
    pca: RestframePCA | None = None
    sizes: tuple[int, ...] = ()
    refine: int = 0
    count: int = 0
    _columns: dict[str, dict[str, list[FloatArray]]] = field(default_factory=dict)
    _kept: list[Example] = field(default_factory=list)
    _best: Example | None = None
    _worst: Example | None = None

    def __post_init__(self) -> None:
        wave, rest = self.instrument.wave, self.model.rest.wave
        self._observed = PullProfile(np.linspace(wave[0], wave[-1] + 0.01, _BINS + 1))
        self._rest = PullProfile(np.geomspace(rest[0], rest[-1] + 0.01, _BINS + 1))
        # bins that hold at least two restframe pixels wherever they are
        width = max(_REST_BIN, 2.5 * float(np.diff(rest).max()))
        first = np.ceil(rest[0] / width) * width
        self._edges = np.arange(first, max(rest[-1], first + 1.5 * width), width)

    @torch.no_grad()
    def add(self, mock: Mock) -> None:
        """Add a batch of mocks."""
        batch = mock.batch
        made = reconstruct(self.model, batch)
        refined = reconstruct(self.model, batch, self.refine) if self.refine else None
        found = fits(self.model, batch, made, self.pca, self.sizes, mock.truth, refined)
        weight = common_weight(batch, found)
        wave = self.instrument.wave
        self._observed.add(torch.tensor(wave), weight, batch.flux, found)
        self._rest.add(restframe_wave(wave, batch.z), weight, batch.flux, found)
        rests = at_resolution(self.model, self.instrument, mock, made.restframe)
        within, beyond = profile(rests, self._edges)
        values = chi2(batch, found)
        self._gather("chi2", values)
        self._gather("errors", errors(rests))
        if refined is not None:
            better = errors(at_resolution(self.model, self.instrument, mock, refined.restframe))
            self._gather("errors", {f"{name}, refined": one for name, one in better.items()})
        self._gather("profile", {"within": within, "beyond": beyond})
        self._gather("about", {"snr": batch.snr.double().numpy(), "z": batch.z.numpy()})
        self._exemplify(batch, found, values)
        self.count += len(batch)

    def _gather(self, kind: str, columns: Mapping[str, FloatArray]) -> None:
        for name, column in columns.items():
            self._columns.setdefault(kind, {}).setdefault(name, []).append(column)

    def _exemplify(
        self, batch: SpectrumBatch, found: Mapping[str, Fit], values: Mapping[str, FloatArray]
    ) -> None:
        """Keep the best and the worst so far, and some among which to find a median one."""
        own = values["model"]
        if not np.isfinite(own).any():
            return

        def example(row: int, title: str) -> Example:
            return _example(batch, row, self.instrument.wave, found, values, title)

        telling = np.where(batch.snr.numpy() >= _TELLING, own, np.nan)
        if np.isfinite(telling).any():
            low = int(np.nanargmin(telling))
            if self._best is None or own[low] < self._best.chi2["model"]:
                self._best = example(low, f"best above S/N {_TELLING:g}")
        high = int(np.nanargmax(own))
        if self._worst is None or own[high] > self._worst.chi2["model"]:
            self._worst = example(high, "worst")
        rows = np.flatnonzero(np.isfinite(own))[: max(0, _KEPT - len(self._kept))]
        self._kept += [example(int(row), "median") for row in rows]

    def result(self) -> MockResult:
        """Return what was found.

        Raises:
            NoSpectraError: No mock was added.
        """
        if not self.count:
            raise NoSpectraError("there are no mocks to judge the model on")
        columns = {
            kind: {name: np.concatenate(parts) for name, parts in named.items()}
            for kind, named in self._columns.items()
        }
        near = None
        if self._kept:  # else no chi square is finite
            middle = np.nanmedian(columns["chi2"]["model"])
            near = min(self._kept, key=lambda one: abs(one.chi2["model"] - middle))
        chosen = [one for one in (self._best, near, self._worst) if one is not None]
        return MockResult(
            snr=columns["about"]["snr"],
            z=columns["about"]["z"],
            chi2=columns["chi2"],
            errors=columns["errors"],
            observed=self._observed,
            rest=self._rest,
            profile=RestProfile(self._edges, **columns["profile"]),
            examples=tuple(chosen),
        )


def _example(
    batch: SpectrumBatch,
    row: int,
    wave: FloatArray,
    found: Mapping[str, Fit],
    values: Mapping[str, FloatArray],
    title: str,
) -> Example:
    good = batch.good[row].numpy()
    sigma = np.full(len(wave), np.nan)
    sigma[good] = batch.ivar[row].double().numpy()[good] ** -0.5
    return Example(
        title=title,
        wave=wave,
        flux=np.where(good, batch.flux[row].double().numpy(), np.nan),
        sigma=sigma,
        fits={
            name: np.where(fit.valid[row].numpy(), fit.observed[row].double().numpy(), np.nan)
            for name, fit in found.items()
        },
        z=float(batch.z[row]),
        snr=float(batch.snr[row]),
        chi2={name: float(column[row]) for name, column in values.items()},
    )
