"""Which spectra made a loss that is no number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spender_core.batch import SpectrumBatch
from spender_core.datasets.stream import Stream
from spender_core.interfaces import Model
from spender_core.training.feeding import Place

_CHUNK = 256
_SHOWN = 10


@torch.no_grad()
def accused(
    model: Model, streams: Mapping[str, Stream], places: Sequence[Mapping[str, Place]]
) -> tuple[list[str], list[str]]:
    """Return the names of spectra whose own loss is no number, and of all in some batches.

    The model has weights from before the batches: gradients that are no numbers move none.

    Args:
        model: The model.
        streams: From which the batches were.
        places: Where they were; of several processes, each has its part.
    """
    model.eval()
    bad, all_of_them = [], []
    for one in places:
        for name, place in one.items():
            batch = streams[name].batch(place.epoch, place.number)
            for first in range(0, len(batch), _CHUNK):
                chunk = batch[first : first + _CHUNK]
                names = [f"{name} {chunk.label(row)}" for row in range(len(chunk))]
                all_of_them += names
                bad += [names[row] for row in _no_numbers(model, chunk)]
    return bad, all_of_them


def _no_numbers(model: Model, batch: SpectrumBatch) -> list[int]:
    """Return the rows of spectra whose latents, restframe or loss are not finite."""
    there: Any = model._at_home(batch)
    s_BS = model.encode(there)
    x_BR = model.decode(s_BS)
    loss_B = model.loss(there, s=s_BS, individual=True)
    finite_B = s_BS.isfinite().all(dim=1) & x_BR.isfinite().all(dim=1) & loss_B.isfinite()
    rows: list[int] = (~finite_B).nonzero()[:, 0].tolist()
    return rows


def accusation(step: int, bad: Sequence[str], everyone: Sequence[str]) -> str:
    """Return what is said of a step whose loss is no number."""
    start = f"the loss or its gradients became NaN or infinite in step {step}"
    if bad and len(bad) < len(everyone):
        return (
            f"{start}, for {listed(bad)}. Look at these spectra; leave them out of the dataset, or "
            "by `reject` or `z_range` of the recipe"
        )
    why = (
        "every spectrum of its batch has such a loss: the training diverged"
        if bad
        else "no spectrum of its batch has such a loss alone"
    )
    return (
        f"{start}; {why}. The batch: {listed(everyone)}. Lower `lr`, or set `clip` of the phase, "
        "or look at these spectra"
    )


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
