"""Do several instruments share one restframe, free of their line spread functions?

    for i in sdss boss desi: python scripts/study_data.py DATA/joint-$i --instrument $i --n 10000
        --seed 202 --z-range 0 0.5 --snr 3 60 --lsf gaussian
    python scripts/study_joint.py DATA OUT train
    python scripts/study_joint.py DATA OUT judge

One decoder and an encoder for each instrument are trained from nothing on mock galaxies, no two
of which are the same object, and each with the line spread function of its own. Judged are new
galaxies, seen by all instruments: how far apart their latents are, and how wide the lines of
their restframes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from spender_desi.instrument import DESI
from spender_sdss.instrument import BOSS, SDSS

from spender_core import registry
from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.artefacts import Artefacts
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.galaxies import prepare
from spender_core.datasets.mock.observing import observe
from spender_core.evaluation.invariance import MockViews
from spender_core.evaluation.narrowing import narrowing_of, narrowing_table
from spender_core.evaluation.pairs import agreement
from spender_core.evaluation.universe import Universe
from spender_core.interfaces import Instrument
from spender_core.training import Recipe, train

RECIPE = """
recipe = 1
name = "study_joint"
description = "Mock galaxies of SDSS, BOSS and DESI in one restframe; a study, not for use"
seed = 3
[model]
architecture = "weighted_autoencoder"
latents = 6
rest = {{low = 2359.9, high = 10411.2, pixels = 6447, spacing = "log", superres = 2.0}}
uses_lsf = true
config = {{channels = [8, 16, 24, 32], strides = [4, 4, 3], encoder_hidden = [64], decoder_hidden = [64, 128]}}
{parent}
[data.sdss]
batch_size = 64
augmentation = {{redshifts = {{uniform = [0.0, 0.5]}}, mask = 0.05, fill = true}}
[data.boss]
batch_size = 64
augmentation = {{redshifts = {{uniform = [0.0, 0.5]}}, mask = 0.05, fill = true}}
[data.desi]
batch_size = 64
augmentation = {{redshifts = {{uniform = [0.0, 0.5]}}, mask = 0.05, fill = true}}
[loss]
similarity = 3.0
consistency = 60.0
[[phases]]
name = "together"
steps = {together}
train = ["encoders", "decoder"]
lr = {rate}
clip = 1.0
[[phases]]
name = "encoders"
steps = {alone}
train = ["encoders"]
lr = 5e-4
schedule = "cosine"
warmup = 0.1
clip = 1.0
[engine]
validate_every = 250
validate_spectra = 512
checkpoint_every = 100
threads = 1
window = 3
"""
OBJECTS = 400
Z_RANGE = (0.0, 0.45)
RATIO = 40.0
"""S/N a pixel of spectra whose lines are measured."""


def instruments() -> dict[str, Instrument]:
    """Return those that the model serves."""
    return {one.name: one for one in (SDSS(), BOSS(), DESI())}


def judge(path: Path) -> str:
    """Return tables of how well the latents agree, and how narrow lines are."""
    _, model = registry.load(path)
    served = instruments()
    draw = torch.Generator().manual_seed(5)
    conditions = {name: Conditions.parametric(one, 64, draw) for name, one in served.items()}
    populations = prepare(parametric.populations())
    universe = Universe(served["sdss"], populations, conditions["sdss"], Z_RANGE, 9)
    sources = universe.sources(OBJECTS)
    views = {name: MockViews(sources, one, conditions[name]) for name, one in served.items()}
    tables = [agreement(model, views).table()]
    measured = []
    for name, one in served.items():
        mock = observe(
            sources, one, conditions[name], torch.Generator().manual_seed(3),
            snr=torch.full((OBJECTS,), RATIO), artefacts=Artefacts.none(), lsf=True,
        )  # fmt: skip
        measured += [*narrowing_of(model, one, mock)]
    tables.append(narrowing_table(measured))
    return "\n\n".join(table.markdown() for table in tables)


def main() -> None:
    """Train the model, or judge it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("what", choices=("train", "judge"))
    parser.add_argument("--steps", type=int, nargs=2, default=(1700, 300))
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--parent", type=Path, help="a model of this study, to go on from")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    if options.what == "judge":
        print(judge(options.out / "study_joint.safetensors"))
        return
    together, alone = options.steps
    parent = f"parent = {json.dumps(str(options.parent))}" if options.parent else ""
    text = RECIPE.format(together=together, alone=alone, parent=parent, rate=options.rate)
    recipe = Recipe.parse(text, "study_joint")
    data = {name: options.data / f"joint-{name}" for name in instruments()}
    train(recipe, options.out, data=data, resume=options.resume)


if __name__ == "__main__":
    main()
