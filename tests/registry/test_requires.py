"""A file says which packages it needs, and a refusal says how to get them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spender_core import registry, weights
from spender_core.errors import UnknownNameError
from spender_core.nn.flow import MaskedAutoregressiveFlow
from spender_core.records import ModelCard, ServedInstrument

Survey = Callable[..., None]
Maker = Callable[..., Any]


def test_a_saved_card_names_the_distributions_it_needs(
    survey: Survey, path: Path, small: Maker, card: ModelCard, flow_card: ModelCard
) -> None:
    assert registry.save(path, small("near", "far"), card).requires == ("spender-tiny",)
    assert weights.read_card(path).requires == ("spender-tiny",)
    served = ServedInstrument(name="elsewhere", grid="0")
    flow = MaskedAutoregressiveFlow(3, hidden=6, transforms=2, blocks=1)
    card = flow_card.model_copy(update={"instruments": (served,), "requires": ("old-name",)})
    assert registry.save(path, flow, card).requires == ()


def test_a_missing_instrument_says_what_to_install(
    survey: Survey, path: Path, small: Maker, card: ModelCard
) -> None:
    registry.save(path, small("near"), card)
    survey(other="tiny_survey:Far")
    with pytest.raises(UnknownNameError, match=r"'near'.*pip install spender-tiny; .*if you trust"):
        registry.load(path)


def test_a_missing_architecture_says_what_to_install(
    survey: Survey, path: Path, small: Maker, card: ModelCard
) -> None:
    saved = registry.save(path, small("near"), card)
    changes: dict[str, Any] = {"architecture": "theirs", "requires": ("their-nets", "spender-tiny")}
    weights.write(path, small("near"), saved.model_copy(update=changes))
    with pytest.raises(UnknownNameError, match=r"'theirs'.*pip install their-nets spender-tiny;"):
        registry.load(path)
    weights.write(path, small("near"), saved.model_copy(update=changes | {"requires": ()}))
    with pytest.raises(UnknownNameError, match=r"'theirs'.*Install the plugin that has it"):
        registry.load(path)


def test_a_missing_survey_of_a_published_model_names_the_known_plugins(
    survey: Survey, path: Path, small: Maker, card: ModelCard
) -> None:
    saved = registry.save(path, small("near"), card)
    served = saved.instruments[0].model_copy(update={"name": "desi"})
    changes: dict[str, Any] = {"instruments": (served,), "requires": ()}
    weights.write(path, small("near"), saved.model_copy(update=changes))
    with pytest.raises(UnknownNameError, match=r"'desi'.*spender-sdss and spender-desi"):
        registry.load(path)


@pytest.mark.parametrize("name", ["spender-sdss", "a", "A.b_c-9"])
def test_names_of_distributions_are_allowed(name: str) -> None:
    card = ModelCard(name="m", architecture="maf", latents=1, requires=(name,))
    assert card.requires == (name,)


@pytest.mark.parametrize(
    "name",
    ["", "-e", "--pre", "a b", "a==1", "a[b]", "a;b", "a@b", "../a", "a-", "ä", "a\n", "a" * 65],
)
def test_anything_else_is_no_distribution(name: str) -> None:
    with pytest.raises(ValueError, match=r"no name of a distribution|control character"):
        ModelCard(name="m", architecture="maf", latents=1, requires=(name,))
