"""Train the embedded models on mock surveys, where the truth is known.

    python scripts/train_demo_models.py decoder  --what galaxies --templates FOLDER --state STATE
    python scripts/train_demo_models.py encoder desi --what galaxies ... (sdss and boss likewise)
    python scripts/train_demo_models.py publish --what galaxies ... (of one instrument, or of all)

and the same with `--what stars`. FOLDER holds the templates of redmonster and redrock, and spectra
of the surveys from which observing conditions are drawn; without it parametric ones serve.

1. decoder: restframes of mocks, without noise, are compressed to principal components, and these
   to a few latents by an autoencoder of its own. Its decoder, times the components, is the decoder
   of all models of one kind, and the latents of a mock are the same for every instrument.
2. encoder: for each instrument, an encoder learns from mocks as it would observe them. Its loss is
   the reduced chi square of the reconstruction against the truth, not against the noisy data,
   with terms for the restframe, beyond the observed range too, and for the latents.
3. publish: weights and cards are written into the plugin packages.

Everything is seeded; a stage writes its result whole into STATE, where the next one finds it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from demo_mocks import Mocks, mocks
from demo_publish import publish
from torch import Tensor, nn

from spender_core.interfaces import Instrument
from spender_core.nn.decoder import SpectrumDecoder
from spender_core.nn.layers import SpeculatorActivation
from spender_core.nn.weighted import WeightedAutoencoder
from spender_core.ops.normalize import amplitude

COMPONENTS = 64
LATENTS = {"galaxies": 8, "stars": 6}
DECODER_HIDDEN = (128, 192, COMPONENTS)
TAPS = 9
JITTER = 0.03
"""Noise added to latents while the decoder learns: nearby latents mean similar spectra."""


@dataclass(frozen=True)
class Restframes:
    """What the decoder was made with: noise model, components, and the encoder of restframes."""

    mean: Tensor
    weight: Tensor
    components: Tensor
    scale: Tensor
    encoder: nn.Module

    def project(self, x_BM: Tensor) -> Tensor:
        """Return coefficients of the components, shape (B, K)."""
        return ((x_BM - self.mean) * self.weight) @ self.components

    def latents(self, x_BM: Tensor) -> Tensor:
        """Return the latents that belong to restframes."""
        s_BS: Tensor = self.encoder(_compressed(self.project(x_BM), self.scale))
        return s_BS


def _compressed(c_BK: Tensor, scale_K: Tensor) -> Tensor:
    return torch.asinh(2 * c_BK / scale_K)


def _restframe_encoder(latents: int) -> nn.Module:
    sizes = (COMPONENTS, 256, 256, 128)
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], latents))


def _schedule(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: a short rise, then half a cosine down to a hundredth."""
    rise = min(1.0, step / (0.03 * steps + 1))
    return peak * rise * (0.505 + 0.495 * math.cos(math.pi * step / steps))


def _pixel_weight(mean_M: Tensor) -> Tensor:
    """Return 1 / sigma for a spectrum of S/N 20 a pixel, over the square root of the pixels."""
    return (0.05**2 * (0.3 + 0.7 * mean_M.clamp(min=0)) * len(mean_M)).rsqrt()


