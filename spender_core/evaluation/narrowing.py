"""How much narrower the lines of a model's restframe are than those that an instrument shows.

Widths are taken in the true restframe, in what the instrument shows of it without noise, and in
the restframe of the model. In squares, the instrument added seen^2 - true^2; a model that holds
the instrument's resolution removes nothing of it, one that is free of it removes all.

Shapes: B objects, L observed pixels, R restframe pixels of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.evaluation.linewidths import BLENDS, Blend, widths
from spender_core.evaluation.measures import Mock
from spender_core.evaluation.tables import Cell, Table, spread
from spender_core.grid import Grid
from spender_core.interfaces import Instrument, Model

LEAST = 5.0
"""Equivalent width that a line has in the truth, restframe Angstrom, if it is to be measured."""


@dataclass(frozen=True)
class Narrowing:
    """Widths of one line of the same objects, km/s, shape (B,); NaN where any is not measured.

    Attributes:
        line: Which.
        instrument: What observed them.
        true: In the true restframe.
        seen: As the instrument shows it, without noise.
        model: In the restframe of the model.
    """

    line: str
    instrument: str
    true: Tensor
    seen: Tensor
    model: Tensor

    @property
    def added(self) -> Tensor:
        """What the instrument adds, seen^2 - true^2, (km/s)^2, shape (B,)."""
        return self.seen.square() - self.true.square()

    @property
    def removed(self) -> Tensor:
        """What of it the model has not, seen^2 - model^2, (km/s)^2, shape (B,)."""
        return self.seen.square() - self.model.square()

    @property
    def shares(self) -> Tensor:
        """Removed over added, shape (B,): 1 if lines are as narrow as in truth, 0 as seen."""
        return self.removed / self.added.where(self.added > 0, torch.nan)

    @property
    def share(self) -> float:
        """Median of what was removed over that of what was added; NaN without any line."""
        return float(self.removed.nanmedian() / self.added.nanmedian())


@torch.no_grad()
def narrowing(
    mock: Mock,
    instrument: Instrument,
    model_BR: Tensor,
    rest: Grid,
    blends: Sequence[Blend] = BLENDS,
    least: float = LEAST,
) -> tuple[Narrowing, ...]:
    """Measure the widths of lines in the truth, as seen, and in a model's restframes.

    Args:
        mock: Mocks, noisy or not: what is seen is taken from their truth.
        instrument: What observed them.
        model_BR: What a model makes of them in restframe, in any units.
        rest: On which grid.
        blends: Lines to measure.
        least: Equivalent width that a line must have in the truth, restframe Angstrom.
    """
    grid, z_B = mock.sources.grid, mock.batch.z
    # where the source does not reach, nothing is known
    reached_BL = mock.truth != 0
    made = []
    for blend in blends:
        true = widths(torch.tensor(grid.wave), mock.sources.restframe, blend)
        seen = widths(torch.tensor(instrument.wave), mock.truth, blend, z_B, reached_BL)
        model = widths(torch.tensor(rest.wave), model_BR, blend)
        sigmas = torch.stack([true.sigma, seen.sigma, model.sigma])
        measured_B = sigmas.isfinite().all(dim=0) & (true.strength >= least)
        sigmas = sigmas.where(measured_B, torch.nan)
        made.append(Narrowing(blend.name, instrument.name, *sigmas))
    return tuple(made)


@torch.no_grad()
def narrowing_of(
    model: Model,
    instrument: Instrument,
    mock: Mock,
    blends: Sequence[Blend] = BLENDS,
    refine: int = 0,
    chunk: int = 64,
) -> tuple[Narrowing, ...]:
    """Measure the widths of lines in the restframes that a model makes of mocks.

    Args:
        model: The model.
        instrument: What observed the mocks.
        mock: The mocks. A model that uses the line spread function of each spectrum needs it for
            `refine`: `observe(..., lsf=True)`.
        blends: Lines to measure.
        refine: Steps of least squares from the encoder's latents, as in `Model.reconstruct`.
        chunk: Spectra together.
    """
    parts = [mock.batch[i : i + chunk] for i in range(0, len(mock.batch), chunk)]
    restframes = torch.cat([_restframe(model, part, refine) for part in parts])
    return narrowing(mock, instrument, restframes, model.rest, blends)


def _restframe(model: Model, batch: SpectrumBatch, refine: int) -> Tensor:
    if refine:
        return model.reconstruct(batch, refine=refine).restframe.cpu()
    return model.decode(model.encode(batch)).cpu()


def narrowing_table(measured: Sequence[Narrowing]) -> Table:
    """Return widths and shares as a table."""
    rows: list[tuple[Cell, ...]] = [
        (
            one.instrument,
            one.line,
            int(one.true.isfinite().sum()),
            *(spread(sigma.numpy()) for sigma in (one.true, one.seen, one.model)),
            spread(one.shares.numpy()),
            one.share,
        )
        for one in measured
    ]
    return Table(
        "Widths of lines in restframe, km/s, and the share of what the instrument adds to them, in "
        "squares, that the model removes: median (16–84 percent), and of medians",
        ("instrument", "line", "n", "truth", "as seen", "model", "removed", "of medians"),
        tuple(rows),
    )
