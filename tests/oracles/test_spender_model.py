"""Autoencoders agree with spender 0.3 on the layouts of its published files.

A file is written as spender writes it, with random weights; spender's own `load_model`
reads it for the reference, always in float64, and `legacy.read` for ours. Both see the
same observed and restframe wavelengths. Deviations are recorded as properties of the
tests, in the report of `--junitxml`.

Tolerances are relative to the largest value of each quantity: 1e-10 (or absolute, for
values below 1) where ours runs in float64, 1e-5 where it runs in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core import legacy, weights
from spender_core.batch import SpectrumBatch
from spender_core.grid import Table
from spender_core.interfaces import Instrument
from spender_core.nn.autoencoder import SpectrumAutoencoder

spender = pytest.importorskip("spender", reason="the oracle spender 0.3 is not installed")
spender_sdss = pytest.importorskip("spender.data.sdss", reason="spender's SDSS cannot be imported")
spender_desi = pytest.importorskip("spender.data.desi", reason="spender's DESI cannot be imported")
spender_util = pytest.importorskip("spender.util", reason="spender.util cannot be imported")

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

GALAXY_Z = (0.0, 0.0723, 0.3141)
STAR_Z = (0.0, -0.0049, 0.00271)


@dataclass(frozen=True)
class Layout:
    """One way in which spender has written an autoencoder.

    Attributes:
        name: Of the published model, and what differs.
        survey: "sdss" or "desi".
        latents: S.
        rest: R.
        z_max: Largest redshift covered; also used exactly.
        z: Other redshifts of the test spectra; a last one lies just below z_max.
        activation: Of the decoder.
        listed: The state is in a list.
        old_names: The encoder's MLP is called encoder.mlp.mlp.
        redshift_column: Its first layer has a last input for the redshift.
        wave_obs: The file holds the observed wavelengths.
        lsf: Taps of a learned LSF, or 0.
        skyline_mask: The file holds the sky-line mask.
        losses: Kind of the losses: "arrays", "tracker" or "" for none.
    """

    name: str
    survey: str
    latents: int
    rest: int
    z_max: float
    z: tuple[float, ...] = GALAXY_Z
    activation: str = "speculator"
    listed: bool = False
    old_names: bool = False
    redshift_column: bool = False
    wave_obs: bool = True
    lsf: int = 0
    skyline_mask: bool = False
    losses: str = ""


LAYOUTS = (
    Layout(
        "sdss_I",
        *("sdss", 10, 5881, 0.5),
        activation="leaky_relu",
        old_names=True,
        redshift_column=True,
        wave_obs=False,
        losses="arrays",
    ),
    Layout("sdss_I_superres", "sdss", 8, 11762, 0.5, listed=True, lsf=5, skyline_mask=True),
    Layout("sdss_II", "sdss", 6, 7000, 0.5, skyline_mask=True, losses="tracker"),
    Layout("desi_edr_galaxy", "desi", 6, 9780, 0.8, listed=True, losses="arrays"),
    Layout("desi_edr_star", "desi", 6, 7864, 0.005, STAR_Z, losses="tracker"),
    # the other combinations, with fewer restframe pixels
    Layout(
        "old_names_speculator",
        *("sdss", 10, 2881, 0.5),
        old_names=True,
        redshift_column=True,
        wave_obs=False,
        lsf=11,
    ),
    Layout("only_redshift_column", "sdss", 2, 1500, 0.5, redshift_column=True, listed=True),
    Layout("only_old_names", "sdss", 6, 1500, 0.5, old_names=True, losses="tracker"),
    Layout("even_lsf", "sdss", 6, 3000, 0.5, lsf=6, activation="leaky_relu"),
    Layout("even_lsf_star", "desi", 6, 3000, 0.005, STAR_Z, lsf=4, skyline_mask=True),
    Layout("leaky_galaxy", "desi", 3, 2500, 0.8, activation="leaky_relu", wave_obs=False),
)


@dataclass
class Pair:
    """The same model in spender and here, with spectra to try them on."""

    layout: Layout
    file: legacy.Legacy
    theirs: Any
    instrument: Instrument
    flux: Tensor
    ivar: Tensor
    z: Tensor
    losses: Any
    cache: dict[str, Any] = field(default_factory=dict)

    def ours(self, dtype: torch.dtype) -> SpectrumAutoencoder:
        model = SpectrumAutoencoder(
            [self.instrument], self.file.tensors[weights.WAVE_REST], **self.file.config
        )
        tensors = {k: v for k, v in self.file.tensors.items() if k != weights.WAVE_REST}
        weights.restore(model, tensors, self.layout.name)
        return model.to(dtype).eval()


def _their_instrument(layout: Layout, lsf: Any = None) -> Any:
    made = {"sdss": spender_sdss.SDSS, "desi": spender_desi.DESI}[layout.survey](lsf=lsf)
    # .double() of a model that holds it must not touch the tensor of the class
    made.wave_obs = made.wave_obs.clone()
    return made


def _our_instrument(layout: Layout) -> Instrument:
    wave = _their_instrument(layout).wave_obs.double().numpy()

    class SameGrid(Instrument):
        name = layout.survey
        grid = Table(wave)
        loader = None  # type: ignore[assignment]

    return SameGrid()


def _their_model(layout: Layout, generator: torch.Generator) -> Any:
    kernel = None
    if layout.lsf:
        kernel = spender.LSF(torch.rand(layout.lsf, generator=generator) + 0.05)
    instrument = _their_instrument(layout, kernel)
    first, last = instrument.wave_obs[[0, -1]].double().tolist()
    wave_rest = torch.linspace(first / (1 + layout.z_max), last, layout.rest, dtype=torch.float32)
    act = [torch.nn.LeakyReLU()] * 4 if layout.activation == "leaky_relu" else None
    model = spender.SpectrumAutoencoder(instrument, wave_rest, n_latent=layout.latents, act=act)
    with torch.no_grad():
        for parameter in model.encoder.mlp.parameters():
            # so that latents differ clearly between spectra
            parameter.mul_(3)
    return model


def _their_state(layout: Layout, model: Any, generator: torch.Generator) -> dict[str, Tensor]:
    state = dict(model.state_dict())
    if layout.redshift_column:
        first = state["encoder.mlp.0.weight"]
        column = torch.randn(len(first), 1, generator=generator)
        state["encoder.mlp.0.weight"] = torch.cat([first, column], dim=1)
    if not layout.wave_obs:
        del state["encoder.instrument.wave_obs"]
    if layout.skyline_mask:
        mask = type(model.encoder.instrument)._skyline_mask
        state["encoder.instrument.skyline_mask"] = mask
    if layout.old_names:
        old = {name: name.replace("encoder.mlp.", "encoder.mlp.mlp.") for name in state}
        state = {old[name]: tensor for name, tensor in state.items()}
    return state


def _their_losses(kind: str) -> Any:
    if kind == "arrays":
        return np.random.default_rng(3).random((2, 4))
    if kind == "tracker":
        tracker = spender_util.LossTracker()
        for epoch in range(3):
            tracker.update("train", {"fidelity": 1.0 / (1 + epoch), "similarity": 0.5}, weight=4)
            tracker.update("valid", {"fidelity": 1.5 / (1 + epoch)}, weight=2)
            tracker.end_epoch()
        return tracker.state_dict()
    return None


def _load_theirs(path: Path, layout: Layout, made: Any) -> Any:
    """Load the file with spender, which is not strict, and check that it got everything."""
    loaded = spender.load_model(str(path), _their_instrument(layout), weights_only=False)
    expected = made.state_dict()
    state = loaded.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    return loaded.double().eval()


def _spectra(layout: Layout, n: int, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return lines on a sloped continuum with noise, and weights of which many are 0."""
    pixel = torch.arange(size)
    slope = 1 + torch.linspace(-1, 1, size) * torch.randn(n, 1, generator=generator) * 0.4
    flux = slope + 0.2 * torch.randn(n, size, generator=generator)
    for _ in range(8):
        centre, height = (torch.rand(n, 1, generator=generator) for _ in range(2))
        flux += 5 * height * torch.exp(-0.5 * ((pixel - centre * size) / 4) ** 2)
    ivar = 30 * torch.rand(n, size, generator=generator)
    ivar[torch.rand(n, size, generator=generator) < 0.2] = 0
    ivar[0, size // 3 : size // 2] = 0
    ivar[1, : size // 2] = 0
    return flux, ivar


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda layout: layout.name)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Write a file as spender does, and load it on both sides."""
    layout: Layout = request.param
    seed = 100 + LAYOUTS.index(layout)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    made = _their_model(layout, generator)
    state = _their_state(layout, made, generator)
    losses = _their_losses(layout.losses)
    content: dict[str, Any] = {"model": [state] if layout.listed else state}
    if layout.losses:
        content["losses"] = losses
    path = tmp_path_factory.mktemp("legacy") / f"{layout.name}.pt"
    torch.save(content, path)
    file = legacy.read(path, layout.survey)
    theirs = _load_theirs(path, layout, made)
    path.unlink()
    z = torch.tensor([*layout.z, 0.9987 * layout.z_max, layout.z_max], dtype=torch.float64)
    flux, ivar = _spectra(layout, len(z), len(theirs.wave_obs), generator)
    return Pair(layout, file, theirs, _our_instrument(layout), flux, ivar, z, losses)


# ---- what both sides compute -------------------------------------------------------------


def _reference(pair: Pair) -> dict[str, Tensor]:
    """Compute every quantity with spender, in float64."""
    if "reference" not in pair.cache:
        pair.cache["reference"] = _compute_reference(pair)
    return pair.cache["reference"]


@torch.no_grad()
def _compute_reference(pair: Pair) -> dict[str, Tensor]:
    model, instrument = pair.theirs, pair.theirs.encoder.instrument
    y, w, z = pair.flux.double(), pair.ivar.double(), pair.z
    # at other levels, so that normalize has something to do
    scaled = y * torch.linspace(0.2, 40, len(y), dtype=y.dtype)[:, None]
    s = model.encode(y)
    x = model.decode(s)
    observed, valid = model.decoder.transform(x, instrument=instrument, z=z, return_valid=True)
    at_zero, valid_at_zero = model.decoder.transform(x, instrument=instrument, return_valid=True)
    forward = functools.partial(model._forward, instrument=instrument, z=z)
    plain = forward(y)
    fitted = forward(scaled, normalize=True, weights=w)
    unweighted = forward(scaled, normalize=True, s=s)
    return {
        "encode": s,
        "decode": x,
        "transform": observed,
        "valid": valid,
        "transform at z=None": at_zero,
        "valid at z=None": valid_at_zero,
        "forward": plain[2],
        "forward given s": model(y, instrument=instrument, z=z, s=s.flip(0)),
        "restframe": plain[1],
        "forward normalized": fitted[2],
        "restframe normalized": fitted[1],
        "forward normalized without weights": unweighted[2],
        "restframe normalized without weights": unweighted[1],
        "loss": model.loss(y, w, instrument=instrument, z=z),
        "loss individual": model.loss(y, w, instrument=instrument, z=z, individual=True),
        "loss given s": model.loss(y, w, instrument=instrument, z=z, s=s.flip(0)),
        # spender.loss(normalize=True) fits without the weights; its parts do with them
        "loss normalized": model._loss(scaled, w * fitted[3], fitted[2]),
        "loss normalized individual": model._loss(
            scaled, w * fitted[3], fitted[2], individual=True
        ),
        "scaled": scaled,
    }


def _ours(pair: Pair, dtype: torch.dtype) -> dict[str, Tensor]:
    key = f"ours {dtype}"
    if key not in pair.cache:
        pair.cache[key] = _compute_ours(pair, dtype)
    return pair.cache[key]


@torch.no_grad()
def _compute_ours(pair: Pair, dtype: torch.dtype) -> dict[str, Tensor]:
    reference, model, z = _reference(pair), pair.ours(dtype), pair.z
    y, w = pair.flux.to(dtype), pair.ivar.to(dtype)
    scaled, s, x = (reference[name].to(dtype) for name in ("scaled", "encode", "decode"))
    instrument = pair.instrument
    observed, valid = model.transform(x, instrument=instrument, z=z)
    at_zero, valid_at_zero = model.transform(x, instrument=instrument)
    plain = model.reconstruct(y, instrument, z)
    fitted = model.reconstruct(scaled, instrument, z, normalize=True, weights=w)
    unweighted = model.reconstruct(scaled, instrument, z, s=s, normalize=True)
    loss: Callable[..., Tensor] = functools.partial(model.loss, instrument=instrument, z=z)
    return {
        "encode": model.encode(y),
        "decode": model.decode(s),
        "transform": observed,
        "valid": valid,
        "transform at z=None": at_zero,
        "valid at z=None": valid_at_zero,
        "forward": model(y, instrument=instrument, z=z),
        "forward given s": model(y, instrument=instrument, z=z, s=s.flip(0)),
        "restframe": plain.restframe,
        "forward normalized": model(scaled, instrument, z, normalize=True, weights=w),
        "restframe normalized": fitted.restframe,
        "forward normalized without weights": unweighted.observed,
        "restframe normalized without weights": unweighted.restframe,
        "loss": loss(y, w),
        "loss individual": loss(y, w, individual=True),
        "loss given s": loss(y, w, s=s.flip(0)),
        "loss normalized": loss(scaled, w, normalize=True),
        "loss normalized individual": loss(scaled, w, normalize=True, individual=True),
    }


QUANTITIES = (
    "encode",
    "decode",
    "transform",
    "transform at z=None",
    "forward",
    "forward given s",
    "restframe",
    "forward normalized",
    "restframe normalized",
    "forward normalized without weights",
    "restframe normalized without weights",
    "loss",
    "loss individual",
    "loss given s",
    "loss normalized",
    "loss normalized individual",
)


# ---- tests -------------------------------------------------------------------------------


def test_file_is_understood(pair: Pair) -> None:
    layout, file = pair.layout, pair.file
    assert (file.kind, file.architecture) == ("autoencoder", "spectrum_autoencoder")
    assert (file.latents, file.config["n_latent"]) == (layout.latents, layout.latents)
    assert file.config["activation"] == layout.activation
    assert file.tensors[weights.WAVE_REST].dtype == torch.float64
    assert torch.equal(file.tensors[weights.WAVE_REST], pair.theirs.wave_rest)
    assert file.lsf_taps == (layout.lsf or None)
    assert (file.wave_obs is not None) == layout.wave_obs
    assert file.fits(pair.instrument.grid)


def test_losses_become_plain_lists(pair: Pair) -> None:
    expected = pair.losses
    if pair.layout.losses == "arrays":
        expected = pair.losses.tolist()
    assert pair.file.losses == expected
    if pair.layout.losses == "tracker":
        assert pair.file.losses["epoch"] == 3


def test_spectra_are_a_real_test(pair: Pair) -> None:
    """Guard the oracle itself: models that do not vary would agree by chance."""
    reference = _reference(pair)
    latents, restframe = reference["encode"], reference["decode"]
    assert float(latents.std(dim=0).min()) > 1e-3 * float(latents.abs().max())
    assert float(restframe.std(dim=1).min()) > 0.01
    assert all(bool(value.isfinite().all()) for value in reference.values())
    reach = reference["valid"].sum(dim=1)
    assert int(reach.min()) > 1000
    assert bool((pair.ivar == 0).any(dim=1).all())


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_float64_equals_spender(
    pair: Pair, quantity: str, record_deviation: Callable[[str, float], None]
) -> None:
    ours, reference = _ours(pair, torch.float64)[quantity], _reference(pair)[quantity]
    assert ours.shape == reference.shape
    assert ours.dtype == torch.float64
    deviation = float((ours - reference).abs().max() / max(1.0, float(reference.abs().max())))
    record_deviation("deviation", deviation)
    assert deviation <= 1e-10


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_float32_is_close_to_spender_in_float64(
    pair: Pair, quantity: str, record_deviation: Callable[[str, float], None]
) -> None:
    ours, reference = _ours(pair, torch.float32)[quantity], _reference(pair)[quantity]
    assert ours.shape == reference.shape
    assert ours.dtype == torch.float32
    deviation = float((ours.double() - reference).abs().max() / reference.abs().max())
    record_deviation("deviation", deviation)
    assert deviation <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("quantity", ["valid", "valid at z=None"])
def test_reach_is_exactly_that_of_spender(pair: Pair, quantity: str, dtype: torch.dtype) -> None:
    ours, reference = _ours(pair, dtype)[quantity], _reference(pair)[quantity]
    assert ours.dtype == torch.bool
    assert torch.equal(ours, reference)


def test_a_batch_gives_the_same_as_its_tensors(pair: Pair) -> None:
    model = pair.ours(torch.float64)
    batch = SpectrumBatch(
        pair.flux.double(), pair.ivar.double(), z=pair.z, instrument=pair.instrument
    )
    reference = _reference(pair)
    with torch.no_grad():
        made = model.reconstruct(batch)
        loss = model.loss(batch, individual=True)
    torch.testing.assert_close(made.latents, reference["encode"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(made.observed, reference["forward"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss, reference["loss individual"], rtol=1e-10, atol=1e-10)


def _gradients(loss: Tensor, z: Tensor, encoder: Any, decoder: Any) -> dict[str, Tensor]:
    wanted = {
        "z": z,
        "decoder first": decoder.mlp[0].weight,
        "decoder last": decoder.mlp[-2].weight,
        "encoder first": encoder.conv1[0].weight,
    }
    return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))


def test_gradients_equal_those_of_spender(
    pair: Pair, record_deviation: Callable[[str, float], None]
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


def test_lsf_gradient_equals_that_of_spender(pair: Pair) -> None:
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
    pair: Pair, record_deviation: Callable[[str, float], None]
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


def test_attention_gradient_is_left_alone_in_training(pair: Pair) -> None:
    """spender attaches its hook in training too, since `~self.training` is always true."""
    model = pair.ours(torch.float64).train()
    _weighted_sum(model.encode(pair.flux[:2].double())).backward()
    assert model.encoder.attention_grad is None