def train_decoder(data: Mocks, latents: int, steps: int, seed: int) -> dict[str, Any]:
    """Return the state of the decoder and of what made it."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sample = data.sources(4000, generator).restframe
    mean = sample.mean(dim=0)
    weight = _pixel_weight(mean)
    _, _, components = torch.svd_lowrank((sample - mean) * weight, COMPONENTS + 16, niter=3)
    components = components[:, :COMPONENTS].contiguous()
    coefficients = torch.cat(
        [
            ((data.sources(500, generator).restframe - mean) * weight) @ components
            for _ in range(data.decoder_sample // 500)
        ]
    )
    scale = coefficients.std(dim=0)
    encoder = _restframe_encoder(latents)
    hidden = SpectrumDecoder(latents, COMPONENTS, DECODER_HIDDEN[:2]).mlp
    hidden[-1] = nn.Identity()
    for layer in hidden:
        if isinstance(layer, SpeculatorActivation):  # begin as SiLU
            nn.init.ones_(layer.beta)
            nn.init.zeros_(layer.gamma)
    parameters = [*encoder.parameters(), *hidden.parameters()]
    optimizer = torch.optim.Adam(parameters, 3e-3)
    start = time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _schedule(step, steps, 3e-3)
        c_BK = coefficients[torch.randint(len(coefficients), (1024,), generator=generator)]
        s_BS = encoder(_compressed(c_BK, scale))
        jitter_BS = JITTER * torch.randn(s_BS.shape, generator=generator)
        error_B = ((hidden(s_BS + jitter_BS) * scale - c_BK) ** 2).sum(dim=1)
        loss = torch.log1p(error_B).mean() + 1e-3 * s_BS.square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 1000 == 0 or step == steps - 1:
            print(
                f"decoder {step:6d} {time.time() - start:5.0f} s  loss {loss.item():.4f}  "
                f"median {error_B.median().item():.4f}", flush=True,
            )  # fmt: skip
    decoder = _assemble(hidden, latents, mean, weight, components, scale)
    with torch.no_grad():
        s_BS = encoder(_compressed(coefficients[:20000], scale))
    return {
        "decoder": decoder.state_dict(),
        "encoder": encoder.state_dict(),
        "mean": mean, "weight": weight, "components": components, "scale": scale,
        "spread": s_BS.std(dim=0),
        "steps": steps,
    }  # fmt: skip


@torch.no_grad()
def _assemble(
    hidden: nn.Sequential, latents: int, mean: Tensor, weight: Tensor, components: Tensor,
    scale: Tensor,
) -> SpectrumDecoder:  # fmt: skip
    """Return a decoder to pixels: the hidden layers, the components, and identities around."""
    decoder = SpectrumDecoder(latents, len(mean), DECODER_HIDDEN)
    for mine, theirs in zip(list(decoder.mlp)[:5], list(hidden)[:5], strict=True):
        mine.load_state_dict(theirs.state_dict())
    last = decoder.mlp[6]
    assert isinstance(last, nn.Linear)
    for number in (5, 7):
        activation = decoder.mlp[number]
        assert isinstance(activation, SpeculatorActivation)
        activation.gamma.fill_(1.0)
        activation.beta.fill_(0.0)
    last.weight.copy_(components * scale / weight[:, None])
    last.bias.copy_(mean - 1)  # the last activation adds 1
    return decoder


def restframes(state: dict[str, Any], latents: int) -> Restframes:
    """Return what maps restframes to latents, from the state of the decoder."""
    encoder = _restframe_encoder(latents)
    encoder.load_state_dict(state["encoder"])
    encoder.requires_grad_(False)
    return Restframes(state["mean"], state["weight"], state["components"], state["scale"], encoder)


def make_model(
    data: Mocks, instrument: Instrument, state: dict[str, Any], latents: int
) -> WeightedAutoencoder:
    """Return a model of one instrument, its encoder untrained, with decoder and LSF."""
    model = WeightedAutoencoder(
        [instrument],
        data.grid,
        n_latent=latents,
        decoder_hidden=DECODER_HIDDEN,
        lsf_taps={instrument.name: TAPS},
    )
    kernel = model.lsf[instrument.name].get_parameter("kernel")
    model.decoder.load_state_dict(state["decoder"])
    with torch.no_grad():
        kernel.copy_(data.kernel(instrument, TAPS))
    model.decoder.requires_grad_(False)
    model.lsf.requires_grad_(False)
    return model


def train_encoder(
    data: Mocks,
    instrument: Instrument,
    made: dict[str, Any],
    latents: int,
    steps: int,
    batch_size: int,
    seed: int,
    path: Path,
) -> None:
    """Train the encoder of one instrument; the state is kept every 500 steps, to go on from."""
    torch.manual_seed(seed)
    model = make_model(data, instrument, made, latents)
    truth = restframes(made, latents)
    encoder = model.encoders[instrument.name]
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-3, weight_decay=1e-3)
    average = torch.optim.swa_utils.AveragedModel(
        encoder, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    first = 0
    if path.exists():
        kept = torch.load(path, weights_only=True)
        encoder.load_state_dict(kept["last"])
        average.load_state_dict(kept["average"])
        optimizer.load_state_dict(kept["optimizer"])
        first = kept["step"]
    start = time.time()
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = _schedule(step, steps, 1.5e-3)
        excess_B, rest_B, latent_B = _errors(
            data, model, instrument, truth, made, batch_size, generator
        )
        loss = (
            torch.log1p(excess_B).mean() + 0.1 * torch.log1p(rest_B).mean() + 0.02 * latent_B.mean()
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(encoder)
        if step % 100 == 0:
            print(
                f"{instrument.name} {step:6d} {time.time() - start:5.0f} s  loss {loss.item():.4f}  "
                f"excess {excess_B.median().item():.3f} {excess_B.quantile(0.84).item():.3f}  "
                f"rest {rest_B.median().item():.2f}  latents {latent_B.median().item():.3f}",
                flush=True,
            )
        if (step + 1) % 500 == 0 or step == steps - 1:
            keep = {
                "last": encoder.state_dict(), "average": average.state_dict(),
                "optimizer": optimizer.state_dict(), "step": step + 1,
            }  # fmt: skip
            torch.save(keep, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)


def _errors(
    data: Mocks,
    model: WeightedAutoencoder,
    instrument: Instrument,
    truth: Restframes,
    made: dict[str, Any],
    batch_size: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, shape (B,): excess chi square, error of the restframe, and of the latents."""
    seen = data.observed(batch_size, instrument, generator)
    batch = seen.batch
    s_BS = model.encode(batch)
    x_BR = model.decode(s_BS)
    y_BL, valid_BL = model.transform(x_BR, instrument, batch.z)
    weight_BL = batch.ivar * valid_BL
    factor_B1 = amplitude(y_BL, seen.truth, weight_BL)[:, None]
    used_B = (weight_BL > 0).sum(dim=1).clamp(min=1)
    excess_B = (weight_BL * (factor_B1 * y_BL - seen.truth).square()).sum(dim=1) / used_B
    rest_B = ((x_BR - seen.sources.restframe) * truth.weight * 0.5).square().sum(dim=1)
    target_BS = truth.latents(seen.sources.restframe)
    latent_B = ((s_BS - target_BS) / made["spread"]).square().mean(dim=1)
    return excess_B, rest_B, latent_B


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=("decoder", "encoder", "publish"))
    parser.add_argument("instrument", nargs="?", choices=("sdss", "boss", "desi"))
    parser.add_argument("--what", choices=tuple(LATENTS), default="galaxies")
    parser.add_argument("--templates", type=Path, help="folder of templates and spectra")
    parser.add_argument("--state", type=Path, required=True, help="folder of intermediate results")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=20260101)
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    latents = LATENTS[options.what]
    data = mocks(options.what, options.templates)
    path = options.state / f"{options.what}-decoder.pt"
    if options.stage == "decoder":
        torch.save(train_decoder(data, latents, options.steps or 20000, options.seed), path)
        return
    made = torch.load(path, weights_only=True)
    if options.stage == "encoder":
        instrument = data.instruments[options.instrument]
        kept = options.state / f"{options.what}-{instrument.name}.pt"
        steps = options.steps or 12000
        train_encoder(
            data, instrument, made, latents, steps, options.batch_size, options.seed, kept
        )
        note = {"steps": steps, "batch": options.batch_size, "seed": options.seed}
        kept.with_suffix(".json").write_text(json.dumps(note))
        return
    for name, instrument in data.instruments.items():
        kept = options.state / f"{options.what}-{name}.pt"
        if options.instrument not in (None, name) or not kept.exists():
            continue
        model = make_model(data, instrument, made, latents)
        average = torch.load(kept, weights_only=True)["average"]
        weights = {
            k.removeprefix("module."): v for k, v in average.items() if k.startswith("module.")
        }
        model.encoders[name].load_state_dict(weights)
        training = json.loads(kept.with_suffix(".json").read_text())
        publish(
            data,
            instrument,
            model.eval(),
            training | {"decoder steps": made["steps"]},
            options.state / "reports",
        )


if __name__ == "__main__":
    main()
