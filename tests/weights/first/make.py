"""What wrote the files beside it, with version 0.1.0: python tests/weights/first/make.py FOLDER.

They are kept as they were written, and `test_first.py` reads them. They are never written anew: a
version that cannot read them any more breaks the promise of docs/versions.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spender_core import SpectrumBatch, registry
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.nn.flow import MaskedAutoregressiveFlow
from spender_core.nn.weighted import WeightedAutoencoder
from spender_core.records import ModelCard, ServedInstrument


def spectra(instrument: Any) -> Any:
    """Return two spectra that formulas give."""
    pixel = np.arange(instrument.grid.size)
    flux = np.stack([1 + 0.2 * np.sin(pixel / 50), 2 - pixel / pixel.size])
    ivar = np.stack([np.full(pixel.size, 25.0), 4.0 + 3 * np.cos(pixel / 9)])
    ivar[:, 100:120] = 0
    return SpectrumBatch(
        torch.tensor(flux, dtype=torch.float32),
        torch.tensor(ivar, dtype=torch.float32),
        z=np.array([0.05, 0.2]),
        instrument=instrument.name,
    )


def answers(instrument: Any, model: Any) -> dict[str, Any]:
    """Return what a model says of them: latents, and every 500th pixel of its reconstruction."""
    batch = spectra(instrument)
    with torch.no_grad():
        s_BS = model.encode(batch)
        x_BR = model.decode(s_BS)
        y_BL, valid_BL = model.transform(x_BR, instrument, batch.z)
    return {
        "latents": s_BS.tolist(),
        "restframe": x_BR[:, ::10].tolist(),
        "observed": y_BL[:, ::500].tolist(),
        "valid": int(valid_BL.sum()),
    }


def main(folder: Path) -> None:
    """Write a file of each architecture, and what it answers."""
    sdss, boss = registry.instrument("sdss"), registry.instrument("boss")
    rest = np.geomspace(2500.0, 9500.0, 60)
    torch.manual_seed(1)
    small: dict[str, Any] = {"n_latent": 2, "encoder_hidden": [4], "decoder_hidden": [5]}
    models: dict[str, Any] = {
        "spectrum_autoencoder": SpectrumAutoencoder(
            [sdss], rest, filters=[2, 3, 4], sizes=[3, 5, 3], lsf_taps={"sdss": 5}, **small
        ),
        "weighted_autoencoder": WeightedAutoencoder(
            [sdss, boss], rest, channels=[2, 3], strides=[8], conserve_flux=True, **small
        ),
        "maf": MaskedAutoregressiveFlow(2, hidden=4, transforms=2),
    }
    served = ServedInstrument(name="sdss", grid=sdss.grid.sha256)
    for name, model in models.items():
        flow = name == "maf"
        card = ModelCard(
            name=f"first_{name}", kind="flow" if flow else "autoencoder", architecture=name,
            latents=2, instruments=(served,) if flow else (), z_range=(0.0, 0.5),
            lsf="constant" if name == "spectrum_autoencoder" else "none",
            description="Random weights, for a test", licence="MIT", citation=("nobody",),
        )  # fmt: skip
        path = folder / f"{name}.safetensors"
        registry.save(path, model, card)
        _, loaded = registry.load(path)
        if flow:
            s = torch.tensor([[0.0, 0.0], [0.5, -1.0]])
            told: Any = {"log_prob": loaded.log_prob(s).tolist()}
        else:
            told = {one: answers(registry.instrument(one), loaded) for one in loaded.instruments}
        (folder / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
