"""Train the embedded models on, by the training engine and all three losses, from data alone.

    python scripts/study_data.py DATA/sdss --instrument sdss --n 12000 --seed 303 --templates FOLDER
    python scripts/retrain_demo_models.py train sdss_demo DATA/sdss OUT
    python scripts/retrain_demo_models.py publish sdss_demo DATA/sdss OUT --templates FOLDER

The models that `train_demo_models.py` makes know the truth of their mocks. From their weights on,
encoder and decoder see noisy spectra only, as they would of a survey: fidelity, similarity and
consistency. `publish` judges the result as before, and writes weights and card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from demo_mocks import mocks
from demo_publish import publish

from spender_core import registry
from spender_core.training import Recipe, train

RECIPE = """
recipe = 1
name = "{name}"
seed = 17
[model]
architecture = "weighted_autoencoder"
latents = {latents}
rest = {{low = {low!r}, high = {high!r}, pixels = {pixels}, spacing = "log"}}
lsf_taps = {taps}
config = {config}
parent = "{name}"
[data.{instrument}]
batch_size = 64
augmentation = {{redshifts = {{uniform = [{z_low}, {z_high}]}}, noise = 0.05, mask = 0.05, fill = true}}
[loss]
similarity = 1.0
consistency = 10.0
consistency_scale = "typical"
[[phases]]
steps = {steps}
train = ["encoders", "decoder"]
lr = {{encoders = 3e-4, decoder = 3e-5}}
schedule = "cosine"
warmup = 0.1
final = 1e-2
clip = 10.0
ema = 0.99
[engine]
validate_every = 100
validate_spectra = 1024
checkpoint_every = 100
threads = 1
window = 4
"""
OWN = ("n_latent", "lsf_taps", "conserve_flux")
"""Arguments of the network that have keys of their own in a recipe."""


def table(content: object) -> str:
    """Return plain data as inline TOML."""
    if isinstance(content, dict):
        return "{" + ", ".join(f"{key} = {table(value)}" for key, value in content.items()) + "}"
    return json.dumps(content)


def recipe(name: str, steps: int) -> Recipe:
    """Return the recipe that trains an embedded model on."""
    instrument, model = registry.load(name)
    wave, card = model.rest.wave, model.card
    text = RECIPE.format(
        name=name, instrument=instrument.name, latents=card.latents,
        low=float(wave[0]), high=float(wave[-1]), pixels=len(wave),
        taps=table(model.config["lsf_taps"]),
        config=table({key: value for key, value in model.config.items() if key not in OWN}),
        z_low=float(card.z_range[0]), z_high=float(card.z_range[1]), steps=steps,
    )  # fmt: skip
    return Recipe.parse(text, name)


def main() -> None:
    """Train, or judge and publish."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=("train", "publish"))
    parser.add_argument("name", help="of the embedded model")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--templates", type=Path)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    instrument, before = registry.load(options.name)
    folder = options.out / options.name
    if options.stage == "train":
        data = {instrument.name: options.data}
        train(recipe(options.name, options.steps), folder, data=data, resume=options.resume)
        return
    _, model = registry.load(folder / f"{options.name}.safetensors")
    what = "stars" if options.name.endswith("star_demo") else "galaxies"
    told = {key: before.card.training[key] for key in ("steps", "batch", "seed", "decoder steps")}
    told["then"] = (
        f"{options.steps} steps of 64 by spender_core.training: fidelity on the noisy spectra, "
        "similarity and consistency (scripts/retrain_demo_models.py)"
    )
    data = mocks(what, options.templates)
    publish(data, data.instruments[instrument.name], model, told, options.out / "reports")


if __name__ == "__main__":
    main()
