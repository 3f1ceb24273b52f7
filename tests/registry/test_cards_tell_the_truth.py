"""What is saved is what the model does, and what is loaded is what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from spender_core import pickles, registry, weights
from spender_core.errors import InputError, WeightsError
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.records import ModelCard

WIDTHS: dict[str, Any] = {"filters": [2, 4, 4], "encoder_hidden": [4], "decoder_hidden": [4]}
CARD = ModelCard(name="tiny", architecture="spectrum_autoencoder", latents=3)


def tiny(*names: str, **extra: Any) -> SpectrumAutoencoder:
    made = [registry.instrument(name) for name in names]
    return SpectrumAutoencoder(made, range(2500, 9500, 10), 3, **WIDTHS, **extra)


def test_the_card_of_a_model_with_a_kernel_says_constant(tmp_path: Path) -> None:
    card = registry.save(tmp_path / "m.safetensors", tiny("sdss", lsf_taps={"sdss": 5}), CARD)
    assert card.lsf == "constant"
    assert card.instruments[0].lsf_taps == 5
    claimed = CARD.model_copy(update={"lsf": "constant"})
    assert registry.save(tmp_path / "n.safetensors", tiny("sdss"), claimed).lsf == "none"


def test_an_lsf_of_each_spectrum_is_kept_and_not_only_claimed(tmp_path: Path) -> None:
    path, claimed = tmp_path / "m.safetensors", CARD.model_copy(update={"lsf": "per_spectrum"})
    with pytest.raises(InputError, match="uses_lsf = True"):
        registry.save(path, tiny("sdss"), claimed)
    assert not path.exists()
    model = tiny("sdss", lsf_taps={"sdss": 3})
    model.uses_lsf = True
    for card in (CARD, claimed):
        assert registry.save(path, model, card).lsf == "per_spectrum"
        loaded = registry.load(path)[1]
        assert loaded.uses_lsf
        assert loaded.card.instruments[0].lsf_taps == 3
    registry.save(path, tiny("sdss"), CARD)
    assert not registry.load(path)[1].uses_lsf


def lying(path: Path, model: SpectrumAutoencoder, taps: int | None = None, lsf: str = "") -> Path:
    """Save a model, and then write another LSF into its card."""
    card = registry.save(path, model, CARD)
    first, *rest = card.instruments
    if taps is not None:
        first = first.model_copy(update={"lsf_taps": taps or None})
    changes = {"instruments": (first, *rest), "lsf": lsf or card.lsf}
    text = card.model_copy(update=changes).to_json()
    save_file(weights.read(path)[1], path, metadata={"spender": text})
    return path


@pytest.mark.parametrize(
    ("kernel", "change", "match"),
    [
        (5, {"lsf": "none"}, "says lsf 'none', its network and tensors have 'constant'"),
        (None, {"lsf": "constant"}, "says lsf 'constant', its network and tensors have 'none'"),
        (5, {"taps": 31}, "says 31 taps .* of 'sdss', the tensors have 5"),
        (None, {"taps": 31}, "says 31 taps .* of 'sdss', the tensors have None"),
        (5, {"taps": 3, "lsf": "per_spectrum"}, "says 3 taps"),
    ],
)
def test_a_card_that_lies_about_the_lsf_is_refused(
    tmp_path: Path, kernel: int | None, change: dict[str, Any], match: str
) -> None:
    model = tiny("sdss", lsf_taps={"sdss": kernel} if kernel else None)
    with pytest.raises(WeightsError, match=match):
        registry.load(lying(tmp_path / "m.safetensors", model, **change))


def test_an_older_card_may_not_say_how_many_taps_there_are(tmp_path: Path) -> None:
    path = lying(tmp_path / "m.safetensors", tiny("sdss", lsf_taps={"sdss": 5}), taps=0)
    assert weights.read_card(path).instruments[0].lsf_taps is None
    assert registry.load(path)[1].lsf["sdss"].kernel.numel() == 5


def test_whether_each_lsf_is_used_is_known_when_values_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "m.safetensors", []
    model = tiny("sdss")
    model.uses_lsf = True
    registry.save(path, model, CARD)
    monkeypatch.setattr(
        SpectrumAutoencoder, "check_state", lambda self: seen.append(self.uses_lsf), raising=False
    )
    registry.load(path)
    assert seen == [True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_weights_of_another_type_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "m.safetensors"
    registry.save(path, tiny("sdss"), CARD)
    _, tensors = weights.read(path)
    tensors.pop(weights.WAVE_REST)
    tensors["decoder.mlp.0.weight"] = tensors["decoder.mlp.0.weight"].to(dtype)
    with pytest.raises(WeightsError, match=str(dtype)):
        weights.restore(tiny("sdss"), tensors, "a file")


def test_a_device_that_is_not_there_is_told(tmp_path: Path) -> None:
    registry.save(tmp_path / "m.safetensors", tiny("sdss"), CARD)
    with pytest.raises(InputError, match="device 'nonsense'"):
        registry.load(tmp_path / "m.safetensors", device="nonsense")


def test_a_file_url_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.save(tmp_path / "m.safetensors", tiny("sdss"), CARD)
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    assert registry.load(f"file://{tmp_path}/m.safetensors")[0].name == "sdss"


def test_the_embedded_model_is_that_of_the_instruments_own_plugin() -> None:
    for name, package in {
        "sdss": "spender_sdss",
        "boss": "spender_sdss",
        "desi": "spender_desi",
    }.items():
        card = registry.embedded(name)
        assert card is not None
        assert card.name == f"{name}_demo"
        assert card.weights.startswith(f"package:{package}/")


def legacy_state(name: str) -> dict[str, torch.Tensor]:
    """Return the state of a small model of one instrument, named as spender names it."""
    state = {"encoder.instrument.wave_obs": torch.tensor(registry.instrument(name).wave)}
    for key, tensor in tiny(name).state_dict().items():
        key = key.replace(f"encoders.{name}", "encoder")
        head, mlp, tail = key.partition(".mlp.")
        if mlp:
            layer, _, part = tail.partition(".")
            tail = f"{3 * (int(layer) // 2) + int(layer) % 2}.{part}"
        state[head + mlp + tail] = tensor
    return state | {"decoder.wave_rest": torch.arange(2500.0, 9500.0, 10.0)}


def test_of_several_states_the_one_of_the_instrument_is_taken(tmp_path: Path) -> None:
    path, states = tmp_path / "joint.pt", [legacy_state("sdss"), legacy_state("boss")]
    torch.save({"model": states, "losses": None}, path)
    for state, name in zip(states, ("sdss", "boss"), strict=True):
        instrument, model = registry.load(path, instrument=name)
        assert instrument.name == name
        kernel = model.encoders[name].conv1[0].weight
        assert torch.equal(kernel, state["encoder.conv1.0.weight"])


def test_a_file_of_spender_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = tmp_path / "one.pt", []
    torch.save({"model": legacy_state("sdss"), "losses": None}, path)
    original = pickles.read
    monkeypatch.setattr(pickles, "read", lambda name: (reads.append(1), original(name))[1])
    assert registry.load(path, instrument="sdss")[0].name == "sdss"
    assert len(reads) == 1
