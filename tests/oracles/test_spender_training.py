"""Training as a plain loop of spender 0.3 does: the same losses, step by step, in float64.

Both sides begin with the same weights and see the same spectra, the augmented ones included, which
our `augment_spectra` makes for both. Grids are like those of SDSS and DESI, with few pixels, and
spender is given them in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spender_core import legacy, weights
from spender_core.datasets.augment import (
    Augmentation,
    CappedRedshift,
    RedshiftRule,
    UniformRedshift,
    augment_spectra,
)
from spender_core.grid import Grid, Linear, Log, Table
from spender_core.interfaces import Instrument
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.training.config import LossConfig
from spender_core.training.objective import Inputs, Objective, Weights

spender = pytest.importorskip("spender", reason="the oracle spender 0.3 is not installed")
peer = pytest.importorskip("spender.loss", reason="spender.loss cannot be imported")

STEPS, BATCHES, SIZE, RATE, LATENTS = 50, 5, 6, 1e-3, 4
FILTERS = [16, 32, 64]
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Survey:
    """A small likeness of a survey: its grid, redshifts, and how it is augmented."""

    name: str
    grid: Grid
    z_max: float
    rule: RedshiftRule
    mask: float


SURVEYS = (
    Survey("sdss", Log(3.5805, 3.2e-3, 120), 0.4, CappedRedshift(0.4), 0.05),
    Survey("desi", Linear(3600.0, 50.0, 125), 0.6, UniformRedshift(0.0, 0.6), 0.0),
)


@dataclass(frozen=True)
class Start:
    """The same weights on both sides, and batches with augmented ones for all steps."""

    survey: Survey
    theirs: Any
    ours: SpectrumAutoencoder
    batches: list[Batch]
    augmented: list[Batch]


def _batches(survey: Survey) -> list[Batch]:
    """Return lines at restframe wavelengths on a continuum, with noise and masked pixels."""
    wave = torch.tensor(survey.grid.wave)
    made = []
    for _ in range(BATCHES):
        z = 0.95 * survey.z_max * torch.rand(SIZE, dtype=torch.float64)
        rest, strength = wave / (1 + z[:, None]), torch.rand(SIZE, 3, dtype=torch.float64)
        flux = (rest / 5000) ** (4 * strength[:, :1] - 2)
        for column, line in ((1, 5007.0), (2, 6565.0)):
            shape = torch.exp(-0.5 * ((rest - line) / 40) ** 2)
            flux = flux + 4 * strength[:, column, None] * shape
        ivar = (20 + 80 * torch.rand_like(flux)) * (torch.rand_like(flux) > 0.1)
        noise = torch.randn_like(flux) / ivar.clamp(min=20).sqrt()
        made.append((flux + noise, ivar, z))
    return made


@pytest.fixture(scope="module", params=SURVEYS, ids=lambda survey: survey.name)
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Write a file as spender does, and load it on our side."""
    survey: Survey = request.param
    torch.manual_seed(21)
    wave = torch.tensor(survey.grid.wave)
    rest = torch.linspace(float(wave[0]) / (1 + survey.z_max), float(wave[-1]), 170).double()
    theirs = _theirs(wave, rest)
    path = tmp_path_factory.mktemp("legacy") / "start.pt"
    torch.save({"model": theirs.state_dict()}, path)
    ours = _ours(path, survey)
    batches = _batches(survey)
    settings = Augmentation(survey.rule, mask=survey.mask)
    generator = torch.Generator().manual_seed(4)
    augmented = [
        augment_spectra(*batches[step % BATCHES], wave, generator, settings)
        for step in range(STEPS)
    ]
    return Start(survey, theirs, ours, batches, augmented)


