"""`spender demo`: mock galaxies through the embedded models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spender_core import plot, registry
from spender_core.cataloguing.measuring import Encoded, encode
from spender_core.cli.draw import save
from spender_core.cli.outputs import check_outputs
from spender_core.cli.show import print_table
from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.artefacts import Artefacts
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.galaxies import PreparedPopulations, galaxies, prepare
from spender_core.datasets.mock.observing import Observed, observe
from spender_core.errors import NoSpectraError
from spender_core.evaluation.restframe import amplitude_of
from spender_core.interfaces import Instrument, Model

SNR = (6.0, 30.0)
"""Median S/N a pixel of the mocks."""
SAMPLE = 160
"""Mocks of each instrument whose latents tell how far each of them may be varied."""
REFINE = 6
"""Steps from the encoder's latents to those that fit each of the mocks shown best."""
PERCENTILES = (10.0, 90.0)
"""Between which each latent is varied; beyond them are starbursts, unlike anything between."""
_CONDITIONS = 8
_SCREEN = plot.style("screen", width=14.0, row=2.4)


@dataclass(frozen=True)
class _Survey:
    """Mocks of one instrument, what its model makes of those shown, and latents of all."""

    instrument: Instrument
    model: Model
    name: str
    observed: Observed
    result: Encoded
    latents: Tensor


def run(output: Path, number: int, seed: int) -> None:
    """Draw mock galaxies, encode and reconstruct them, print a table, and draw two pictures.

    The second picture, of what the latents mean, is beside the first, named `...-latents`.
    """
    plot.numbered(output, 1)
    meaning = output.with_stem(f"{output.stem}-latents")
    check_outputs([output, meaning], [])
    surveys = _surveys(number, seed)
    rows = [row for survey in surveys for row in _rows(survey, number)]
    print_table(("object", "z", "S/N", "reduced chi2", "latents"), rows)
    print(f"latents are refined by {REFINE} steps of least squares from those of the encoder")
    figure = plot.overview([_panel(survey) for survey in surveys], _SCREEN)
    save([figure], [output], _SCREEN)
    print(f"{output}: one spectrum of each instrument, its reconstruction, and the truth")
    last = surveys[-1]
    screen = plot.style("screen")
    figure = plot.traversal(last.model, last.latents, percentiles=PERCENTILES, look=screen)
    save([figure], [meaning], screen)
    print(f"{meaning}: what each latent of {last.name} does")


def _surveys(shown: int, seed: int) -> list[_Survey]:
    number = max(shown, SAMPLE)
    generator = torch.Generator().manual_seed(seed)
    populations: PreparedPopulations | None = None
    surveys = []
    for name in registry.instruments():
        card = registry.embedded(name)
        if card is None:
            continue
        populations = populations or prepare(parametric.populations())
        instrument, model = registry.load(card.name)
        low, high = card.z_range or (0.0, 0.5)
        z = (
            low
            + 0.02
            + (0.9 * high - low - 0.02)
            * torch.rand(number, generator=generator, dtype=torch.float64)
        )
        sources = galaxies(number, populations, generator).at(z)
        conditions = Conditions.parametric(instrument, _CONDITIONS, generator)
        observed = observe(
            sources, instrument, conditions, generator, snr=SNR, artefacts=Artefacts(blends=0)
        )
        result = encode(model, observed.batch[:shown], keep=True, refine=REFINE)
        latents = encode(model, observed.batch).latents
        surveys.append(_Survey(instrument, model, card.name, observed, result, latents))
    if not surveys:
        raise NoSpectraError(
            "no installed plugin embeds a model; pip install spender-sdss spender-desi"
        )
    return surveys


def _rows(survey: _Survey, number: int) -> list[tuple[str, ...]]:
    batch, result = survey.observed.batch, survey.result
    return [
        (
            f"mock-{survey.instrument.name}-{row + 1}",
            f"{float(batch.z[row]):.4f}",
            f"{float(batch.snr[row]):.1f}",
            f"{float(result.chi2[row]):.2f}",
            " ".join(f"{value:+.3f}" for value in result.latents[row].tolist()),
        )
        for row in range(number)
    ]


def _panel(survey: _Survey) -> plot.Panel:
    """Return what to draw of the first mock, in units of its normalisation."""
    ((label, _, snr, chi2, _),) = _rows(survey, 1)
    batch, sources = survey.observed.batch[:1], survey.observed.sources[:1]
    scale = amplitude_of(sources, survey.observed.truth[:1], batch, survey.instrument.wave)
    return plot.panel(
        batch.replace(norm=torch.ones(1)),
        0,
        survey.instrument,
        *survey.result.made[0],
        label,
        unit="normalised",
        notes=f"{survey.name}   S/N {snr}   χ²/ν = {chi2}",
        wave_rest=survey.model.wave_rest,
        truth=plot.Curve(sources.grid.wave, (sources.restframe[0] * scale[0]).numpy()),
    )
