"""What is saved comes back the same: models of one instrument and of several, and flows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spender_core import registry, weights
from spender_core.errors import InputError, UnknownNameError, WeightsError
from spender_core.nn.flow import MaskedAutoregressiveFlow
from spender_core.records import ModelCard, ServedInstrument

Survey = Callable[..., None]
Maker = Callable[..., Any]
Check = Callable[..., None]


# -- saving and loading -------------------------------------------------------------------


def test_a_saved_model_comes_back_the_same(
    survey: Survey, path: Path, small: Maker, spectra: Maker, assert_alike: Check, card: ModelCard
) -> None:
    model = small(lsf_taps={"near": 5})
    registry.save(path, model, card)
    instrument, loaded = registry.load(path)
    assert instrument is registry.instrument("near")
    assert not loaded.training
    assert_alike(model, loaded, spectra())


def test_transform_is_the_same_after_loading(
    survey: Survey, path: Path, small: Maker, card: ModelCard, rest: torch.Tensor
) -> None:
    model = small("near", "far")
    registry.save(path, model, card)
    _, loaded = registry.load(str(path))
    x, z = torch.rand(2, len(rest)), torch.tensor([0.05, 0.3], dtype=torch.float64)
    for name in ("near", "far"):
        for ours, theirs in zip(
            model.transform(x, name, z), loaded.transform(x, name, z), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_a_model_that_averages_over_pixels_still_does(
    survey: Survey, path: Path, small: Maker, card: ModelCard, rest: torch.Tensor
) -> None:
    model = small("near", conserve_flux=True)
    registry.save(path, model, card)
    _, loaded = registry.load(str(path))
    x, z = torch.rand(2, len(rest)), torch.tensor([0.05, 0.3], dtype=torch.float64)
    assert torch.equal(loaded.transform(x, "near", z)[0], model.transform(x, "near", z)[0])
    assert not torch.equal(
        model.transform(x, "near", z)[0], small("near").transform(x, "near", z)[0]
    )
    with pytest.raises(InputError, match="conserve_flux is true or false, not 'no'"):
        small("near", conserve_flux="no")


def test_wavelengths_keep_their_full_precision(
    survey: Survey, path: Path, small: Maker, card: ModelCard, rest: torch.Tensor
) -> None:
    registry.save(path, small(), card)
    assert torch.equal(registry.load(path)[1].wave_rest, rest)


def test_save_completes_the_card_from_the_model(
    survey: Survey, path: Path, small: Maker, card: ModelCard
) -> None:
    written = registry.save(path, small("near", "far", lsf_taps={"far": 3}), card)
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [(one.name, one.lsf_taps) for one in written.instruments] == [("near", None), ("far", 3)]
    assert written.instruments[0].grid == registry.instrument("near").grid.sha256
    assert written.config["filters"] == [3, 4, 6]
    assert registry.info(str(path)) == written.model_copy(update={"sha256": ""})


def test_a_loaded_model_has_its_card_and_can_be_saved_again(
    survey: Survey, path: Path, small: Maker, card: ModelCard
) -> None:
    model = small()
    first = registry.save(path, model, card)
    _, loaded = registry.load(path)
    assert loaded.card == first.model_copy(update={"sha256": ""})
    second = registry.save(path.with_name("again.safetensors"), loaded, loaded.card)
    assert second.sha256 == first.sha256


def test_a_float64_model_comes_back_the_same(
    survey: Survey, path: Path, small: Maker, spectra: Maker, assert_alike: Check, card: ModelCard
) -> None:
    model = small().double()
    registry.save(path, model, card)
    assert_alike(model, registry.load(path)[1], spectra().to(dtype=torch.float64))


def test_a_calibration_is_not_lost_in_silence(
    survey: Survey, path: Path, small: Maker, spectra: Maker, card: ModelCard
) -> None:
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1.1))

        def forward(self, wave: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.gain * y

    model = small(calibration={"near": Gain()})
    with pytest.raises(InputError, match="calibration of near cannot be stored"):
        registry.save(path, model, card)
    assert not path.exists()
    model.calibration.clear()
    registry.save(path, model, card)
    batch = spectra()
    assert torch.equal(registry.load(path)[1].encode(batch), model.encode(batch))


def test_a_flow_comes_back_the_same(survey: Survey, path: Path, flow_card: ModelCard) -> None:
    grid = registry.instrument("far").grid.sha256
    card = flow_card.model_copy(
        update={"instruments": (ServedInstrument(name="far", grid=grid),), "citation": ("A paper",)}
    )
    flow = MaskedAutoregressiveFlow(3, hidden=6, transforms=2, blocks=1)
    registry.save(path, flow, card)
    instrument, loaded = registry.load(path)
    assert instrument.name == "far"
    assert loaded.card.citation == ("A paper",)
    latents = torch.randn(5, 3)
    assert torch.equal(loaded.log_prob(latents), flow.log_prob(latents))
    seeds = [torch.Generator().manual_seed(7) for _ in range(2)]
    assert torch.equal(loaded.sample(4, seeds[0]), flow.sample(4, seeds[1]))


def test_a_flow_whose_card_names_no_instrument_is_not_saved(
    survey: Survey, path: Path, flow_card: ModelCard
) -> None:
    flow = MaskedAutoregressiveFlow(3, hidden=6, transforms=2, blocks=1)
    with pytest.raises(InputError, match="instrument"):
        registry.save(path, flow, flow_card)
    assert not path.exists()


def test_a_file_whose_card_names_no_instrument_is_refused(
    survey: Survey, path: Path, flow_card: ModelCard
) -> None:
    flow = MaskedAutoregressiveFlow(3, hidden=6, transforms=2, blocks=1)
    weights.write(path, flow, flow_card.model_copy(update={"config": flow.config}))
    with pytest.raises(WeightsError, match="instrument"):
        registry.load(path)


# -- joint models -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "given"), [(None, "near"), ("near", "near"), ("far", "far")], ids=str
)
def test_an_instrument_of_a_joint_model_can_be_picked(
    survey: Survey,
    path: Path,
    wanted: str | None,
    given: str,
    small: Maker,
    spectra: Maker,
    assert_alike: Check,
    card: ModelCard,
) -> None:
    model = small("near", "far", lsf_taps={"far": 3})
    registry.save(path, model, card)
    instrument, loaded = registry.load(path, instrument=wanted)
    assert instrument.name == loaded.instrument.name == given
    assert set(loaded.instruments) == {"near", "far"}
    for name in ("near", "far"):
        assert_alike(model, loaded, spectra(name))


def test_an_instrument_that_a_model_does_not_serve_is_refused(
    survey: Survey, path: Path, small: Maker, card: ModelCard
) -> None:
    registry.save(path, small("near"), card)
    with pytest.raises(UnknownNameError, match=r"no instrument in model 'small' named 'far'.*near"):
        registry.load(path, instrument="far")


def test_a_joint_model_loads_though_one_of_its_instruments_is_not_installed(
    survey: Survey, path: Path, small: Maker, spectra: Maker, assert_alike: Check, card: ModelCard
) -> None:
    model = small("far", "near", lsf_taps={"near": 3, "far": 5})
    registry.save(path, model, card)
    batch = spectra("near")
    survey(near="tiny_survey:Near")
    instrument, loaded = registry.load(path, instrument="near")
    assert instrument.name == "near"
    assert set(loaded.instruments) == {"near"}
    assert_alike(model, loaded, batch)


def test_a_missing_instrument_that_is_asked_for_is_named(
    survey: Survey, path: Path, small: Maker, card: ModelCard
) -> None:
    registry.save(path, small("far", "near"), card)
    survey(near="tiny_survey:Near")
    with pytest.raises(UnknownNameError, match="no instrument named 'far'"):
        registry.load(path)


def test_an_absent_instrument_takes_only_its_own_tensors_along(
    survey: Survey,
    path: Path,
    package: Path,
    small: Maker,
    spectra: Maker,
    assert_alike: Check,
    card: ModelCard,
) -> None:
    twin = type(registry.instrument("far"))
    survey(near="tiny_survey:Near", decoder="tiny_survey:Far")
    odd = type("Odd", (twin,), {"name": "decoder"})()
    model = small(registry.instrument("near"), odd)
    registry.save(path, model, card)
    survey(near="tiny_survey:Near")
    assert_alike(model, registry.load(path)[1], spectra())