def _theirs(wave: Tensor, rest: Tensor) -> Any:
    """Return spender's model with an eighth of its channels, and latents that differ clearly."""
    model = spender.SpectrumAutoencoder(spender.Instrument(wave), rest, n_latent=LATENTS)
    encoder = model.encoder
    encoder.conv1, encoder.conv2, encoder.conv3 = encoder._conv_blocks(FILTERS, [5, 11, 21])
    encoder.mlp[0] = torch.nn.Linear(FILTERS[-1] // 2, encoder.mlp[0].out_features)
    with torch.no_grad():
        for parameter in encoder.mlp.parameters():
            parameter.mul_(3)
    return model.double()


def _ours(path: Path, survey: Survey) -> SpectrumAutoencoder:
    class Same(Instrument):
        name = survey.name
        grid = survey.grid
        loader: Any = None

    file = legacy.read(path, survey.name)
    tensors = dict(file.tensors)
    rest = tensors.pop(weights.WAVE_REST)
    model = SpectrumAutoencoder([Same()], Table(rest.double().numpy()), **file.config).double()
    weights.restore(model, tensors, survey.name)
    return model


@pytest.fixture
def again(start: Start) -> Iterator[Start]:
    """The start, whatever other tests have trained."""
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (start.theirs, start.ours)]
    yield start
    for model, state in zip((start.theirs, start.ours), before, strict=True):
        model.load_state_dict(state)


def their_curve(start: Start, config: LossConfig, steps: int = STEPS) -> Tensor:
    """Train spender's model in a plain loop; return its three losses at each step."""
    model, instrument = start.theirs.train(), start.theirs.encoder.instrument
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    settings, curve = peer.LossConfig(), []
    for step in range(steps):
        amplitudes = Weights.of(config, step / steps)
        settings.similarity_slope = amplitudes.slope
        with_pairs, with_augmented = amplitudes.similarity > 0, amplitudes.consistency > 0
        found = peer.get_losses(
            model,
            instrument,
            start.batches[step % BATCHES],
            aug_fct=lambda _, step=step: start.augmented[step],
            similarity=with_pairs,
            consistency=with_augmented,
            loss_config=settings,
        )
        fidelity, similarity, consistency = found
        total = fidelity + amplitudes.similarity * similarity + amplitudes.consistency * consistency
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        curve.append([float(torch.as_tensor(loss).detach()) for loss in (total, *found)])
    return torch.tensor(curve, dtype=torch.float64)


def our_curve(start: Start, config: LossConfig, steps: int = STEPS) -> Tensor:
    """Train our model by the objective; return the total and the three losses at each step."""
    objective = Objective(start.ours.train(), config)
    optimizer = torch.optim.Adam(objective.parameters(), lr=RATE)
    curve = []
    for step in range(steps):
        flux_aug, ivar_aug, _ = start.augmented[step]
        batch = Inputs(*start.batches[step % BATCHES], flux_aug=flux_aug, ivar_aug=ivar_aug)
        losses = objective({start.survey.name: batch}, Weights.of(config, step / steps))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        three = torch.stack([losses.fidelity, losses.similarity, losses.consistency])
        curve.append([float(losses.total.detach()), *(three * losses.count).tolist()])
    return torch.tensor(curve, dtype=torch.float64)


CONFIGS = {
    "fidelity": LossConfig(reduction="sum"),
    "all": LossConfig(reduction="sum", similarity=3.0, consistency=1.0),
    "annealed": LossConfig(
        reduction="sum",
        similarity=3.0,
        consistency=((0.0, 0.0), (1.0, 2.0)),
        slope=((0.0, 1.0), (1.0, 25.0)),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_curves(
    again: Start, name: str, record_deviation: Callable[[str, float], None]
) -> None:
    config = CONFIGS[name]
    expected, found = their_curve(again, config), our_curve(again, config)
    deviation = ((found - expected).abs() / expected.abs().clamp(min=1e-12)).max(dim=0).values
    for column, loss in enumerate(("total", "fidelity", "similarity", "consistency")):
        record_deviation(loss, float(deviation[column]))
    assert float(deviation.max()) <= 1e-4
    # training did something, and so did each loss
    assert float(expected[-1, 1]) < 0.7 * float(expected[0, 1])
    assert bool((expected[1:, 2:] > 0).all()) == (name != "fidelity")


def test_mean_is_the_sum_by_the_number_of_spectra(again: Start) -> None:
    totals = {}
    flux_aug, ivar_aug, _ = again.augmented[0]
    batch = Inputs(*again.batches[0], flux_aug=flux_aug, ivar_aug=ivar_aug)
    for reduction in ("sum", "mean"):
        objective = Objective(again.ours, LossConfig(reduction=reduction, similarity=3.0))
        totals[reduction] = objective({again.survey.name: batch}, Weights(1.0, 3.0, 1.0)).total
    torch.testing.assert_close(totals["mean"] * SIZE, totals["sum"], rtol=1e-12, atol=0)
