"""The autoencoder that knows its noise: what its encoder sees, and what it ignores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spender_core import registry
from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.grid import Log
from spender_core.nn.weighted import WeightedAutoencoder, WeightedEncoder
from spender_core.records import ModelCard

REST = Log(3.4, 2e-4, 2900)


@pytest.fixture(scope="module")
def sdss() -> Any:
    return registry.instrument("sdss")


@pytest.fixture(scope="module")
def model(sdss: Any) -> WeightedAutoencoder:
    torch.manual_seed(0)
    return WeightedAutoencoder([sdss], REST, n_latent=3, lsf_taps={"sdss": 5}).eval()


def spectra(sdss: Any, n: int = 4, seed: int = 0) -> SpectrumBatch:
    generator = torch.Generator().manual_seed(seed)
    flux = 1 + 0.3 * torch.randn(n, sdss.grid.size, generator=generator)
    ivar = 1 + 20 * torch.rand(n, sdss.grid.size, generator=generator)
    return SpectrumBatch(flux, ivar, z=torch.full((n,), 0.1), instrument=sdss)


def test_masked_pixels_do_not_matter(sdss: Any, model: WeightedAutoencoder) -> None:
    batch = spectra(sdss)
    ivar, wild = batch.ivar.clone(), batch.flux.clone()
    ivar[:, 500:700] = 0
    wild[:, 500:700] = 1e6
    calm = model.encode(batch.replace(ivar=ivar))
    assert torch.equal(model.encode(batch.replace(flux=wild, ivar=ivar)), calm)
    assert not torch.equal(model.encode(batch), calm)


@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e6])
def test_the_scale_of_a_spectrum_does_not_matter(
    sdss: Any, model: WeightedAutoencoder, scale: float
) -> None:
    batch = spectra(sdss)
    scaled = batch.replace(flux=batch.flux * scale, ivar=batch.ivar / scale**2)
    assert torch.allclose(model.encode(scaled), model.encode(batch), rtol=1e-4, atol=1e-5)
    bare = model.encode(batch.flux)
    assert torch.allclose(model.encode(batch.flux * scale), bare, rtol=1e-4, atol=1e-5)


def test_the_noise_is_seen_in_every_way_to_encode(sdss: Any, model: WeightedAutoencoder) -> None:
    batch = spectra(sdss)
    s = model.encode(batch)
    assert s.shape == (4, 3)
    assert torch.equal(model.encode(batch.flux, weights=batch.ivar), s)
    assert torch.equal(model.reconstruct(batch).latents, s)
    told = model.reconstruct(batch.flux, z=batch.z, weights=batch.ivar)
    assert torch.equal(told.latents, s)
    assert not torch.equal(model.encode(batch.flux), s)


def test_without_any_good_pixel_latents_are_finite(sdss: Any, model: WeightedAutoencoder) -> None:
    batch = spectra(sdss, 2)
    empty = batch.replace(ivar=torch.zeros_like(batch.ivar))
    assert model.encode(empty).isfinite().all()
    dark = batch.replace(flux=torch.zeros_like(batch.flux))
    assert model.encode(dark).isfinite().all()
    assert model.encode(dark.flux).isfinite().all()


def test_gradients_reach_every_parameter(sdss: Any) -> None:
    torch.manual_seed(1)
    model = WeightedAutoencoder([sdss], REST, n_latent=3, lsf_taps={"sdss": 5})
    model.loss(spectra(sdss), normalize=True).backward()
    silent = [
        name
        for name, value in model.named_parameters()
        if value.grad is None or not value.grad.any()
    ]
    assert silent == []


def test_a_file_gives_the_same_model(sdss: Any, model: WeightedAutoencoder, tmp_path: Path) -> None:
    card = ModelCard(name="w", architecture="weighted_autoencoder", latents=3)
    registry.save(tmp_path / "w.safetensors", model, card)
    _, copy = registry.load(str(tmp_path / "w.safetensors"))
    assert isinstance(copy, WeightedAutoencoder)
    batch = spectra(sdss)
    assert torch.equal(copy.encode(batch), model.encode(batch))
    assert torch.equal(copy(batch), model(batch))
    assert copy.card is not None
    assert copy.card.lsf == "constant"


def test_weights_of_another_shape_are_refused(sdss: Any, model: WeightedAutoencoder) -> None:
    batch = spectra(sdss)
    with pytest.raises(InputError, match="weights have shape"):
        model.encode(batch.flux, weights=batch.ivar[:, :-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8, 8), "strides": (2, 2)}, "need 1 strides"),
        ({"channels": (8, 0), "strides": (2,)}, "channels must be positive"),
        ({"channels": (8, 8), "strides": (0,)}, "strides must be positive"),
        ({"n_latent": 0}, "must be positive"),
    ],
)
def test_impossible_sizes_are_refused(sdss: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WeightedAutoencoder([sdss], REST, **options)


@pytest.mark.parametrize("pixels", [37, 400, 3921])
def test_any_number_of_pixels_can_be_encoded(pixels: int) -> None:
    encoder = WeightedEncoder(pixels, 2, (4, 8, 8), (3, 2), (16,))
    flux = torch.from_numpy(np.linspace(0.5, 1.5, 2 * pixels).reshape(2, pixels)).float()
    assert encoder(flux, torch.ones_like(flux)).shape == (2, 2)
