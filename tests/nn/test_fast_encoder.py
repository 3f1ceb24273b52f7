"""The encoder's fast path: where it is taken, and that nobody can tell but by the time."""

from __future__ import annotations

import pytest
import torch
from encoders import deviation, direct, encoder, spectra, taken
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spender_core.errors import InputError
from spender_core.nn import encoder as encoder_module
from spender_core.nn.encoder import SpectrumEncoder


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path is taken wherever it serves, even if it is slower."""
    monkeypatch.setattr(encoder_module, "LEAST_SAVED", -(10**18))


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("falling", [False, True])
def test_latents_and_gradients_equal_those_of_the_layers(falling: bool) -> None:
    model, flux = encoder(falling=falling), spectra().requires_grad_()
    other = direct(model)
    assert taken(model, flux)
    assert not taken(other, flux)
    latents, expected = model(flux), other(flux)
    assert deviation(latents, expected) < 1e-11
    cotangent = torch.randn(expected.shape, dtype=torch.float64)
    mine = torch.autograd.grad(latents, [flux, *model.parameters()], cotangent)
    theirs = torch.autograd.grad(expected, [flux, *other.parameters()], cotangent)
    names = ["flux", *(name for name, _ in model.named_parameters())]
    for name, a, b in zip(names, mine, theirs, strict=True):
        if name.startswith("conv") and name.endswith("0.bias"):
            assert float(a.abs().max()) == 0, name
            assert float(b.abs().max()) < 1e-12, name
        else:
            assert deviation(a, b) < 1e-9, name


@pytest.mark.usefixtures("forced")
def test_float32_latents() -> None:
    model, flux = encoder(torch.float32), spectra(dtype=torch.float32)
    exact = direct(model).double()(flux.double())
    assert deviation(model(flux), exact) < 1e-5
    with torch.no_grad():
        assert deviation(model(flux), exact) < 1e-5


@pytest.mark.usefixtures("forced")
def test_attention_gradient_equals_that_of_the_layers() -> None:
    model, flux = encoder(), spectra()
    other = direct(model)
    for each in (model, other):
        each(flux).square().sum().backward()
    assert model.attention_grad is not None
    assert model.attention_grad.shape == other.attention_grad.shape
    assert deviation(model.attention_grad, other.attention_grad) < 1e-9


@pytest.mark.usefixtures("forced")
def test_layers_of_torch_serve_what_the_fast_path_does_not() -> None:
    model, flux = encoder(torch.float32), spectra(dtype=torch.float32)
    assert taken(model, flux)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not taken(model, flux)
        assert torch.equal(model(flux), direct(model)(flux))
    assert not taken(encoder(torch.bfloat16), flux.bfloat16())


def test_latents_under_autocast_have_the_stated_error() -> None:
    model, flux = encoder(torch.float32), spectra(8, torch.float32)
    with torch.no_grad():
        exact = model(flux)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(flux).float()
    assert 1e-5 < deviation(rough, exact) < 0.02


def test_latents_follow_the_weights() -> None:
    model, flux = encoder(), spectra()
    with torch.no_grad():
        before = model(flux)
        assert torch.equal(model(flux), before)
        for change in (
            lambda: model.conv3[0].weight.data.mul_(-0.5),
            lambda: model.conv2[0].weight.add_(0.1),
            lambda: model.load_state_dict(encoder(falling=True).state_dict()),
        ):
            change()
            after = model(flux)
            assert deviation(after, before) > 1e-6
            assert deviation(after, direct(model)(flux)) < 1e-11
            before = after


@pytest.mark.usefixtures("forced")
def test_kernels_of_inference_mode_serve_training_too() -> None:
    model, flux = encoder(), spectra()
    with torch.inference_mode():
        expected = model(flux)
    with torch.no_grad():
        assert torch.equal(model(flux), expected)
    model(flux).sum().backward()
    assert model.conv3[0].weight.grad is not None
    model.requires_grad_(False)
    model(flux.requires_grad_()).sum().backward()
    assert flux.grad is not None


@pytest.mark.usefixtures("forced")
def test_frozen_weights_pass_gradients_to_the_flux() -> None:
    model, flux = encoder().requires_grad_(False), spectra().requires_grad_()
    other = direct(model)
    (mine,) = torch.autograd.grad(model(flux).sum(), flux)
    (theirs,) = torch.autograd.grad(other(flux).sum(), flux)
    assert deviation(mine, theirs) < 1e-9


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("frozen", ["conv1", "conv2", "conv3.0", "conv2.0.weight", "conv3.2"])
def test_partly_frozen_weights(frozen: str) -> None:
    model, flux = encoder(falling=True), spectra()
    for name, value in model.named_parameters():
        value.requires_grad_(not name.startswith(frozen))
    other = direct(model)
    for each in (model, other):
        each(flux).square().sum().backward()
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        if mine.grad is None or theirs.grad is None:
            assert mine.grad is theirs.grad is None, name
            assert name.startswith(frozen), name
        elif not (name.startswith("conv") and name.endswith("0.bias")):
            assert deviation(mine.grad, theirs.grad) < 1e-9, name


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("pixels", [16, 17, 23, 31, 60])
@pytest.mark.parametrize("n_batch", [1, 2, 5])
def test_short_spectra(n_batch: int, pixels: int) -> None:
    torch.manual_seed(3)
    model = SpectrumEncoder(2, (4, 5, 6), (3, 5, 7), (5,)).double().eval()
    flux, other = spectra(n_batch, pixels=pixels).requires_grad_(), direct(model)
    assert taken(model, flux)
    assert deviation(model(flux), other(flux)) < 1e-10
    (mine,) = torch.autograd.grad(model(flux).square().sum(), flux)
    (theirs,) = torch.autograd.grad(other(flux).square().sum(), flux)
    assert deviation(mine, theirs) < 1e-8


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_change_nothing(reentrant: bool) -> None:
    model, flux = encoder(), spectra().requires_grad_()
    parts = [flux, *model.conv2.parameters(), *model.mlp.parameters()]
    model(flux).square().sum().backward()
    expected = [part.grad for part in parts]
    model.zero_grad()
    flux.grad = None
    again: Tensor = checkpoint(model, flux, use_reentrant=reentrant)
    again.square().sum().backward()
    for part, grad in zip(parts, expected, strict=True):
        assert part.grad is not None
        assert grad is not None
        torch.testing.assert_close(part.grad, grad, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("forced")
def test_second_derivatives_are_refused_not_wrong() -> None:
    model, flux = encoder(), spectra().requires_grad_()
    (grad,) = torch.autograd.grad(model(flux).sum(), flux, create_graph=True)
    with pytest.raises(InputError, match="no derivatives of second order"):
        grad.sum().backward()
    with pytest.raises(InputError, match="no derivatives of second order"):
        torch.autograd.functional.hessian(lambda flux: model(flux).square().sum(), flux.detach())


def test_the_state_has_the_names_and_shapes_of_published_weights() -> None:
    state = {name: tuple(tensor.shape) for name, tensor in SpectrumEncoder(6).state_dict().items()}
    convolutions = {name: shape for name, shape in state.items() if name.startswith("conv")}
    assert convolutions == {
        "conv1.0.weight": (128, 1, 5),
        "conv1.0.bias": (128,),
        "conv1.2.weight": (128,),
        "conv2.0.weight": (256, 128, 11),
        "conv2.0.bias": (256,),
        "conv2.2.weight": (256,),
        "conv3.0.weight": (512, 256, 21),
        "conv3.0.bias": (512,),
        "conv3.2.weight": (512,),
    }
