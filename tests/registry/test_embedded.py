"""Models that a plugin brings along in its package."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spender_core import registry
from spender_core.errors import SpenderError, WeightsError
from spender_core.records import ModelCard

Survey = Callable[..., None]
Maker = Callable[..., Any]


@pytest.fixture
def embedded(survey: Survey, package: Path, small: Maker, card: ModelCard) -> Iterator[ModelCard]:
    """Card of a model whose file lies in the package of its plugin."""
    path = package / "models" / "small.safetensors"
    card = registry.save(path, small(), card)
    yield card.model_copy(update={"weights": "package:tiny_survey/models/small.safetensors"})
    path.unlink(missing_ok=True)


def test_an_embedded_model_loads_by_name(survey: Survey, embedded: ModelCard) -> None:
    survey([embedded])
    instrument, model = registry.load("small")
    assert instrument.name == "near"
    assert model.card == embedded
    assert registry.embedded("near") == embedded
    assert registry.embedded("far") is None


def test_an_altered_embedded_model_is_refused_with_both_hashes(
    survey: Survey, embedded: ModelCard, package: Path
) -> None:
    file = package / "models" / "small.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    survey([embedded])
    with pytest.raises(WeightsError, match=rf"{found}.*{embedded.sha256}"):
        registry.load("small")


def test_an_embedded_model_without_a_hash_is_refused(survey: Survey, embedded: ModelCard) -> None:
    survey([embedded.model_copy(update={"sha256": ""})])
    with pytest.raises(WeightsError, match="has no sha256, so its weights cannot be trusted"):
        registry.load("small")


def test_a_card_that_disagrees_with_its_file_is_refused(
    survey: Survey, embedded: ModelCard
) -> None:
    survey([embedded.model_copy(update={"latents": 3})])
    with pytest.raises(WeightsError, match="says latents = 2, the card of the plugin says 3"):
        registry.load("small")


@pytest.mark.parametrize(
    "place", ["tiny_survey/models/gone.safetensors", "not_there/a.safetensors"]
)
def test_embedded_weights_that_are_gone_are_refused_readably(
    survey: Survey, embedded: ModelCard, place: str
) -> None:
    survey([embedded.model_copy(update={"weights": f"package:{place}"})])
    with pytest.raises(SpenderError):
        registry.load("small")


def test_a_card_that_tells_no_weights_is_refused_by_name(survey: Survey, card: ModelCard) -> None:
    survey([card])
    with pytest.raises(WeightsError, match="'small' does not say where its weights are"):
        registry.load("small")
