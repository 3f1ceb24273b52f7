"""Do similarity and consistency make latents of one galaxy independent of its redshift?

    python scripts/study_invariance.py DATA OUT data
    python scripts/study_invariance.py DATA OUT fidelity
    python scripts/study_invariance.py DATA OUT all
    python scripts/study_invariance.py DATA OUT all --name gentle --similarity 0.5
        --consistency "[[0.0, 5.0], [0.5, 12.0], [1.0, 40.0]]"
    python scripts/study_invariance.py DATA OUT show

The galaxies have the redshifts of the survey: what is bright and red is far away, so that a network
can learn one from the other. The models have the same seed, networks, data and number of steps; one
is trained by the fidelity alone, the others by all three losses. At each validation the distance between the latents of one
noiseless galaxy at two redshifts is measured as in `spender evaluate`. `show` draws them and prints
a table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from spender_sdss.instrument import SDSS

from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.galaxies import prepare
from spender_core.datasets.mock.stream import MockSurvey
from spender_core.datasets.shards import write_dataset
from spender_core.evaluation.invariance import MockViews, invariance, with_room
from spender_core.evaluation.universe import Universe
from spender_core.training import Recipe, Trainer, train

RECIPE = """
recipe = 1
name = "invariance_{name}"
description = "Mock galaxies of SDSS; a study of redshift invariance, not for use"
seed = 1
[model]
architecture = "weighted_autoencoder"
latents = 6
rest = {{low = 2511.886, high = 9352.0, pixels = 5710, spacing = "log"}}
config = {{channels = [8, 16, 24, 32], strides = [4, 4, 3], encoder_hidden = [64], decoder_hidden = [64, 128]}}
[data.sdss]
batch_size = 64
augmentation = {{redshifts = {{uniform = [0.0, 0.5]}}, noise = 0.05, mask = 0.05, fill = {fill}, others = {fill}}}
[loss]
similarity = {similarity}
consistency = {consistency}
consistency_scale = "{scale}"
[[phases]]
steps = {steps}
lr = 3e-3
clip = 1.0
[engine]
validate_every = {every}
validate_spectra = 2048
checkpoint_every = 500
threads = 1
window = 4
"""
OBJECTS = 256
SHIFTS = (0.03, 0.1, 0.2)
Z_RANGE = (0.0, 0.5)
SNR_RANGE = (2.0, 60.0)


class Watch:
    """Measures the invariance at each validation."""

    def __init__(self, name: str, instrument: Any) -> None:
        conditions = Conditions.parametric(instrument, 64, torch.Generator().manual_seed(77))
        universe = Universe(instrument, prepare(parametric.populations()), conditions, Z_RANGE, 9)
        sources = with_room(universe.sources(OBJECTS), Z_RANGE, max(SHIFTS))
        self.views = MockViews(sources, instrument, conditions)
        self.name = name
        self.found: list[dict[str, Any]] = []

    def on_validate(self, trainer: Trainer, figures: Mapping[str, Any]) -> None:
        """Keep the figures of this step."""
        model = trainer.model
        training = model.training
        found = invariance(model.eval(), self.views, SHIFTS)
        model.train(training)
        measured = {
            view: {"median": plain.median, "low": plain.low, "high": plain.high,
                   "whitened": white.median}
            for view, plain, white in zip(found.views, found.plain, found.whitened, strict=True)
        }  # fmt: skip
        row = {"step": trainer.state.step, "views": measured}
        row |= {loss: figures[loss] for loss in ("fidelity", "similarity", "consistency")}
        self.found.append(row)
        print(self.name, json.dumps(row), flush=True)


def main() -> None:
    """Make the data, train a model, or show all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("what", choices=("data", "fidelity", "all", "show"))
    parser.add_argument("--n", type=int, default=24000, help="galaxies in the data")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--similarity", type=float, default=1.0)
    parser.add_argument("--consistency", default="[[0.0, 10.0], [0.6, 30.0], [1.0, 100.0]]")
    parser.add_argument("--scale", default="typical", help="of the consistency")
    parser.add_argument("--gaps", action="store_true", help="leave gaps of moved spectra empty")
    parser.add_argument("--name")
    options = parser.parse_args()
    if options.what == "show":
        show(options.out)
        return
    if options.what == "data":
        survey = MockSurvey(SDSS(), n=options.n, seed=101, z_range=Z_RANGE, snr_range=SNR_RANGE)
        print(write_dataset(str(options.data), (one.batch for one in survey), SDSS()))
        return
    together = options.what == "all"
    name = options.name or options.what
    text = RECIPE.format(
        name=name,
        similarity=options.similarity if together else 0.0,
        consistency=options.consistency if together else "0.0",
        scale=options.scale,
        fill=str(not options.gaps).lower(),
        steps=options.steps,
        every=options.steps // 8,
    )
    folder = options.out / name
    watch = Watch(name, SDSS())
    train(
        Recipe.parse(text, name),
        folder,
        data={"sdss": options.data},
        callbacks=(watch,),
        quiet=True,
    )
    (folder / "invariance.json").write_text(json.dumps(watch.found, indent=1))


def show(out: Path) -> None:
    """Print a table of the last figures, and draw all of them."""
    from matplotlib import pyplot as plt

    runs = {
        path.parent.name: json.loads(path.read_text()) for path in out.glob("*/invariance.json")
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, rows in sorted(runs.items()):
        steps = [row["step"] for row in rows]
        left.plot(steps, [row["views"]["dz = 0.2"]["median"] for row in rows], "o-", label=name)
        right.plot(steps, [row["fidelity"] for row in rows], "o-", label=name)
        last = rows[-1]
        print(name, last["step"], f"fidelity {last['fidelity']:.4f}", end="  ")
        for view, one in last["views"].items():
            print(f"{view}: {one['median']:.4f} (whitened {one['whitened']:.3f})", end="  ")
        print()
    left.set(xlabel="step", ylabel="distance of latents at dz = 0.2", ylim=(0, None))
    right.set(xlabel="step", ylabel="fidelity of validation spectra", yscale="log")
    left.legend()
    figure.savefig(out / "invariance.png", dpi=120)


if __name__ == "__main__":
    main()
