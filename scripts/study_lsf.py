"""Does training find the line spread function of an instrument?

    python scripts/study_lsf.py DATA OUT frozen
    python scripts/study_lsf.py DATA OUT free

The truth is a model: restframes are those of the decoder of sdss_demo, and what SDSS shows of them
is broadened by a kernel that is known and lopsided, with the noise of mock spectra. A kernel that
begins as the identity is fitted along with the encoder; the decoder is frozen at the truth, or
trained too, from nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from spender_sdss.instrument import SDSS
from torch import Tensor

from spender_core import registry
from spender_core.batch import SpectrumBatch
from spender_core.datasets.mock.stream import MockSurvey
from spender_core.datasets.shards import write_dataset
from spender_core.interfaces import Model
from spender_core.ops.lsf import convolve_constant
from spender_core.ops.resampler import Resampler
from spender_core.training import Recipe, train

KERNEL = (0.0, 0.0, 0.02, 0.10, 0.26, 0.33, 0.18, 0.08, 0.03, 0.0, 0.0)
"""The truth: taps from the bluest; they sum to 1."""
RECIPE = """
recipe = 1
name = "study_lsf_{name}"
description = "Mock spectra of SDSS broadened by a known kernel; a study, not for use"
seed = 5
[model]
architecture = "weighted_autoencoder"
latents = 8
rest = {{low = {low!r}, high = {high!r}, pixels = {pixels}, spacing = "log"}}
lsf_taps = {{sdss = 11}}
config = {config}
{parent}
[data.sdss]
batch_size = {batch}
{phases}
[engine]
validate_every = 200
validate_spectra = 512
checkpoint_every = 200
threads = 1
window = 4
"""
FROZEN = """
[[phases]]
name = "kernel"
steps = {steps}
train = ["lsf"]
lr = 3e-2
betas = [0.9, 0.99]
schedule = "cosine"
final = 1e-3
[[phases]]
name = "encoder"
steps = {steps}
train = ["encoders"]
lr = 2e-4
schedule = "cosine"
warmup = 0.1
clip = 1.0
[[phases]]
name = "kernel again"
steps = {steps}
train = ["lsf"]
lr = 1e-2
betas = [0.9, 0.99]
schedule = "cosine"
final = 1e-3
"""
"""The encoder is that of the parent, which was made for another kernel."""
FREE = """
[[phases]]
steps = {steps}
train = ["all"]
lr = 3e-3
schedule = "onecycle"
clip = 1.0
[[phases]]
name = "kernel"
steps = {steps}
train = ["lsf"]
lr = 1e-2
betas = [0.9, 0.99]
schedule = "cosine"
final = 1e-3
"""
SMALL = "{channels = [8, 16, 24, 32], strides = [4, 4, 3], encoder_hidden = [64], decoder_hidden = [64, 128]}"


def kernel() -> Tensor:
    """Return the kernel, normalised."""
    taps = torch.tensor(KERNEL)
    return taps / taps.sum()


@torch.no_grad()
def spectra(model: Model, n: int, seed: int) -> Iterator[SpectrumBatch]:
    """Yield what the instrument would show of restframes of the model."""
    instrument = model.instrument
    resampler = Resampler(model.rest.wave, instrument.wave)
    survey = MockSurvey(instrument, n=n, seed=seed, z_range=(0.0, 0.5), snr_range=(5.0, 60.0))
    for number, seen in enumerate(survey):
        batch = seen.batch
        x_BR = model.decode(model.encode(batch))
        y_BL, valid_BL = resampler(x_BR, batch.z)
        y_BL = convolve_constant(y_BL, kernel())
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        noise_BL = torch.randn(y_BL.shape, generator=generator)
        noise_BL *= batch.ivar.masked_fill(batch.ivar == 0, torch.inf).rsqrt()
        yield batch.replace(flux=y_BL + noise_BL, ivar=batch.ivar * valid_BL)


def main() -> None:
    """Make data if there is none, train, and compare the kernels."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("what", choices=("frozen", "free"))
    parser.add_argument("--n", type=int, default=12000)
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args()
    _, truth = registry.load("sdss_demo")
    if not (options.data / "data").exists():
        print(write_dataset(str(options.data), spectra(truth, options.n, 11), SDSS()))
    frozen = options.what == "frozen"
    config = {
        k: v for k, v in truth.config.items() if k not in ("n_latent", "lsf_taps", "conserve_flux")
    }
    inline = "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in config.items()) + "}"
    wave = truth.rest.wave
    text = RECIPE.format(
        name=options.what,
        low=float(wave[0]), high=float(wave[-1]), pixels=len(wave),
        config=inline if frozen else SMALL,
        parent='parent = "sdss_demo"' if frozen else "",
        batch=128 if frozen else 64,
        phases=(FROZEN if frozen else FREE).format(steps=options.steps),
    )  # fmt: skip
    recipe = Recipe.parse(text, options.what)
    result = train(recipe, options.out / options.what, data={"sdss": options.data})
    _, model = registry.load(result.path)
    found = model.lsf["sdss"].kernel.detach()
    found = found / found.sum()
    print("truth", [round(v, 4) for v in kernel().tolist()])
    print("found", [round(v, 4) for v in found.tolist()])
    error = float((found - kernel()).abs().max() / kernel().max())
    print(f"largest error {100 * error:.2f} percent of the highest tap")


if __name__ == "__main__":
    main()
