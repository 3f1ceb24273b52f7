"""Do latents tell the object, and not its redshift or its noise?

The distance between latents of two views of one object, in units of the median distance
between different objects, after Liang et al. (2023, AJ 166, 75), who made latents of galaxies
invariant under redshift.

Shapes: B objects, S latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.datasets.mock.artefacts import Artefacts
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.observing import observe
from spender_core.datasets.mock.sources import Sources
from spender_core.errors import InputError
from spender_core.evaluation.tables import Spread, Table, spread
from spender_core.interfaces import Instrument, Model

SHIFTS = (0.03, 0.1, 0.2)
"""Differences in redshift between two noiseless copies of an object."""
RATIOS = (5.0, 20.0)
"""S/N a pixel of two noisy copies of an object."""
_TOGETHER = 16
"""Objects observed under one condition, the same in all views."""
PLAIN, WHITENED = "Euclidean", "whitened"


@dataclass(frozen=True)
class Metric:
    """A distance between latents, in units of the median one between different objects.

    Attributes:
        scale: Maps latents to coordinates in which the distance is Euclidean, shape (S, S).
        unit: Median distance between different objects, in those coordinates.
        others: Distances between different objects, in that unit.
    """

    scale: Tensor
    unit: float
    others: Spread

    @classmethod
    def of(cls, *references: Tensor, whiten: bool = False) -> Metric:
        """Take the unit, and if it is to whiten the covariance, from different objects.

        Args:
            references: Latents of different objects, shape (B, S). Those of several instruments
                count alike, and only distances within each: what the instruments themselves
                do to latents must not make the unit longer.
            whiten: Whether to whiten by the covariance within the references.

        Raises:
            InputError: There are less than two objects, or all latents are the same.
        """
        latents = [reference_BS.double() for reference_BS in references]
        if not latents or min(len(one) for one in latents) < 2:
            raise InputError("distances between different objects need at least two of them")
        size = latents[0].shape[1]
        scale = _whitening(latents) if whiten else torch.eye(size, dtype=torch.float64)
        distances = torch.cat([torch.pdist(one @ scale) for one in latents])
        unit = float(distances.median())
        if not unit > 0:
            raise InputError("the latents of most objects are the same, so there is no unit")
        return cls(scale, unit, spread((distances / unit).numpy()))

    def between(self, a_BS: Tensor, b_BS: Tensor) -> Tensor:
        """Return the distance between two views of the same objects, shape (B,)."""
        if a_BS.shape != b_BS.shape:
            raise InputError(f"latents of shapes {tuple(a_BS.shape)} and {tuple(b_BS.shape)}")
        apart_B: Tensor = ((a_BS.double() - b_BS.double()) @ self.scale).norm(dim=1)
        return apart_B / self.unit


def _whitening(latents: Sequence[Tensor]) -> Tensor:
    """Return the inverse square root of the covariance, shape (S, S), without empty directions."""
    covariance = sum(torch.cov(one.T).reshape(one.shape[1], -1) for one in latents) / len(latents)
    power, directions = torch.linalg.eigh(covariance)
    kept = power > 1e-10 * power.max()
    scale: Tensor = directions[:, kept] / power[kept].sqrt()
    return scale


@dataclass(frozen=True)
class Invariance:
    """Distances between two views of one object, in units of that between objects.

    Attributes:
        views: What differs between the views, e.g. "dz = 0.1".
        plain: Their Euclidean distances, one spread each.
        whitened: The same after whitening by the covariance of the latents.
        others: Distances between different objects, Euclidean and whitened: around 1.
    """

    views: tuple[str, ...]
    plain: tuple[Spread, ...]
    whitened: tuple[Spread, ...]
    others: tuple[Spread, Spread]

    def table(self) -> Table:
        """Return the distances as a table."""
        rows = [
            (view, one.n, one, other)
            for view, one, other in zip(self.views, self.plain, self.whitened, strict=True)
        ]
        return Table(
            "Latent distance between two views of one object, over the median distance between "
            "different objects: median (16–84 percent)",
            ("two views", "n", PLAIN, WHITENED),
            (*rows, ("different objects", self.others[0].n, *self.others)),
        )


View = Callable[..., SpectrumBatch]
"""Observes the same objects: `view(dz=0.1)` without noise, `view(snr=5.0, seed=1)` with it."""


@dataclass(frozen=True)
class MockViews:
    """A `View` of mock objects, each always under the same condition, without artefacts.

    Attributes:
        sources: The objects.
        instrument: What observes them.
        conditions: How it observes.
        seed: Of the draw of conditions; noise has seeds of its own.
        ratio: S/N that the inverse variance of noiseless views tells.
    """

    sources: Sources
    instrument: Instrument
    conditions: Conditions
    seed: int = 0
    ratio: float = 20.0

    def __call__(
        self, dz: float = 0.0, snr: float | None = None, seed: int | None = None
    ) -> SpectrumBatch:
        """Observe all objects, without noise if no S/N is given."""
        draw = torch.Generator().manual_seed(self.seed)
        parts = []
        for start in range(0, len(self.sources), _TOGETHER):
            sources = self.sources[start : start + _TOGETHER]
            one = int(torch.randint(len(self.conditions), (1,), generator=draw))
            taken = observe(
                sources.at(sources.z + dz),
                self.instrument,
                self.conditions[one : one + 1],
                torch.Generator().manual_seed(100_003 * (seed or 0) + start),
                snr=torch.full((len(sources),), snr or self.ratio),
                artefacts=Artefacts.none(),
                noiseless=snr is None,
            )
            parts.append(taken.batch)
        return SpectrumBatch.cat(parts)


def with_room(sources: Sources, z_range: tuple[float, float], most: float) -> Sources:
    """Return sources with redshifts squeezed so that they stay in range when `most` is added."""
    low, high = z_range
    if high - low <= most:
        raise InputError(f"redshifts of {low:g} to {high:g} leave no room for shifts of {most:g}")
    part = ((sources.z - low) / (high - low)).clamp(0, 1)
    return sources.at(low + part * (high - low - most))


@torch.no_grad()
def invariance(
    model: Model,
    view: View,
    shifts: Sequence[float] = SHIFTS,
    ratios: Sequence[float] = RATIOS,
) -> Invariance:
    """Measure how far the latents of two views of one object are apart.

    Args:
        model: The model.
        view: Called with `dz`, it returns noiseless spectra of the objects, redshifted
            by that much more than at first; with `snr` and `seed`, noisy ones at their
            first redshifts.
        shifts: Differences in redshift to try.
        ratios: S/N at which two realisations of the noise are compared.
    """
    latents = encoder(model)
    first = latents(view(dz=0.0))
    metrics = Metric.of(first), Metric.of(first, whiten=True)
    pairs = {f"dz = {dz:g}": (first, latents(view(dz=dz))) for dz in shifts}
    for snr in ratios:
        pairs[f"S/N {snr:g}"] = tuple(latents(view(snr=snr, seed=seed)) for seed in (1, 2))
    measured = [
        tuple(spread(metric.between(*pair).numpy()) for pair in pairs.values())
        for metric in metrics
    ]
    others = (metrics[0].others, metrics[1].others)
    return Invariance(tuple(pairs), measured[0], measured[1], others)


def encoder(model: Model, chunk: int = 64) -> Callable[[SpectrumBatch], Any]:
    """Return a function that encodes a batch in parts, to latents (B, S) on the host."""

    def encode(batch: SpectrumBatch) -> Tensor:
        parts = [model.encode(batch[i : i + chunk]) for i in range(0, len(batch), chunk)]
        return torch.cat(parts).cpu()

    return encode
