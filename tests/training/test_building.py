"""Models made of recipes: seeded, with the weights of a parent, and their parts by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import SMALL

from spender_core import registry
from spender_core.errors import InputError, UnknownNameError
from spender_core.interfaces import Model
from spender_core.nn.weighted import WeightedAutoencoder
from spender_core.records import ModelCard
from spender_core.training import Recipe
from spender_core.training.building import (
    ParentWarning,
    inherit,
    make_instruments,
    make_model,
    parts,
    trainable,
)

JOINT = SMALL.replace("[[phases]]", "[data.boss]\n[[phases]]")


def made(*settings: str, text: str = SMALL) -> Model:
    """Return the model of a recipe."""
    recipe = Recipe.parse(text, settings=settings)
    return make_model(recipe, make_instruments(recipe))


def same(one: Model, other: Model, prefix: str = "") -> bool:
    """Tell whether two models have the same weights, of the parts whose names begin so."""
    theirs = other.state_dict()
    return all(
        torch.equal(tensor, theirs[name])
        for name, tensor in one.state_dict().items()
        if name.startswith(prefix)
    )


@pytest.fixture
def parent(tmp_path: Path) -> str:
    """A file of the small model, drawn with another seed."""
    model = made("seed=11")
    card = ModelCard(name="parent", architecture="spectrum_autoencoder", latents=2)
    registry.save(tmp_path / "parent.safetensors", model, card)
    return str(tmp_path / "parent.safetensors")


def test_weights_hang_on_the_seed_alone() -> None:
    first = made()
    torch.manual_seed(99)
    torch.randn(7)
    before = torch.get_rng_state()
    assert same(made(), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(made("seed=4"), first)


def test_what_the_recipe_says_is_what_the_model_has() -> None:
    settings = ["model.lsf_taps.sdss=5", "model.uses_lsf=true", "model.conserve_flux=true"]
    settings += ["model.architecture=weighted_autoencoder", "model.rest.spacing=log"]
    settings += ["model.config={decoder_hidden=[7]}"]
    model = made(*settings, text=JOINT)
    assert type(model) is WeightedAutoencoder
    assert (model.uses_lsf, model.conserve_flux, list(model.lsf)) == (True, True, ["sdss"])
    assert list(model.instruments) == ["sdss", "boss"]
    assert model.rest == Recipe.parse(SMALL, settings=settings).model.rest.grid()
    assert model.decode(torch.ones(1, 2)).shape == (1, 60)


def test_parts_cover_every_parameter_once() -> None:
    model = made("model.lsf_taps.boss=3", text=JOINT)
    found = parts(model)
    assert set(found) == {"encoders.sdss", "encoders.boss", "decoder", "lsf.boss"}
    own = [id(parameter) for group in found.values() for parameter in group]
    assert sorted(own) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["all"], ["lsf.boss", "encoders.sdss", "encoders.boss", "decoder"]),
        (["encoders"], ["encoders.sdss", "encoders.boss"]),
        (["decoder", "encoders.boss"], ["encoders.boss", "decoder"]),
        (["lsf"], ["lsf.boss"]),
    ],
)
def test_patterns_choose_parts(patterns: list[str], expected: list[str]) -> None:
    model = made("model.lsf_taps.boss=3", text=JOINT)
    assert set(trainable(model, patterns)) == set(expected)


@pytest.mark.parametrize("pattern", ["encoder", "encoders.desi", "lsf", "", "dec"])
def test_patterns_without_a_part_are_refused(pattern: str) -> None:
    with pytest.raises(UnknownNameError, match=r"train.*Known: all, decoder, encoders"):
        trainable(made(), [pattern])


def test_all_of_a_parent_is_taken(parent: str, recwarn: pytest.WarningsRecorder) -> None:
    model = made(f"model.parent={parent}")
    assert same(model, made("seed=11"))
    assert not same(model, made())
    assert not recwarn.list


def test_what_is_not_taken_of_a_parent_is_said(parent: str) -> None:
    with pytest.warns(ParentWarning, match=r"begin untrained \(encoders\.boss"):
        model = made(f"model.parent={parent}", text=JOINT)
    other = made("seed=11")
    assert same(other, model)
    with pytest.warns(ParentWarning, match=r"not used \(decoder"):
        model = made(f"model.parent={parent}", "model.config.decoder_hidden=[8]")
    assert same(model, other, "encoders")
    assert not same(model, made("seed=11", "model.config.decoder_hidden=[8]"), "decoder")


def test_a_decoder_of_another_restframe_is_not_taken(parent: str) -> None:
    with pytest.warns(ParentWarning, match="decoder"):
        model = made(f"model.parent={parent}", "model.rest.low=2600")
    assert same(model, made("seed=11"), "encoders")
    assert same(model, made("model.rest.low=2600"), "decoder")


def test_a_parent_of_which_nothing_fits(parent: str) -> None:
    settings = ["model.config.filters=[4,5,8]", "model.config.encoder_hidden=[6]"]
    with pytest.raises(InputError, match=r"no weights of model\.parent"):
        made(f"model.parent={parent}", "model.latents=3", "model.rest.pixels=61",
             "model.config.decoder_hidden=[9]", *settings)  # fmt: skip


def test_a_parent_is_left_as_it_is(parent: str) -> None:
    model: Any = made(f"model.parent={parent}")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert inherit(model, parent).fresh == ()
    assert same(model, registry.load(parent)[1])
