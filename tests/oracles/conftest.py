"""Fixtures of the oracle tests: real data, and models that both sides have read.

A file is written as spender writes it, with random weights; spender's own `load_model`
reads it for the reference, always in float64, and `legacy.read` for ours. Both see the
same observed and restframe wavelengths.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core import legacy, weights
from spender_core.grid import Table
from spender_core.interfaces import Instrument
from spender_core.nn.autoencoder import SpectrumAutoencoder

GALAXY_Z = (0.0, 0.0723, 0.3141)
STAR_Z = (0.0, -0.0049, 0.00271)


@pytest.fixture
def record_deviation(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Return a function that notes a figure in the report of `--junitxml`."""

    def record(name: str, value: float) -> None:
        request.node.user_properties.append((name, value))

    return record


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
    module = importlib.import_module(f"spender.data.{layout.survey}")
    made = getattr(module, layout.survey.upper())(lsf=lsf)
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
    import spender

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
        tracker = importlib.import_module("spender.util").LossTracker()
        for epoch in range(3):
            tracker.update("train", {"fidelity": 1.0 / (1 + epoch), "similarity": 0.5}, weight=4)
            tracker.update("valid", {"fidelity": 1.5 / (1 + epoch)}, weight=2)
            tracker.end_epoch()
        return tracker.state_dict()
    return None


def _load_theirs(path: Path, layout: Layout, made: Any) -> Any:
    """Load the file with spender, which is not strict, and check that it got everything."""
    import spender

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
    """Write a file as spender does, and load it on both sides.

    Modules that ask for it skip themselves where spender 0.3 is not installed.
    """
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
