"""The registry on files of spender up to 0.3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spender_core import registry
from spender_core.errors import GridError, InputError
from spender_core.nn.autoencoder import SpectrumAutoencoder

Survey = Callable[..., None]
Maker = Callable[..., Any]
Check = Callable[..., None]


def legacy_state(model: SpectrumAutoencoder, wave_obs: Any = None) -> dict[str, torch.Tensor]:
    """Return the state of a model under spender's names, with the grid of its instrument."""
    state = {"decoder.wave_rest": model.wave_rest.float()}
    for name, tensor in model.state_dict().items():
        parts = name.replace("encoders.near.", "encoder.").split(".")
        if parts[1] == "mlp":
            layer, part = divmod(int(parts[2]), 2)
            parts[2] = str(3 * layer + part)
        state[".".join(parts)] = tensor
    if wave_obs is not None:
        state["encoder.instrument.wave_obs"] = torch.tensor(wave_obs, dtype=torch.float32)
    return state


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "old.pt"


def test_an_old_file_tells_its_instrument_by_its_grid(
    survey: Survey, old: Path, small: Maker, spectra: Maker
) -> None:
    model = small()
    torch.save({"model": [legacy_state(model, model.instrument.wave)], "losses": None}, old)
    instrument, loaded = registry.load(old)
    assert instrument.name == "near"
    assert loaded.card.name == "converted"
    batch = spectra()
    assert torch.equal(loaded.encode(batch), model.encode(batch))


def test_an_old_file_without_a_grid_needs_an_instrument(
    survey: Survey, old: Path, small: Maker
) -> None:
    model = small()
    torch.save({"model": legacy_state(model)}, old)
    with pytest.raises(InputError, match=r"does not tell its instrument.*'far', 'near'"):
        registry.load(old)
    instrument, loaded = registry.load(old, instrument="near")
    latents = torch.randn(3, 2)
    assert instrument.name == "near"
    assert torch.equal(loaded.decode(latents), model.decode(latents))


def test_an_old_file_of_another_grid_is_refused(survey: Survey, old: Path, small: Maker) -> None:
    torch.save({"model": legacy_state(small(), registry.instrument("near").wave)}, old)
    with pytest.raises(GridError, match=r"old\.pt are not those of 'far'"):
        registry.load(old, instrument="far")


def test_a_faulty_instrument_does_not_keep_an_old_file_from_loading(
    survey: Survey, old: Path, small: Maker
) -> None:
    torch.save({"model": legacy_state(small(), registry.instrument("near").wave)}, old)
    survey(ghost="not_there:Ghost", near="tiny_survey:Near")
    assert registry.load(old)[0].name == "near"


def test_an_old_model_can_be_saved_anew(
    survey: Survey, old: Path, path: Path, small: Maker, spectra: Maker, assert_alike: Check
) -> None:
    torch.save({"model": legacy_state(small(), registry.instrument("near").wave)}, old)
    _, loaded = registry.load(old)
    registry.save(path, loaded, loaded.card)
    assert_alike(loaded, registry.load(path)[1], spectra())
