"""What a model refuses rather than computing nonsense, and what it puts right by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.grid import Linear
from spender_core.interfaces import Instrument
from spender_core.nn.autoencoder import SpectrumAutoencoder


class Small(Instrument):
    name, grid, loader = "small", Linear(4000.0, 10.0, 300), None


@pytest.fixture
def model() -> SpectrumAutoencoder:
    widths: dict[str, Any] = {"filters": [2, 4, 4], "encoder_hidden": [4], "decoder_hidden": [4]}
    return SpectrumAutoencoder([Small()], Linear(3000.0, 5.0, 800), 3, **widths).eval()


@pytest.fixture
def batch() -> SpectrumBatch:
    ones = np.ones((2, 300))
    return Small().batch(Small.grid.wave, ones, ones, z=[0.1, 0.2])


def test_a_batch_is_brought_to_the_type_of_the_model(
    model: SpectrumAutoencoder, batch: SpectrumBatch
) -> None:
    expected = model.reconstruct(batch).observed
    model = model.double()
    made = model.reconstruct(batch)
    assert made.observed.dtype == model.encode(batch).dtype == model.loss(batch).dtype
    assert made.observed.dtype == torch.float64
    torch.testing.assert_close(made.observed, expected.double(), rtol=1e-4, atol=1e-5)


def test_a_tensor_of_another_type_is_refused(model: SpectrumAutoencoder) -> None:
    with pytest.raises(InputError, match=r"float64 on cpu, the model is torch\.float32"):
        model.encode(torch.ones(2, 300, dtype=torch.float64))


@pytest.mark.parametrize(
    "call",
    [
        lambda m, f: m.transform(torch.ones(2, 900), z=0.1),
        lambda m, f: m.transform(torch.ones(800), z=0.1),
        lambda m, f: m.loss(f, torch.ones(1, 300), z=0.1),
        lambda m, f: m.reconstruct(f, z=0.1, weights=torch.ones(300)),
        lambda m, f: m.reconstruct(f, z=0.1, s=torch.ones(3, 3)),
    ],
    ids=["long restframe", "flat restframe", "one ivar", "flat weights", "other latents"],
)
def test_shapes_that_would_broadcast_are_refused(
    model: SpectrumAutoencoder, call: Callable[[Any, Any], Any]
) -> None:
    with pytest.raises(InputError):
        call(model, torch.ones(2, 300))


def test_an_instrument_without_files_says_so() -> None:
    with pytest.raises(InputError, match="small reads no files"):
        Small().read("a.fits")
    with pytest.raises(InputError, match="give a path"):
        Small().read(5)


def test_ids_and_lsf_must_be_of_their_kind(batch: SpectrumBatch) -> None:
    with pytest.raises(InputError, match="ids must be a numpy array"):
        batch.replace(ids=[(1, 2), (3, 4)])
    with pytest.raises(InputError, match="SpectrumLSF"):
        batch.replace(lsf=[1, 2])
