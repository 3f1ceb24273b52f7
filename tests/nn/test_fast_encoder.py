"""The encoder's fast path: where it is taken, and that nobody can tell but by the time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from spender_core.nn.encoder import SpectrumEncoder

PIXELS = 1501


def encoder(dtype: torch.dtype = torch.float64, falling: bool = False) -> SpectrumEncoder:
    torch.manual_seed(2)
    made = SpectrumEncoder(4).to(dtype).eval()
    if falling:
        with torch.no_grad():
            for block in (made.conv1, made.conv2, made.conv3):
                block[2].weight.normal_(std=0.3)
    return made


def spectra(n: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return 1 + 0.3 * torch.randn(n, PIXELS, dtype=dtype, generator=generator)


def direct(model: SpectrumEncoder) -> SpectrumEncoder:
    twin = copy.deepcopy(model)
    twin.fast = False
    return twin


def taken(model: SpectrumEncoder, flux: Tensor) -> bool:
    """Return whether the fast path is taken: it calls none of the layers."""
    calls: list[int] = []
    handle = model.conv1.register_forward_hook(lambda *_: calls.append(1))
    model(flux)
    handle.remove()
    return not calls


def deviation(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


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


def test_float32_latents() -> None:
    model, flux = encoder(torch.float32), spectra(dtype=torch.float32)
    exact = direct(model).double()(flux.double())
    assert deviation(model(flux), exact) < 1e-5
    with torch.no_grad():
        assert deviation(model(flux), exact) < 1e-5


def test_attention_gradient_equals_that_of_the_layers() -> None:
    model, flux = encoder(), spectra()
    other = direct(model)
    for each in (model, other):
        each(flux).square().sum().backward()
    assert model.attention_grad is not None
    assert model.attention_grad.shape == other.attention_grad.shape
    assert deviation(model.attention_grad, other.attention_grad) < 1e-9


def test_layers_of_torch_serve_what_the_fast_path_does_not() -> None:
    model, flux = encoder(torch.float32), spectra(dtype=torch.float32)
    assert taken(model, flux)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not taken(model, flux)
        assert torch.equal(model(flux), direct(model)(flux))
    assert not taken(encoder(torch.bfloat16), flux.bfloat16())
    tiny = SpectrumEncoder(2, (4, 4, 6), (3, 3, 3), (5,)).eval()
    assert not taken(tiny, flux)


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


def test_kernels_of_inference_mode_serve_training_too() -> None:
    model, flux = encoder(), spectra()
    with torch.inference_mode():
        expected = model(flux)
    with torch.no_grad():
        assert torch.equal(model(flux), expected)
    model(flux).sum().backward()
    assert model.conv3[0].weight.grad is not None


def test_frozen_weights_pass_gradients_to_the_flux() -> None:
    model, flux = encoder().requires_grad_(False), spectra().requires_grad_()
    other = direct(model)
    (mine,) = torch.autograd.grad(model(flux).sum(), flux)
    (theirs,) = torch.autograd.grad(other(flux).sum(), flux)
    assert deviation(mine, theirs) < 1e-9


def test_second_derivatives_are_refused_not_wrong() -> None:
    model, flux = encoder(), spectra().requires_grad_()
    (grad,) = torch.autograd.grad(model(flux).sum(), flux, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def kept(model: nn.Module, flux: Tensor) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, each storage once."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(flux).sum()
    total = sum(sizes.values())
    loss.backward()
    return total


def test_training_keeps_less_memory_than_the_layers() -> None:
    model, flux = encoder(torch.float32).train(), spectra(32, torch.float32)
    assert kept(model, flux) < 0.6 * kept(direct(model), flux)


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
