"""Gradients of autoencoders equal those of spender 0.3, in float64.

The fixture `pair` has read the same file, of random weights, on both sides. Deviations
are recorded as properties of the tests, in the report of `--junitxml`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("spender", reason="the oracle spender 0.3 is not installed")
pytest.importorskip("spender.data.sdss", reason="spender's SDSS cannot be imported")
pytest.importorskip("spender.data.desi", reason="spender's DESI cannot be imported")
pytest.importorskip("spender.util", reason="spender.util cannot be imported")

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def _gradients(loss: Tensor, z: Tensor, encoder: Any, decoder: Any) -> dict[str, Tensor]:
    wanted = {
        "z": z,
        "decoder first": decoder.mlp[0].weight,
        "decoder last": decoder.mlp[-2].weight,
        "encoder first": encoder.conv1[0].weight,
    }
    return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))


def test_gradients_equal_those_of_spender(
    pair: Any, record_deviation: Callable[[str, float], None]
) -> None:
    """The derivative by z jumps where pixels meet nodes, so z = 0 and z_max are left out."""
    model, theirs = pair.ours(torch.float64), pair.theirs
    y, w = pair.flux[1:4].double(), pair.ivar[1:4].double()
    z, their_z = (pair.z[1:4].clone().requires_grad_() for _ in range(2))
    loss = model.loss(y, w, instrument=pair.instrument, z=z)
    ours = _gradients(loss, z, model.encoder, model.decoder)
    their_loss = theirs.loss(y, w, instrument=theirs.encoder.instrument, z=their_z)
    decoder = SimpleNamespace(mlp=[part for part in theirs.decoder.mlp if _is_layer(part)])
    reference = _gradients(their_loss, their_z, theirs.encoder, decoder)
    for name, expected in reference.items():
        assert float(expected.abs().max()) > 0
        deviation = float((ours[name] - expected).abs().max() / expected.abs().max())
        record_deviation(f"gradient {name}", deviation)
        assert deviation <= 1e-8, name


def _is_layer(module: Any) -> bool:
    """Leave out the placeholders of spender, which follow every activation."""
    return not isinstance(module, torch.nn.Identity)


def test_lsf_gradient_equals_that_of_spender(pair: Any) -> None:
    if not pair.layout.lsf:
        assert len(pair.ours(torch.float64).lsf) == 0
        return
    model, theirs = pair.ours(torch.float64), pair.theirs
    y, w, z = pair.flux[1:3].double(), pair.ivar[1:3].double(), pair.z[1:3]
    kernel = model.lsf[pair.layout.survey].kernel
    (ours,) = torch.autograd.grad(model.loss(y, w, instrument=pair.instrument, z=z), kernel)
    instrument = theirs.encoder.instrument
    their_loss = theirs.loss(y, w, instrument=instrument, z=z)
    (expected,) = torch.autograd.grad(their_loss, instrument.lsf.weight)
    torch.testing.assert_close(ours, expected.flatten().flip(0), rtol=1e-8, atol=1e-12)


def _weighted_sum(latents: Tensor) -> Tensor:
    return (latents * torch.arange(1, latents.shape[1] + 1)).sum()


def test_attention_gradient_equals_that_of_spender(
    pair: Any, record_deviation: Callable[[str, float], None]
) -> None:
    model, theirs = pair.ours(torch.float64), pair.theirs
    y = pair.flux[:2].double()
    assert model.encoder.attention_grad is None
    _weighted_sum(model.encode(y)).backward()
    theirs.zero_grad()
    _weighted_sum(theirs.encode(y)).backward()
    ours, expected = model.encoder.attention_grad, theirs.encoder.attention_grad
    assert ours is not None
    assert ours.shape == expected.shape
    assert float(expected.abs().max()) > 0
    deviation = float((ours - expected).abs().max() / expected.abs().max())
    record_deviation("attention gradient", deviation)
    assert deviation <= 1e-10


def test_attention_gradient_is_left_alone_in_training(pair: Any) -> None:
    """spender attaches its hook in training too, since `~self.training` is always true."""
    model = pair.ours(torch.float64).train()
    _weighted_sum(model.encode(pair.flux[:2].double())).backward()
    assert model.encoder.attention_grad is None
