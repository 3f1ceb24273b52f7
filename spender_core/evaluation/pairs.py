"""Does a joint model see one object where two instruments look at it?

The distance between the latents of one object, seen by two instruments, in units of the median
distance between different objects seen by one of them; the measure is that of `invariance`.

Shapes: B objects, S latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch

from spender_core.errors import InputError
from spender_core.evaluation.invariance import PLAIN, WHITENED, Metric, View, encoder
from spender_core.evaluation.tables import Spread, Table, spread
from spender_core.interfaces import Model

RATIOS = (20.0, 5.0)
"""S/N a pixel at which instruments are compared, beside noiseless spectra."""


@dataclass(frozen=True)
class Agreement:
    """Distances between views of one object by two instruments, over that between objects.

    Attributes:
        views: Which views, e.g. "desi and sdss, noiseless".
        plain: Their Euclidean distances, one spread each.
        whitened: The same after whitening by the covariance of the latents.
        others: Distances between different objects seen by one instrument, of the same views.
    """

    views: tuple[str, ...]
    plain: tuple[Spread, ...]
    whitened: tuple[Spread, ...]
    others: tuple[Spread, ...]

    def table(self) -> Table:
        """Return the distances as a table."""
        rows = zip(
            self.views, (one.n for one in self.plain), self.plain, self.whitened, self.others,
            strict=True,
        )  # fmt: skip
        return Table(
            "Latent distance between one object seen by two instruments, over the median distance "
            "between different objects: median (16–84 percent)",
            ("two views", "n", PLAIN, WHITENED, "different objects"),
            tuple(rows),
        )


@torch.no_grad()
def agreement(
    model: Model, views: Mapping[str, View], ratios: Sequence[float] = RATIOS
) -> Agreement:
    """Measure how far the latents of one object seen by two instruments are apart.

    Every pair has a unit of its own, from the noiseless latents of both instruments.

    Args:
        model: A model that serves all these instruments.
        views: For each instrument, by name, what observes the same objects in the same order,
            `invariance.MockViews` for example. Their redshifts and wavelengths may differ.
        ratios: S/N at which noisy spectra are compared, each with noise of its own.

    Raises:
        InputError: There are less than two instruments, or they see different numbers of objects.
    """
    if len(views) < 2:
        raise InputError(
            f"instruments are compared in pairs; got {', '.join(views) or 'none'}, give two or more"
        )
    latents = encoder(model)
    seen = {(name, "noiseless"): latents(view()) for name, view in views.items()}
    for snr in ratios:
        for seed, (name, view) in enumerate(views.items(), start=1):
            seen[name, f"S/N {snr:g}"] = latents(view(snr=snr, seed=seed))
    titles, measured = [], []
    for a, b in combinations(views, 2):
        reference = seen[a, "noiseless"], seen[b, "noiseless"]
        metrics = Metric.of(*reference), Metric.of(*reference, whiten=True)
        for how in ("noiseless", *(f"S/N {snr:g}" for snr in ratios)):
            apart = [spread(one.between(seen[a, how], seen[b, how]).numpy()) for one in metrics]
            titles.append(f"{a} and {b}, {how}")
            measured.append((*apart, metrics[0].others))
    return Agreement(tuple(titles), *zip(*measured, strict=True))
