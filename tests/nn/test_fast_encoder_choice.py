"""The encoder's fast path is left wherever layers do more than it knows of, or are faster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from encoders import deviation, direct, encoder, spectra, taken
from torch import nn
from torch.nn.utils import parametrizations, prune

from spender_core.nn.encoder import SpectrumEncoder


def pruned(model: SpectrumEncoder) -> None:
    prune.random_unstructured(model.conv3[0], "weight", amount=0.5)


def weight_normed(model: SpectrumEncoder) -> None:
    parametrizations.weight_norm(model.conv2[0])
    with torch.no_grad():
        model.conv2[0].parametrizations.weight.original0.mul_(-2)


def other_activation(model: SpectrumEncoder) -> None:
    model.conv1[2] = nn.LeakyReLU(0.5)


def one_slope(model: SpectrumEncoder) -> None:
    model.conv2[2] = nn.PReLU(1, init=0.6).double()


def affine(model: SpectrumEncoder) -> None:
    model.conv2[1] = nn.InstanceNorm1d(256, affine=True).double()
    nn.init.normal_(model.conv2[1].weight)


def batch_norm(model: SpectrumEncoder) -> None:
    model.conv3[1] = nn.BatchNorm1d(512).double()


def strided(model: SpectrumEncoder) -> None:
    model.conv3[0].stride = (2,)


def without_bias(model: SpectrumEncoder) -> None:
    model.conv1[0].bias = None


def longer_block(model: SpectrumEncoder) -> None:
    model.conv3.append(nn.Tanh())


def mean_pooling(model: SpectrumEncoder) -> None:
    model.pool1 = nn.AvgPool1d(5, padding=2)  # type: ignore[assignment]


def other_pooling(model: SpectrumEncoder) -> None:
    model.pool2 = nn.MaxPool1d(7, padding=3)


def own_forward(model: SpectrumEncoder) -> None:
    layer = model.conv2[2]
    layer.forward = lambda x: x.tanh()  # type: ignore[method-assign, assignment]


def hooked(model: SpectrumEncoder) -> None:
    model.conv3.register_forward_hook(lambda module, args, out: out * 2 - 1)


@pytest.mark.parametrize(
    "change",
    [
        pruned,
        weight_normed,
        other_activation,
        one_slope,
        affine,
        batch_norm,
        strided,
        without_bias,
        longer_block,
        mean_pooling,
        other_pooling,
        own_forward,
        hooked,
    ],
)
def test_changed_layers_are_used(change: Callable[[SpectrumEncoder], None]) -> None:
    model, flux = encoder(), spectra()
    with torch.no_grad():
        before = model(flux)
        assert taken(model, flux)
        change(model)
        assert not taken(model, flux)
        after = model(flux)
        model.fast = False
        assert torch.equal(after, model(flux))
    if change is not without_bias:
        assert deviation(after, before) > 1e-6


def test_every_step_of_training_sees_pruned_weights() -> None:
    """Pruning sets the weight before each pass; what it was at the last one is out of date."""
    model, flux = encoder(), spectra()
    pruned(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(flux).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        found, twin = model(flux), direct(model)
        assert torch.equal(found, twin(flux))


@pytest.mark.parametrize(
    "register",
    [
        lambda module, seen: module.register_forward_hook(lambda *_: seen.append(1)),
        lambda module, seen: module.register_forward_pre_hook(lambda *_: seen.append(1)),
        lambda module, seen: module.register_full_backward_hook(lambda *_: seen.append(1)),
        lambda module, seen: module.register_full_backward_pre_hook(lambda *_: seen.append(1)),
    ],
)
@pytest.mark.parametrize("name", ["conv1", "conv2.0", "conv3.1", "conv3.2", "pool1", "pool2"])
def test_hooks_are_called(register: Callable[[Any, list[int]], Any], name: str) -> None:
    model, flux = encoder(), spectra(8).requires_grad_()
    module, seen = model.get_submodule(name), list[int]()
    handle = register(module, seen)
    model(flux).sum().backward()
    assert seen == [1]
    handle.remove()
    model(flux).sum().backward()
    assert seen == [1]
    with torch.no_grad():
        assert taken(model, flux)


@pytest.mark.parametrize("pixels", [3921, 7781])
def test_few_spectra_pay_once_transforms_are_kept(pixels: int) -> None:
    model = encoder(torch.float32)
    one, many = (spectra(n, torch.float32, pixels) for n in (1, 8))
    assert not taken(model, one)
    assert taken(model, many)
    with torch.no_grad():
        assert taken(model, one)
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert taken(frozen, one.clone().requires_grad_())


@pytest.mark.parametrize(("grad", "n_batch"), [(False, 1), (True, 24)])
def test_on_both_sides_of_the_border_latents_are_the_same(grad: bool, n_batch: int) -> None:
    model = encoder()
    other = direct(model)
    batches = [spectra(n_batch, pixels=pixels) for pixels in range(300, 1300, 100)]
    with torch.set_grad_enabled(grad):
        choices = [taken(model, flux) for flux in batches]
        assert choices == sorted(choices)
        assert set(choices) == {False, True}
        border = choices.index(True)
        for flux in batches[border - 1 : border + 1]:
            assert deviation(model(flux), other(flux)) < 1e-11


def test_tiny_networks_and_no_spectra_use_the_layers() -> None:
    tiny = SpectrumEncoder(2, (4, 4, 6), (3, 3, 3), (5,)).double().eval()
    assert not taken(tiny, spectra())
    with torch.no_grad():
        assert not taken(tiny, spectra(32))
        assert not encoder()._pays(spectra(0))
