"""Rows of several batches, copied once into a new one.

Shapes: B spectra.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch, SpectrumLSF, unchecked
from spender_core.datasets.order import Integers
from spender_core.line_spread import BandedLSF, GaussianLSF

Piece = tuple[SpectrumBatch, Integers]
"""Spectra, and which rows of them."""


def gather(pieces: Sequence[Piece]) -> SpectrumBatch:
    """Return rows of batches of one instrument, in the order of the pieces; at least one piece."""
    batches, rows = [batch for batch, _ in pieces], [rows for _, rows in pieces]
    names = ("flux", "ivar", "z", "zerr", "norm", "flags")
    columns = {name: _taken([getattr(b, name) for b in batches], rows) for name in names}
    ids = [batch.ids[some] for batch, some in pieces if batch.ids is not None]
    return unchecked(
        batches[0],
        **columns,
        ids=np.concatenate(ids) if ids else None,
        lsf=None if batches[0].lsf is None else _lsf([b.lsf for b in batches], rows),
    )


def _taken(parts: Sequence[Tensor], rows: Sequence[Integers]) -> Tensor:
    """Return rows of tensors on the host one after the other, each copied once.

    By numpy, whose one thread is as fast as memory, and lets those that decode have the others.
    """
    count = sum(map(len, rows))
    made = torch.empty((count, *parts[0].shape[1:]), dtype=parts[0].dtype)
    out, start = made.numpy(), 0
    for values, some in zip(parts, rows, strict=True):
        # "raise", the default mode, would copy twice
        np.take(values.numpy(), some, axis=0, out=out[start : start + len(some)], mode="clip")
        start += len(some)
    return made


def _lsf(parts: Sequence[SpectrumLSF | None], rows: Sequence[Integers]) -> SpectrumLSF:
    gaussians = [part.sigma for part in parts if isinstance(part, GaussianLSF)]
    if gaussians:
        return GaussianLSF(_taken(gaussians, rows))
    bands = [part for part in parts if isinstance(part, BandedLSF)]
    return BandedLSF(_taken([part.data for part in bands], rows), bands[0].offsets)
