"""Files of spender whose content is well formed and makes no sense: refused, and promptly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from states import REST, flow_state, state
from torch import Tensor

from spender_core import legacy
from spender_core.errors import SpenderError, WeightsError
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
def read(path: Path) -> Read:
    """Save something as spender did, and read it."""

    def saved_and_read(content: Any) -> legacy.Legacy:
        torch.save(content, path)
        return legacy.read(path, "tiny")

    return saved_and_read


def build(content: legacy.Legacy) -> None:
    """Make the model of a file, strictly."""
    tensors = dict(content.tensors)
    if content.kind == "flow":
        restore(MaskedAutoregressiveFlow(3, **content.config), tensors, "a test")
    else:
        model = SpectrumAutoencoder([Tiny()], tensors.pop(WAVE_REST), **content.config)
        restore(model, tensors, "a test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder.mlp.0.weight": torch.zeros(5, 3, dtype=torch.int64)}, "int64 instead of"),
        ({"encoder.mlp.0.weight": torch.zeros(5, 3, dtype=torch.complex64)}, "complex"),
        ({"decoder.mlp.0.weight": torch.zeros(7, 0)}, "no latents"),
        ({"encoder.mlp.0.weight": torch.zeros(0, 3)}, "positive integers"),
        ({"encoder.conv3.0.weight": torch.zeros(0, 4, 3)}, "positive integers"),
        ({"decoder.mlp.999999999999.weight": torch.zeros(1)}, "unknown"),
        ({f"stray.{k}": torch.zeros(1) for k in range(3000)}, "stray.0, .* and 2992 more"),
        ({"stray\x1b[31m": torch.zeros(1)}, r"stray\\x1b"),
        ({"decoder.mlp.0.weight": torch.full((7, 2), float("nan"))}, "NaN or infinity in decoder"),
        ({"decoder.wave_rest": torch.full((REST,), 3000.0)}, "increase strictly"),
        ({"encoder.instrument.lsf.weight": torch.tensor([[[1.0, -1.0, 0.0]]])}, "sum to 0"),
    ],
    ids=[
        "int",
        "complex",
        "latents",
        "empty",
        "filters",
        "index",
        "stray",
        "escape",
        "nan",
        "wavelengths",
        "kernel",
    ],
)
def test_well_formed_nonsense_is_refused_by_name(
    read: Read, changes: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(SpenderError, match=message):
        build(read({"model": state() | changes}))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "_transform._transforms.1._transforms.999999999._transforms.x",
            torch.zeros(1),
            "does not",
        ),
        ("_transform._transforms.0._shift", torch.zeros(10**6), "random masks"),
        ("_transform._transforms.0._shift", torch.zeros(0), "no latents"),
        ("_transform._transforms.0._scale", torch.zeros(3), "scale must be positive"),
        (
            "_transform._transforms.1._transforms.0._transforms.1._permutation",
            torch.tensor([0, 1, 1]),
            "each of 0 to 2 once",
        ),
        (
            "_transform._transforms.1._transforms.0._transforms.1._permutation",
            torch.tensor([0, 1, -(2**60)]),
            "each of 0 to 2 once",
        ),
    ],
    ids=["index", "latents", "none", "scale", "twice", "far"],
)
def test_a_flow_of_nonsense_is_refused(read: Read, name: str, tensor: Tensor, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        build(read(flow_state() | {name: tensor}))


def test_tensors_that_share_their_numbers_do_not_multiply(path: Path) -> None:
    one = torch.zeros(1000, 1000)
    torch.save({"model": state() | {f"decoder.mlp.{k}.weight": one for k in range(50)}}, path)
    with pytest.raises(WeightsError, match="more than the file"):
        legacy.read(path, "tiny")


def test_losses_do_not_multiply_nor_keep_a_model_from_loading(read: Read) -> None:
    nested: Any = [0.5] * 10
    for _ in range(12):
        nested = [nested] * 10
    for losses in (nested, np.zeros(10_001), torch.zeros(10_001)):
        content = read({"model": state(), "losses": losses})
        assert content.losses == "left out: more than 10000 numbers, or nested too deeply"
        build(content)


def test_losses_that_contain_themselves_are_left_out(read: Read) -> None:
    losses: list[Any] = [1.0]
    losses.append(losses)
    assert read({"model": state(), "losses": losses}).losses.startswith("left out")


@pytest.mark.parametrize("value", [b"bytes", torch.zeros(2, dtype=torch.complex64), np.ndarray])
def test_losses_that_no_card_can_hold_are_left_out(read: Read, value: Any) -> None:
    assert "which is no number" in read({"model": state(), "losses": [value]}).losses
