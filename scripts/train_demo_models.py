"""Train the embedded models `sdss_demo`, `boss_demo` and `desi_demo` on parametric mocks.

One decoder and three encoders are trained together: at every step each instrument
observes the same new mock galaxies, at redshifts of their own, and the losses are summed.
Every file then holds the shared decoder and one encoder.

    python scripts/train_demo_models.py --steps 900

rewrites the weights and cards inside the plugin packages. The figures in the cards are
measured on mocks drawn with another seed, never trained on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from spender_desi.instrument import DESI
from spender_sdss.instrument import BOSS, SDSS

from spender_core import losses, weights
from spender_core.batch import SpectrumBatch
from spender_core.datasets import mock
from spender_core.grid import Log
from spender_core.interfaces import Instrument, Model
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.records import ModelCard, ServedInstrument

ROOT = Path(__file__).parents[1]
INSTRUMENTS: tuple[Instrument, ...] = (SDSS(), BOSS(), DESI())
Z_RANGE = {"sdss": (0.0, 0.5), "boss": (0.0, 0.8), "desi": (0.0, 0.8)}
RAGGED = {"sdss": 0.02, "boss": 0.02, "desi": 0.0}
PACKAGES = {"sdss": "spender_sdss", "boss": "spender_sdss", "desi": "spender_desi"}
REST = Log(3.2935, 1e-4, 7245)  # 1966 to 10421 Angstrom
LATENTS = 6
CONFIG = {
    "n_latent": LATENTS,
    "filters": [32, 64, 128],
    "encoder_hidden": [128, 64, 32],
    "decoder_hidden": [64, 128],
    "activation": "leaky_relu",
}
SEED, TEST_SEED = 20260101, 7


def observe_all(n: int, generator: torch.Generator) -> dict[str, SpectrumBatch]:
    """Draw n galaxies and observe all of them with every instrument."""
    galaxies = mock.galaxies(n, (0.0, 1.0), generator)
    batches = {}
    for instrument in INSTRUMENTS:
        low, high = Z_RANGE[instrument.name]
        share = torch.rand(n, generator=generator, dtype=torch.float64)
        moved = mock.MockGalaxies(galaxies.restframe, low + (high - low) * share)
        batches[instrument.name] = mock.observe(
            moved, instrument, generator, ragged=RAGGED[instrument.name]
        )
    return batches


def train(steps: int, batch_size: int, learning_rate: float) -> SpectrumAutoencoder:
    """Return the model after a number of steps."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = SpectrumAutoencoder(INSTRUMENTS, REST, **CONFIG)  # type: ignore[arg-type]
    # begin with a flat, positive spectrum
    torch.nn.init.ones_(model.decoder.get_parameter("mlp.4.bias"))
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.2)
    start = time.time()
    for step in range(steps):
        batches = observe_all(batch_size, generator)
        fidelity = {
            name: model.loss(batch, normalize=True) / batch_size for name, batch in batches.items()
        }
        loss = torch.stack(list(fidelity.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == steps - 1:
            figures = "  ".join(f"{name} {value.item():.3f}" for name, value in fidelity.items())
            print(f"step {step:5d}  {time.time() - start:6.0f} s  {figures}", flush=True)
    return model.eval()


@torch.no_grad()
def judge(model: Model, batch: SpectrumBatch) -> dict[str, float]:
    """Return the median and 16-84 percent range of the reduced chi square."""
    made = model.reconstruct(batch, normalize=True)
    reduced = losses.reduced_chi2(
        batch.flux, batch.ivar * made.valid, made.observed, made.latents.shape[1] + 1
    )
    low, middle, high = torch.quantile(reduced, torch.tensor([0.16, 0.5, 0.84])).tolist()
    return {
        "n": len(batch),
        "chi2_16": round(low, 4),
        "chi2_50": round(middle, 4),
        "chi2_84": round(high, 4),
    }


def publish(model: SpectrumAutoencoder, training: dict[str, object]) -> None:
    """Write one file and one card for each instrument into its plugin's package."""
    test = observe_all(512, torch.Generator().manual_seed(TEST_SEED))
    for instrument in INSTRUMENTS:
        name = instrument.name
        package = PACKAGES[name]
        single = SpectrumAutoencoder([instrument], REST, **CONFIG).eval()  # type: ignore[arg-type]
        single.decoder.load_state_dict(model.decoder.state_dict())
        single.encoders[name].load_state_dict(model.encoders[name].state_dict())
        card = ModelCard(
            name=f"{name}_demo",
            description=(
                f"Small demonstration model of galaxies for {name.upper()}, trained on parametric mocks "
                "alone. It is crude on real galaxies: use it to try the software, not for science"
            ),
            architecture="spectrum_autoencoder",
            config=single.config,
            instruments=(ServedInstrument(name=name, grid=instrument.grid.sha256),),
            latents=LATENTS,
            z_range=Z_RANGE[name],
            training={"data": "spender_core.datasets.mock, parametric mock galaxies", **training},
            evaluation={
                "data": "512 parametric mock galaxies never trained on, S/N 2 to 40 a pixel",
                "reduced chi square": judge(single, test[name]),
            },
            licence="MIT",
            weights=f"package:{package}/models/{name}_demo.safetensors",
        )
        home = ROOT / "plugins" / package.replace("_", "-") / package
        digest = weights.write(home / "models" / f"{name}_demo.safetensors", single, card)
        text = card.model_copy(update={"sha256": digest}).to_json()
        (home / "cards").mkdir(exist_ok=True)
        (home / "cards" / f"{name}_demo.json").write_text(text + "\n")
        print(card.name, card.evaluation)


def main() -> None:
    """Train, judge and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument(
        "--state", type=Path, help="where to keep the trained state, or take it from"
    )
    options = parser.parse_args()
    if options.state and options.state.exists():
        model = SpectrumAutoencoder(INSTRUMENTS, REST, **CONFIG).eval()  # type: ignore[arg-type]
        model.load_state_dict(torch.load(options.state, weights_only=True))
    else:
        model = train(options.steps, options.batch_size, options.learning_rate)
        if options.state:
            torch.save(model.state_dict(), options.state)
    publish(
        model,
        {
            "steps": options.steps,
            "batch": f"{options.batch_size} galaxies, each seen by SDSS, BOSS and DESI",
            "optimiser": f"Adam, OneCycle to {options.learning_rate}",
            "loss": "fidelity, amplitude fitted",
            "seed": SEED,
            "script": "scripts/train_demo_models.py",
        },
    )


if __name__ == "__main__":
    main()
