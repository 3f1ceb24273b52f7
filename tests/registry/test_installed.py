"""The registry on the plugins that are really installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spender_core import registry
from spender_core.errors import UnknownNameError

PUBLISHED = {
    "desi_edr_galaxy",
    "desi_edr_galaxy_flow",
    "desi_edr_star",
    "desi_edr_star_flow",
    "sdss_I",
    "sdss_I_superres",
    "sdss_II",
    "sdss_II_galaxy_flow",
}


def test_the_published_models_are_listed() -> None:
    assert set(registry.list()) >= PUBLISHED
    assert registry.list() == sorted(registry.list())


def test_an_alias_gives_its_model() -> None:
    assert registry.info("desi_edr") == registry.info("desi_edr_galaxy")
    assert "desi_edr" not in registry.list()


def test_every_card_names_a_known_architecture_and_installed_instruments() -> None:
    for name in registry.list():
        card = registry.info(name)
        assert card.name == name
        assert card.architecture in {"maf", "spectrum_autoencoder", "weighted_autoencoder"}
        assert card.sha256
        for served in card.instruments:
            assert registry.instrument(served.name).grid.sha256 == served.grid


def test_the_installed_plugins_are_in_order() -> None:
    statuses = {status.distribution: status for status in registry.plugins()}
    for name in ("spender-core", "spender-sdss", "spender-desi"):
        assert statuses[name].ok, statuses[name].problems
    assert statuses["spender-sdss"].instruments == ("sdss", "boss")
    assert statuses["spender-desi"].instruments == ("desi",)


def test_instruments_are_made_once() -> None:
    assert {"boss", "desi", "sdss"} <= set(registry.instruments())
    assert registry.instrument("desi") is registry.instrument("desi")


@pytest.mark.parametrize("ask", [registry.info, registry.load])
def test_an_unknown_model_suggests_near_names(ask: Callable[[str], Any]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'desi_edr'"):
        ask("desi_erd")


def test_an_unknown_instrument_suggests_near_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'desi'"):
        registry.instrument("desy")
