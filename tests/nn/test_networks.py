"""The networks: shapes, attention, the contract of models, and densities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spender_core.errors import InputError
from spender_core.grid import Linear, Log
from spender_core.interfaces import Instrument, Model
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.nn.decoder import SpectrumDecoder
from spender_core.nn.encoder import SpectrumEncoder
from spender_core.nn.flow import MaskedAutoregressiveFlow
from spender_core.nn.layers import SpeculatorActivation, mlp
from spender_core.records import ModelCard
from spender_core.testing import ModelContract


class Red(Instrument):
    name = "red"
    grid = Linear(5000.0, 8.0, 200)
    loader = None  # type: ignore[assignment]


class Blue(Instrument):
    name = "blue"
    grid = Log(3.6, 5e-4, 160)
    loader = None  # type: ignore[assignment]


SMALL: dict[str, Any] = {
    "n_latent": 3,
    "filters": (4, 6, 8),
    "sizes": (3, 5, 7),
    "encoder_hidden": (9, 5),
    "decoder_hidden": (7,),
}


def autoencoder(**changes: Any) -> SpectrumAutoencoder:
    torch.manual_seed(0)
    rest = Log(3.55, 2e-3, 150)
    return SpectrumAutoencoder([Red(), Blue()], rest, **(SMALL | changes))


@pytest.mark.parametrize("filters", [(2, 3, 4), (8, 4, 2)])
@pytest.mark.parametrize("hidden", [(), (5,), (9, 7, 5, 3)])
def test_encoders_of_any_width(filters: tuple[int, ...], hidden: tuple[int, ...]) -> None:
    encoder = SpectrumEncoder(4, filters, (3, 5, 3), hidden)
    for pixels in (60, 131):
        assert encoder(torch.rand(2, pixels)).shape == (2, 4)


@pytest.mark.parametrize("activation", ["speculator", "leaky_relu"])
@pytest.mark.parametrize("hidden", [(), (5,), (9, 7, 5)])
def test_decoders_of_any_width(activation: str, hidden: tuple[int, ...]) -> None:
    decoder = SpectrumDecoder(3, 50, hidden, activation)
    assert decoder(torch.rand(2, 3)).shape == (2, 50)


def test_an_untrained_decoder_is_around_one() -> None:
    torch.manual_seed(0)
    decoder = SpectrumDecoder(3, 500)
    assert decoder(torch.zeros(1, 3)).mean().item() == pytest.approx(1.0, abs=0.1)


def test_speculator_activation_by_hand() -> None:
    layer = SpeculatorActivation(2, plus_one=True)
    with torch.no_grad():
        layer.beta.copy_(torch.tensor([0.0, 100.0]))
        layer.gamma.copy_(torch.tensor([0.5, 0.25]))
    assert layer(torch.tensor([[4.0, 4.0]])).tolist() == [[1 + 0.75 * 4, 1 + 4.0]]
    assert layer(torch.tensor([[4.0, -4.0]])).tolist() == [[4.0, 1 - 0.25 * 4]]


@pytest.mark.parametrize(
    ("filters", "sizes"),
    [((4, 4), (3, 3, 3)), ((4, 4, 4), (3, 3)), ((4, 4, 5), (3, 3, 3)), ((4, 4, 4), (3, 4, 3))],
)
def test_impossible_encoders_are_refused(filters: Any, sizes: Any) -> None:
    with pytest.raises(InputError, match="the last even, and three odd kernel sizes; got filters="):
        SpectrumEncoder(2, filters, sizes)


def test_impossible_decoders_are_refused() -> None:
    with pytest.raises(InputError, match="'relu' is not known; use 'speculator' or 'leaky_relu'"):
        autoencoder(activation="relu")


def test_impossible_kernels_are_refused() -> None:
    with pytest.raises(InputError, match="taps of an LSF kernel must be positive integers, got 0"):
        autoencoder(lsf_taps={"red": 0})


def test_layers_need_their_activations() -> None:
    with pytest.raises(InputError, match="2 layers need as many activations, not 1"):
        mlp([3, 4, 5], [nn.Identity()])


def test_attention_gradients_come_from_evaluation_only() -> None:
    torch.manual_seed(0)
    encoder = SpectrumEncoder(4, (4, 4, 6), (3, 3, 3), (5,))
    flux = torch.rand(2, 50)
    encoder.train()(flux).sum().backward()
    assert encoder.attention_grad is None
    with torch.no_grad():
        encoder.eval()(flux)
    assert encoder.attention_grad is None
    latents = encoder.eval()(flux)
    assert encoder.attention_grad is None, "nothing was propagated back yet"
    latents[:, 0].sum().backward()
    grad = encoder.attention_grad
    assert grad is not None
    assert grad.shape[:2] == (2, 3)
    assert grad.abs().sum() > 0
    assert not grad.requires_grad
    encoder.train()(flux).sum().backward()
    assert encoder.attention_grad is grad


class TestAutoencoder(ModelContract):
    """Two instruments with one decoder, one of them with a learned LSF."""

    @pytest.fixture
    def model(self) -> Model:
        return autoencoder(lsf_taps={"blue": 5})


class TestAutoencoderWithLeakyRelu(ModelContract):
    @pytest.fixture
    def model(self) -> Model:
        return autoencoder(activation="leaky_relu", lsf_taps={"red": 4})


def test_the_decoder_is_shared_and_the_encoders_are_not() -> None:
    model = autoencoder()
    names = set(model.state_dict())
    assert {name.split(".")[0] for name in names} == {"encoders", "decoder"}
    assert {name.split(".")[1] for name in names if name.startswith("encoders")} == {"red", "blue"}
    assert model.encoder is model.encoders["red"]


def test_the_config_makes_the_model_again() -> None:
    model = autoencoder(lsf_taps={"blue": 5, "absent": 3})
    assert model.config["lsf_taps"] == {"blue": 5}
    copy = SpectrumAutoencoder([Red(), Blue()], model.rest, **model.config)
    copy.load_state_dict(model.state_dict(), strict=True)
    assert copy.config == model.config


def test_the_learned_lsf_of_an_instrument_is_its_own() -> None:
    model = autoencoder(lsf_taps={"blue": 5}).eval()
    plain = autoencoder().eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        model.lsf["blue"].kernel.copy_(torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0]))
    x = model.decode(torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(model.transform(x, "red")[0], plain.transform(x, "red")[0])
    assert not torch.allclose(model.transform(x, "blue")[0], plain.transform(x, "blue")[0])


def flow(n_latent: int, **changes: Any) -> MaskedAutoregressiveFlow:
    """Return a flow in float64 that is far from the identity."""
    torch.manual_seed(3)
    made = MaskedAutoregressiveFlow(n_latent, **({"hidden": 16, "transforms": 3} | changes))
    made.scale.copy_(0.5 + torch.rand(n_latent))
    made.shift.copy_(torch.randn(n_latent))
    return made.double().eval()


@torch.no_grad()
@pytest.mark.parametrize("blocks", [0, 2])
def test_density_of_one_latent_integrates_to_one(blocks: int) -> None:
    s = torch.linspace(-60, 60, 60001, dtype=torch.float64)[:, None]
    density = flow(1, blocks=blocks).log_prob(s).exp()
    assert torch.trapezoid(density, s[:, 0]).item() == pytest.approx(1.0, abs=1e-6)


@torch.no_grad()
def test_density_of_two_latents_integrates_to_one() -> None:
    made = flow(2)
    samples = made.sample(2000, torch.Generator().manual_seed(0))
    middle, spread = samples.mean(0), samples.std(0)
    axes = [
        torch.linspace(-10, 10, 801, dtype=torch.float64) * spread[k] + middle[k] for k in (0, 1)
    ]
    s = torch.cartesian_prod(*axes)
    density = made.log_prob(s).exp().reshape(801, 801)
    total = torch.trapezoid(torch.trapezoid(density, axes[1]), axes[0])
    assert total.item() == pytest.approx(1.0, abs=1e-4)


def to_normal(made: MaskedAutoregressiveFlow, s: Tensor) -> Tensor:
    """Return where the flow takes latents."""
    x = s * made.scale + made.shift
    for transform, permutation in zip(made.transforms, made.permutations, strict=True):
        x = transform(x)[0][:, permutation]
    return x


@torch.no_grad()
@pytest.mark.parametrize("n_latent", [1, 2, 6])
def test_samples_are_the_inverse_of_the_density(n_latent: int) -> None:
    """Samples go back to the normal draws from which they came."""
    made = flow(n_latent)
    samples = made.sample(100, torch.Generator().manual_seed(1))
    draws = torch.randn(
        100, n_latent, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    torch.testing.assert_close(to_normal(made, samples), draws, rtol=1e-9, atol=1e-9)


def test_density_is_that_of_a_change_of_variables() -> None:
    made = flow(4)
    s = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    jacobian: Any = torch.autograd.functional.jacobian(
        lambda row: to_normal(made, row[None])[0], s[0]
    )
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(to_normal(made, s)).sum()
    torch.testing.assert_close(made.log_prob(s)[0], normal + jacobian.det().abs().log())


def test_sampling_is_seeded() -> None:
    made = flow(3)
    draws = [made.sample(5, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (5, 3)


def test_gradients_of_the_density_reach_all_parameters() -> None:
    made = flow(3).train()
    made.log_prob(torch.randn(8, 3, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_flows_are_built_from_cards() -> None:
    made = flow(3)
    card = ModelCard(name="f", kind="flow", architecture="maf", latents=3, config=made.config)
    copy = MaskedAutoregressiveFlow.build(card).double()
    copy.load_state_dict(made.state_dict())
    s = torch.zeros(1, 3, dtype=torch.float64)
    assert torch.equal(copy.log_prob(s), made.log_prob(s))


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1)])
def test_latents_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"shape \(B, 3\)"):
        flow(3).log_prob(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    "changes", [{"hidden": 0}, {"transforms": 0}, {"n_latent": 0}, {"blocks": -1}]
)
def test_impossible_flows_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be positive"):
        MaskedAutoregressiveFlow(**({"n_latent": 2} | changes))
