"""Files of spender up to 0.3: read without running code in them, whatever is in them."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from states import DECODER, ENCODER, FILTERS, LATENTS, SIZES, State, flow_state, state

from spender_core import legacy
from spender_core.errors import MissingFileError, SpenderError, WeightsError
from spender_core.grid import Linear
from spender_core.interfaces import Instrument
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.nn.flow import MaskedAutoregressiveFlow
from spender_core.weights import WAVE_REST, restore

Read = Callable[..., legacy.Legacy]


class Tiny(Instrument):
    name = "tiny"
    grid = Linear(4000.0, 10.0, 60)
    loader = None  # type: ignore[assignment]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.pt"


@pytest.fixture
def read(path: Path) -> Callable[..., legacy.Legacy]:
    """Save something as spender did, and read it."""

    def saved_and_read(content: Any, instrument: str = "tiny") -> legacy.Legacy:
        torch.save(content, path)
        return legacy.read(path, instrument)

    return saved_and_read


def build(content: legacy.Legacy) -> SpectrumAutoencoder:
    """Make the model of a file, strictly."""
    tensors = dict(content.tensors)
    model = SpectrumAutoencoder([Tiny()], tensors.pop(WAVE_REST), **content.config)
    restore(model, tensors, "a test")
    return model


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: [s], lambda s: (s,)], ids=["bare", "list", "tuple"]
)
def test_an_autoencoder_is_read_bare_or_in_a_list(read: Read, wrap: Callable[[State], Any]) -> None:
    old = state()
    content = read({"model": wrap(old), "losses": None})
    assert (content.kind, content.architecture) == ("autoencoder", "spectrum_autoencoder")
    assert content.latents == LATENTS
    assert content.config == {
        "n_latent": LATENTS,
        "filters": list(FILTERS),
        "sizes": list(SIZES),
        "encoder_hidden": list(ENCODER),
        "decoder_hidden": list(DECODER),
        "activation": "speculator",
        "lsf_taps": {},
    }
    assert content.tensors[WAVE_REST].dtype == torch.float64
    model = build(content)
    assert torch.equal(model.encoder.conv2[0].weight, old["encoder.conv2.0.weight"])
    assert torch.equal(model.encoder.mlp[2].bias, old["encoder.mlp.3.bias"])
    assert torch.equal(model.decoder.mlp[3].gamma, old["decoder.mlp.4.gamma"])


def test_a_bare_state_is_read(read: Read) -> None:
    assert build(read(state())).config["n_latent"] == LATENTS


def test_older_names_of_the_mlp_are_read_alike(read: Read) -> None:
    old = state()
    older = {name.replace(".mlp.", ".mlp.mlp."): tensor for name, tensor in old.items()}
    assert older.keys() != old.keys()
    newer, renamed = build(read({"model": old})), build(read({"model": older}))
    latents, flux = torch.randn(3, LATENTS), torch.randn(3, 60)
    assert torch.equal(newer.decode(latents), renamed.decode(latents))
    assert torch.equal(newer.encode(flux), renamed.encode(flux))


def test_an_older_redshift_input_is_left_out(read: Read) -> None:
    old = state(inputs=FILTERS[-1] // 2 + 1)
    model = build(read({"model": old}))
    assert torch.equal(model.encoder.mlp[0].weight, old["encoder.mlp.0.weight"][:, :-1])


def test_the_redshift_input_of_the_published_width_is_left_out(read: Read) -> None:
    old = state()
    old["encoder.conv3.0.weight"] = torch.randn(512, FILTERS[1], SIZES[2])
    old["encoder.conv3.0.bias"] = torch.randn(512)
    old["encoder.conv3.2.weight"] = torch.rand(512)
    old["encoder.mlp.0.weight"] = torch.randn(ENCODER[0], 257)
    assert build(read({"model": old})).encoder.mlp[0].in_features == 256


def test_the_lsf_is_flipped_back(read: Read) -> None:
    stored = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    content = read({"model": state() | {"encoder.instrument.lsf.weight": stored.reshape(1, 1, 5)}})
    assert content.lsf_taps == 5
    assert content.config["lsf_taps"] == {"tiny": 5}
    model = build(content)
    assert torch.equal(model.lsf["tiny"].kernel, stored.flip(0))
    spike = torch.zeros(1, 1, 21)
    spike[..., 10] = 1
    as_spender = torch.nn.functional.conv1d(spike, stored.reshape(1, 1, 5), padding="same")
    expected = as_spender[:, 0] / stored.sum()
    assert torch.allclose(model.lsf["tiny"](spike[:, 0]), expected, atol=1e-6)


def test_the_instruments_grid_is_kept_for_comparison(read: Read) -> None:
    grid = Tiny.grid
    buffers = {
        "encoder.instrument.wave_obs": torch.tensor(grid.wave, dtype=torch.float32),
        "encoder.instrument.skyline_mask": torch.zeros(60, dtype=torch.bool),
    }
    content = read({"model": state() | buffers})
    assert content.fits(grid)
    assert not content.fits(Linear(4000.0, 10.1, 60))
    assert not content.fits(Linear(4000.0, 10.0, 61))
    assert read({"model": state()}).fits(grid)


def test_a_decoder_without_learned_activation_is_leaky_relu(read: Read) -> None:
    old = {name: t for name, t in state().items() if not name.endswith(("beta", "gamma"))}
    assert build(read({"model": old})).config["activation"] == "leaky_relu"


def test_a_flow_is_read(read: Read) -> None:
    content = read(flow_state())
    assert (content.kind, content.architecture, content.latents) == ("flow", "maf", 3)
    assert content.config == {"hidden": 4, "transforms": 2, "blocks": 1}
    flow = MaskedAutoregressiveFlow(3, **content.config)
    restore(flow, content.tensors, "a test")
    assert torch.isfinite(flow.log_prob(torch.randn(4, 3))).all()


def test_a_flow_of_random_masks_is_refused(read: Read) -> None:
    old = flow_state()
    name = next(name for name in old if name.endswith("final_layer.degrees"))
    old[name] = old[name].flip(0)
    with pytest.raises(WeightsError, match="random masks"):
        read(old)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.array([1.5, 2.5], dtype=np.float32), [1.5, 2.5]),
        (np.array([[1.5], [2.5]]), [[1.5], [2.5]]),
        (np.array([1, 2]), [1, 2]),
        (np.array([True, False]), [True, False]),
        (np.array(7, dtype=np.int32), 7),
        (np.float64(0.25), 0.25),
        (np.float32(0.25), 0.25),
        (torch.tensor([0.5]), [0.5]),
        ([0.1, [np.float64(0.2)]], [0.1, [0.2]]),
        ({"train": {"loss": np.zeros(2)}, 3: (np.float32(1), 2.0)}, None),
        (None, None),
    ],
    ids=str,
)
def test_losses_come_as_plain_numbers(read: Read, stored: Any, expected: Any) -> None:
    losses = read({"model": [state()], "losses": stored}).losses
    if isinstance(stored, dict):
        expected = {"train": {"loss": [0.0, 0.0]}, "3": [1.0, 2.0]}
    assert losses == expected
    assert type(losses) is type(expected)


def test_tensors_of_another_layout_are_named(read: Read) -> None:
    with pytest.raises(WeightsError, match=r"spender 0\.3 does not have: .*encoder\.surprise"):
        read({"model": state() | {"encoder.surprise": torch.zeros(1)}})


@pytest.mark.parametrize(
    "lost", ["encoder.conv2.0.weight", "encoder.mlp.0.weight", "decoder.mlp.0.weight"]
)
def test_a_state_that_lacks_a_tensor_is_refused_by_name(read: Read, lost: str) -> None:
    old = state()
    del old[lost]
    with pytest.raises(WeightsError, match=r"tiny\.pt is not a complete spender file"):
        read({"model": old})


def test_a_flow_that_lacks_a_tensor_is_refused_by_name(read: Read) -> None:
    old = flow_state()
    del old[next(name for name in old if name.endswith("_permutation"))]
    with pytest.raises(WeightsError, match=r"tiny\.pt is not a complete spender file"):
        read(old)


@pytest.mark.parametrize(
    "broken",
    [
        state() | {"encoder.mlp.0.weight": torch.zeros(3)},
        state() | {"encoder.conv1.0.weight": torch.tensor(1.0)},
        state() | {"decoder.wave_rest": torch.tensor([[3000.0, 2000.0]])},
        state() | {1: torch.zeros(3)},
        {"_transform._transforms.0._shift": torch.zeros(3)},
        flow_state() | {"_transform._transforms.0._shift": torch.tensor(1.0)},
        flow_state() | {"_transform._transforms.1._transforms.x": torch.zeros(2)},
    ],
    ids=["mlp", "conv", "wavelengths", "number as name", "half flow", "shift", "transforms"],
)
def test_tensors_of_impossible_shapes_and_names_are_refused(path: Path, broken: Any) -> None:
    torch.save({"model": broken}, path)
    with pytest.raises(SpenderError):
        build(legacy.read(path, "tiny"))


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"a": "text"}, "losses": None},
        {"model": [], "losses": None},
        {"a": 1, "b": [2]},
        [state()],
        torch.zeros(3),
        3.5,
        {},
    ],
    ids=["text", "no state", "numbers", "list", "tensor", "number", "empty"],
)
def test_content_without_tensors_is_refused_by_name(read: Read, content: Any) -> None:
    with pytest.raises(WeightsError, match=r"tiny\.pt is n"):
        read(content)


def test_tensors_of_something_else_are_refused(read: Read) -> None:
    with pytest.raises(WeightsError, match="neither an autoencoder nor a flow"):
        read(torch.nn.Linear(2, 3).state_dict())


class CreatesFile:
    """Pickled as a call that would create a file where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def saved_by_torch(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def saved_by_older_torch(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("save", [saved_by_torch, saved_by_older_torch, pickle.dumps])
@pytest.mark.parametrize("place", ["losses", "model", "alone"])
def test_a_file_that_would_run_code_is_refused_and_does_not(
    path: Path, tmp_path: Path, save: Callable[[Any], bytes], place: str
) -> None:
    target = tmp_path / "created"
    evil = CreatesFile(target)
    path.write_bytes(save(evil if place == "alone" else {"model": [state()]} | {place: evil}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about newer pickle protocols
        with pytest.raises(WeightsError, match=r"tiny\.pt cannot be read: .*could run code"):
            legacy.read(path, "tiny")
    assert not target.exists()
    pickle.loads(pickle.dumps(evil))
    assert target.exists(), "the file would not have done anything, so this test shows nothing"


def test_a_refusal_names_what_is_refused_and_shows_no_way_around_it(path: Path) -> None:
    torch.save({"model": [state()], "losses": CreatesFile(path)}, path)
    with pytest.raises(WeightsError) as caught:
        legacy.read(path, "tiny")
    message = str(caught.value)
    assert "pathlib" in message or "getattr" in message
    assert "can still be loaded" not in message
    assert "\x1b" not in message


@pytest.mark.parametrize(
    "losses",
    [np.array([{"a": 1}], dtype=object), np.array(["text"]), slice(0, 1)],
    ids=["objects", "text", "slice"],
)
def test_losses_that_are_no_numbers_are_refused(read: Read, losses: Any) -> None:
    with pytest.raises(WeightsError, match="plain tensors and arrays"):
        read({"model": [state()], "losses": losses})


@pytest.mark.parametrize("save", [saved_by_torch, saved_by_older_torch])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused_by_name(
    path: Path, save: Callable[[Any], bytes], share: float
) -> None:
    content = save({"model": [state()], "losses": np.zeros(100)})
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=r"tiny\.pt cannot be read"):
        legacy.read(path, "tiny")


@pytest.mark.parametrize(
    "content",
    [
        b"<html>404</html>",
        b"SIMPLE  =                    T",
        bytes(64),
        b"PK\x03\x04",
        b"\x80\x02]",
    ],
    ids=["html", "fits", "zeros", "zip", "pickle"],
)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"tiny\.pt cannot be read"):
        legacy.read(path, "tiny")


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"tiny\.pt"):
        legacy.read(path, "tiny")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises((WeightsError, MissingFileError), match=tmp_path.name):
        legacy.read(tmp_path, "tiny")
