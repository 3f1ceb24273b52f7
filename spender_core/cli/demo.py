"""`spender demo`: mock galaxies through the embedded models."""

from __future__ import annotations

from pathlib import Path

import torch

from spender_core import registry
from spender_core.cli.draw import FORMATS, save
from spender_core.cli.show import print_table
from spender_core.cli.spectra import encode
from spender_core.datasets import mock
from spender_core.errors import InputError, NoSpectraError
from spender_core.plot import Panel, panel


def run(output: Path, number: int, seed: int) -> None:
    """Draw mock galaxies, encode and reconstruct them, and print and draw the result."""
    if output.suffix not in FORMATS:
        raise InputError(f"cannot draw {output}: its name must end in {', '.join(FORMATS)}")
    generator = torch.Generator().manual_seed(seed)
    rows: list[tuple[str, ...]] = []
    panels: list[Panel] = []
    for name in registry.instruments():
        card = registry.embedded(name)
        if card is None:
            continue
        instrument, model = registry.load(card.name)
        low, high = card.z_range or (0.0, 0.5)
        galaxies = mock.galaxies(number, (low + 0.02, 0.9 * high), generator)
        batch = mock.observe(galaxies, instrument, generator, snr=(4.0, 25.0))
        result = encode(model, batch, keep=True)
        for row in range(number):
            rows.append(
                (
                    f"mock-{name}-{row + 1}",
                    f"{float(batch.z[row]):.4f}",
                    f"{float(batch.snr[row]):.1f}",
                    f"{float(result.chi2[row]):.2f}",
                    " ".join(f"{value:+.3f}" for value in result.latents[row].tolist()),
                )
            )
        title = (
            f"{rows[-number][0]}   {card.name}   S/N {rows[-number][2]}   χ²/ν = {rows[-number][3]}"
        )
        panels.append(panel(batch, 0, instrument, *result.made[0], title))
    if not rows:
        raise NoSpectraError(
            "no installed plugin embeds a model; pip install spender-sdss spender-desi"
        )
    print_table(("object", "z", "S/N", "reduced chi2", "latents"), rows)
    save(panels, output)
    print(f"{output}: one spectrum of each instrument, with its reconstruction")
