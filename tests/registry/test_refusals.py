"""What does not fit is refused by name, and a faulty plugin harms no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spender_core import registry, weights
from spender_core.errors import (
    FileError,
    GridError,
    InputError,
    MissingFileError,
    PluginError,
    SpenderError,
    UnknownNameError,
    WeightsError,
)
from spender_core.nn.flow import MaskedAutoregressiveFlow
from spender_core.records import ModelCard, ServedInstrument

Survey = Callable[..., None]
Maker = Callable[..., Any]
Check = Callable[..., None]


# -- refusals -----------------------------------------------------------------------------


def test_another_grid_is_refused_with_both_hashes(
    survey: Survey, path: Path, small: Maker, card: ModelCard
) -> None:
    registry.save(path, small(), card)
    old = registry.instrument("near").grid.sha256
    survey(near="tiny_survey:Regridded")
    new = registry.instrument("near").grid.sha256
    with pytest.raises(GridError, match=rf"'near'.*{old[:8]}.*{new[:8]}"):
        registry.load(path)


def test_an_unknown_architecture_is_refused_with_near_names(
    survey: Survey, path: Path, small: Maker, card: ModelCard
) -> None:
    card = card.model_copy(update={"architecture": "spectrum_autoencoders"})
    weights.write(path, small(), card)
    with pytest.raises(UnknownNameError, match="Did you mean 'spectrum_autoencoder'"):
        registry.load(path)
    with pytest.raises(UnknownNameError, match="no architecture named"):
        registry.save(path, small(), card)


def test_an_import_path_in_a_card_is_no_architecture(
    survey: Survey, path: Path, small: Maker, card: ModelCard
) -> None:
    target = "spender_core.nn.autoencoder:SpectrumAutoencoder"
    weights.write(path, small(), card.model_copy(update={"architecture": target}))
    with pytest.raises(UnknownNameError, match="no architecture named"):
        registry.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": 3}, "the card says 3 latents, the model has 2"),
        ({"architecture": "maf"}, r"architecture 'maf' \(MaskedAutoregressiveFlow\).*Autoencoder"),
        ({"kind": "flow"}, "kind|flow"),
    ],
    ids=["latents", "architecture", "kind"],
)
def test_a_card_that_does_not_fit_the_model_is_not_saved(
    survey: Survey, path: Path, changes: dict[str, Any], message: str, small: Maker, card: ModelCard
) -> None:
    with pytest.raises(InputError, match=message):
        registry.save(path, small(), card.model_copy(update=changes))
    assert not path.exists()


def test_a_card_with_other_latents_than_the_flow_is_not_saved(
    survey: Survey, path: Path, flow_card: ModelCard
) -> None:
    flow = MaskedAutoregressiveFlow(2, hidden=6, transforms=2, blocks=1)
    served = ServedInstrument(name="near", grid=registry.instrument("near").grid.sha256)
    with pytest.raises(InputError, match="3 latents"):
        registry.save(path, flow, flow_card.model_copy(update={"instruments": (served,)}))
    assert not path.exists()


@pytest.mark.parametrize(
    "config",
    [{"colour": "red"}, {"n_latent": "many"}, {"wave_rest": [1, 2]}, {"filters": [3, 4]}],
    ids=str,
)
def test_a_config_that_makes_no_model_is_refused_readably(
    survey: Survey, path: Path, config: dict[str, Any], small: Maker, card: ModelCard
) -> None:
    served = ServedInstrument(name="near", grid=registry.instrument("near").grid.sha256)
    card = card.model_copy(update={"config": config, "instruments": (served,)})
    weights.write(path, small(), card)
    with pytest.raises(SpenderError):
        registry.load(path)


def test_tensors_of_another_config_are_refused_by_name(
    survey: Survey, path: Path, small: Maker, card: ModelCard
) -> None:
    model = small()
    card = registry.save(path, model, card)
    config = card.config | {"decoder_hidden": [8]}
    weights.write(path, model, card.model_copy(update={"config": config}))
    with pytest.raises(WeightsError, match=r"decoder\.mlp\.0\.bias has shape \(7,\).*\(8,\)"):
        registry.load(path)


@pytest.mark.parametrize("name", ["missing.safetensors", "missing.pt", "folder/missing"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="missing"):
        registry.load(tmp_path / name)


# -- faulty plugins -----------------------------------------------------------------------


@pytest.mark.parametrize("target", ["not_there:Near", "tiny_survey:Gone", "tiny_survey:Unfinished"])
def test_an_instrument_that_cannot_be_made_is_a_plugin_error(survey: Survey, target: str) -> None:
    survey(near="tiny_survey:Near", ghost=target)
    with pytest.raises(PluginError, match=target):
        registry.instrument("ghost")
    assert registry.instrument("near").name == "near"


def test_a_faulty_instrument_does_not_keep_others_from_being_recognised(
    survey: Survey, path: Path
) -> None:
    path.write_text("no spectra")
    survey(ghost="not_there:Ghost", near="tiny_survey:Near")
    with pytest.raises(FileError, match="not a file of an installed instrument"):
        registry.recognise(str(path))


def test_a_faulty_instrument_does_not_keep_joint_models_from_loading(
    survey: Survey, path: Path, small: Maker, spectra: Maker, assert_alike: Check, card: ModelCard
) -> None:
    model = small("near", "far")
    registry.save(path, model, card)
    batch = spectra("near")
    survey(near="tiny_survey:Near", far="not_there:Far")
    assert_alike(model, registry.load(path, instrument="near")[1], batch)
