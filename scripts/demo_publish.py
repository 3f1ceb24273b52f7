"""Judge the trained models on mocks never trained on, and write weights and cards.

The same figures come from `spender evaluate`; they are kept in the cards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from demo_mocks import FILES, SNR, Z_RANGE, Mocks

from spender_core import weights
from spender_core.archives.fits.opening import open_fits
from spender_core.batch import SpectrumBatch
from spender_core.datasets.mock.observing import Observed
from spender_core.evaluation.baseline import learn_pca
from spender_core.evaluation.invariance import MockViews, invariance, with_room
from spender_core.evaluation.judging import evaluate
from spender_core.evaluation.pca import RestframePCA
from spender_core.evaluation.real import RealSpectrum, judge_real
from spender_core.evaluation.report import Report
from spender_core.interfaces import Instrument, Model
from spender_core.nn.weighted import WeightedAutoencoder
from spender_core.records import ModelCard, ServedInstrument

ROOT = Path(__file__).parents[1]
PACKAGES = {"sdss": "spender_sdss", "boss": "spender_sdss", "desi": "spender_desi"}
TEST_SEED = 7
TEST_NUMBER = 2000
REFINE = 6
STAR_Z = (-0.002, 0.002)
SAID = {
    "galaxies": (
        "Small model of galaxies for {name}, trained on mock galaxies alone. For trying the software "
        "and for teaching, not for science"
    ),
    "stars": (
        "Small model of stars for {name}, trained on mock stars alone. For trying the software and "
        "for teaching, not for science"
    ),
}


@dataclass(frozen=True)
class Stream:
    """Batches of mocks that a seed begins."""

    data: Mocks
    instrument: Instrument
    seed: int

    def __iter__(self) -> Iterator[Observed]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield self.data.observed(64, self.instrument, generator)


def publish(
    data: Mocks,
    instrument: Instrument,
    model: WeightedAutoencoder,
    training: dict[str, Any],
    reports: Path,
) -> None:
    """Judge a model, and write its weights and card into its plugin's package, a report beside."""
    name, stars = instrument.name, data.what == "stars"
    package = PACKAGES[name]
    card_name = f"{name}_star_demo" if stars else f"{name}_demo"
    report = _judged(data, instrument, model)
    report.write(reports / card_name)
    card = ModelCard(
        name=card_name,
        description=SAID[data.what].format(name=name.upper()),
        architecture="weighted_autoencoder",
        config=model.config,
        instruments=(ServedInstrument(name=name, grid=instrument.grid.sha256),),
        latents=model.config["n_latent"],
        lsf="constant",
        z_range=STAR_Z if stars else Z_RANGE[name],
        training=_told(data, name) | training,
        evaluation=report.summary(),
        licence="MIT",
        weights=f"package:{package}/models/{card_name}.safetensors",
    )
    home = ROOT / "plugins" / package.replace("_", "-") / package
    digest = weights.write(home / "models" / f"{card_name}.safetensors", model, card)
    text = card.model_copy(update={"sha256": digest}).to_json()
    (home / "cards").mkdir(exist_ok=True)
    (home / "cards" / f"{card_name}.json").write_text(text + "\n")
    print(card.name, card.evaluation, flush=True)


def _judged(data: Mocks, instrument: Instrument, model: WeightedAutoencoder) -> Report:
    sizes = (6, model.config["n_latent"] + 1)  # the latter has as many numbers as the model
    baseline = learn_pca(model, instrument, Stream(data, instrument, TEST_SEED + 1), sizes[-1])
    found, real = None, []
    if data.what == "galaxies":
        real = judge_galaxies(data, instrument, model, baseline, sizes)
        generator = torch.Generator().manual_seed(TEST_SEED + 2)
        sources = data.sources(512, generator)
        sources = sources.at(data.redshifts(512, instrument, generator))
        sources = with_room(sources, Z_RANGE[instrument.name], 0.2)
        conditions = data.conditions[instrument.name][-1]
        found = invariance(model, MockViews(sources, instrument, conditions, TEST_SEED))
    return evaluate(
        model, instrument, Stream(data, instrument, TEST_SEED), TEST_NUMBER, baseline,
        sizes=sizes, invariance=found, real=real, refine=REFINE,
        about={"data": f"mock {data.what} never trained on, S/N {SNR[0]} to {SNR[1]} a pixel"},
    )  # fmt: skip


def real_galaxies(data: Mocks, instrument: Instrument) -> Iterator[SpectrumBatch]:
    """Yield the real galaxies of the survey's files in the folder, those in the model's redshifts.

    They are what passes the survey's quality cuts and is of class GALAXY where files tell one.
    """
    low, high = Z_RANGE[instrument.name]
    for path in sorted(data.folder.rglob(FILES[instrument.name])) if data.folder else ():
        with open_fits(str(path)) as hdus:
            names = hdus[2].columns.names if path.name.startswith("spec-") else ()
            kind = str(hdus[2].data["CLASS"][0]).strip() if "CLASS" in names else "GALAXY"
        batch = instrument.read(str(path), quality=False) if kind == "GALAXY" else None
        if batch is not None:
            good = ((batch.flags & int(instrument.rejects)) == 0) & (batch.z >= low)
            if bool((good & (batch.z <= high)).any()):
                yield batch[good & (batch.z <= high)]


def judge_galaxies(
    data: Mocks, instrument: Instrument, model: Model, baseline: RestframePCA, sizes: Sequence[int]
) -> list[RealSpectrum]:
    """Return how a model fares on each of the real galaxies."""
    found = []
    for batch in real_galaxies(data, instrument):
        found += judge_real(model, instrument, batch, baseline, sizes, refine=REFINE)
    return found


def _told(data: Mocks, name: str) -> dict[str, Any]:
    sets = [one.populations.source for one in data.populations]
    sets += [one.source for one in data.libraries]
    conditions = data.conditions[name]
    drawn = f"{len(conditions[-1])} real spectra" if len(conditions) > 1 else "formulas"
    return {
        "data": f"mock {data.what} of spender_core.datasets.mock",
        "templates": sets,
        "conditions": f"noise, sky residuals, masks and LSF from formulas and from {drawn}",
        "loss": "reduced chi square against the noiseless truth, error of the restframe, of latents",
        "optimiser": "AdamW, 1.5e-3, half a cosine; mean of the weights over 500 steps",
        "script": "scripts/train_demo_models.py",
    }
