"""Learn the PCA, which models are compared with, from mocks.

Shapes: B mocks, L observed pixels, R restframe pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from spender_core.errors import InputError
from spender_core.evaluation.measures import Mock
from spender_core.evaluation.pca import RestframePCA
from spender_core.evaluation.restframe import at_resolution, to_restframe
from spender_core.interfaces import Instrument, Model


def learn_pca(
    model: Model, instrument: Instrument, mocks: Iterable[Mock], size: int, n: int = 2000
) -> RestframePCA:
    """Learn components from the truth of mocks, on the restframe grid of a model.

    Pixels weigh as much as the survey's inverse variance gives them on average. If the
    model applies no LSF of the instrument, its restframe holds the instrument's resolution,
    and components are learned from the truth as broadened by it; else from the objects.

    Args:
        model: Its restframe grid is used, and its LSF later.
        instrument: What observed the mocks.
        mocks: Batches of them; no more are taken than needed.
        size: Number of components.
        n: Number of mocks to learn from.

    Raises:
        InputError: There are fewer mocks than components.
    """
    spectra: list[Tensor] = []
    weight_R = torch.zeros(model.rest.size, dtype=torch.float64)
    taken = 0
    for mock in mocks:
        rows = slice(0, n - taken)
        blank_BR = torch.zeros(len(mock.truth), model.rest.size)
        spectra.append(at_resolution(model, instrument, mock, blank_BR).truth[rows])
        weight_R += _weight(model, instrument, mock)[rows].double().sum(dim=0)
        taken += len(spectra[-1])
        if taken >= n:
            break
    if taken < size:
        raise InputError(f"{size} components cannot be learned from {taken} mocks; give more")
    return RestframePCA.learn(torch.cat(spectra), model.rest, size, weight_R)


def _weight(model: Model, instrument: Instrument, mock: Mock) -> Tensor:
    """Return ivar in the restframe, over its mean in each spectrum, shape (B, R)."""
    ivar_BL = mock.batch.ivar
    mean_B1 = ivar_BL.sum(dim=1, keepdim=True) / mock.batch.good.sum(dim=1, keepdim=True).clamp(1)
    relative_BL = ivar_BL / torch.where(mean_B1 > 0, mean_B1, 1)
    return to_restframe(model, instrument, relative_BL, mock.batch.z)[0]
