"""A model as it was published, from a server on this machine that speaks as the hub does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from servers import COMMIT, Hub
from spender_desi import plugin as desi_plugin

from spender_core import registry
from spender_core.archives.downloads import cache
from spender_core.archives.location import parse
from spender_core.batch import SpectrumBatch
from spender_core.errors import WeightsError
from spender_core.plugins.hookspecs import hookimpl
from spender_core.plugins.manager import Candidate, installed
from spender_core.records import ModelCard


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def content(checkpoint: Callable[..., bytes]) -> bytes:
    return checkpoint()


@pytest.fixture
def published(hub: Hub, content: bytes, offer: Callable[[Iterable[Candidate]], Any]) -> ModelCard:
    """Card of the published model, of a plugin that stands in for the installed one."""
    digest = sha256(content)
    location = hub.offer(f"spender.desi-edr.galaxyae-{digest[:8]}.pt", content)
    changes = {"weights": location, "sha256": digest[:8], "mirrors": ()}
    cards = [
        card.model_copy(update=changes) if card.name == "desi_edr_galaxy" else card
        for card in desi_plugin.spender_models()
    ]
    stand_in = ModuleType("stand_in")
    stand_in.spender_instruments = desi_plugin.spender_instruments  # type: ignore[attr-defined]
    stand_in.spender_models = hookimpl(lambda: cards)  # type: ignore[attr-defined]
    stand_in.spender_models.__name__ = "spender_models"  # type: ignore[attr-defined]
    others = [candidate for candidate in installed() if candidate.distribution != "spender-desi"]
    offer([*others, Candidate("desi", "spender-desi", "0", lambda: stand_in)])
    return registry.info("desi_edr")


def test_a_published_model_is_downloaded_once_and_works(hub: Hub, published: ModelCard) -> None:
    instrument, model = registry.load("desi_edr")
    assert instrument is registry.instrument("desi")
    assert model.card.name == "desi_edr_galaxy"
    assert model.wave_rest.shape == (9780,)
    generator = np.random.default_rng(3)
    flux = 2 + generator.normal(scale=0.1, size=(2, instrument.grid.size))
    batch = instrument.batch(instrument.wave, flux, np.full_like(flux, 100.0), z=[0.1, 0.2])
    assert isinstance(batch, SpectrumBatch)
    made = model.reconstruct(batch)
    assert made.latents.shape == (2, 6)
    assert made.restframe.shape == (2, 9780)
    assert made.observed.shape == made.valid.shape == (2, 7781)
    assert all(torch.isfinite(part).all() for part in (made.latents, made.restframe, made.observed))
    assert made.valid.any()
    record = cache.entry(parse(published.weights)).record()
    assert record is not None
    assert record.sha256.startswith(published.sha256)
    assert len(record.sha256) == 64
    assert (record.revision, record.commit) == ("main", COMMIT)

    count = len(hub.requests)
    assert count > 0
    hub.stop()
    _, again = registry.load("desi_edr")
    assert len(hub.requests) == count
    assert torch.equal(again.encode(batch), model.encode(batch))


def test_a_published_model_of_another_hash_is_refused_and_not_kept(
    hub: Hub, published: ModelCard, content: bytes
) -> None:
    altered = content[:-1] + bytes([content[-1] ^ 1])
    hub.offer(published.weights.rpartition("/")[2], altered)
    with pytest.raises(WeightsError, match=rf"{sha256(altered)} .*, expected {published.sha256}"):
        registry.load("desi_edr")
    assert not cache.entry(parse(published.weights)).path.exists()
