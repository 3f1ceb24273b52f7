"""The mock surveys that the embedded models are trained on and judged by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from spender_desi.instrument import DESI
from spender_sdss.instrument import BOSS, SDSS
from torch import Tensor

from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.galaxies import PreparedPopulations, galaxies, prepare
from spender_core.datasets.mock.observing import Observed, observe
from spender_core.datasets.mock.sources import FINE, Sources
from spender_core.datasets.mock.stars import StarLibrary, stars
from spender_core.datasets.mock.templates import read_populations
from spender_core.grid import Log
from spender_core.interfaces import Instrument

Z_RANGE = {"sdss": (0.0, 0.5), "boss": (0.0, 0.8), "desi": (0.0, 0.8)}
SNR = (1.5, 80.0)
"""Median signal-to-noise ratio a pixel, drawn log-uniformly."""
FILES = {
    "sdss": "sdss/spectro/**/spec-*.fits",
    "boss": "eboss/**/spec-*.fits",
    "desi": "coadd-*.fits",
}
PARAMETRIC = 0.25
"""Share of objects made from the built-in templates, which a user can draw without any file."""


@dataclass(frozen=True)
class Mocks:
    """Objects of one kind, and the conditions under which each instrument observes them."""

    what: str
    grid: Log
    instruments: dict[str, Instrument]
    conditions: dict[str, list[Conditions]]
    populations: list[PreparedPopulations]
    libraries: list[StarLibrary]
    folder: Path | None = None
    decoder_sample: int = 80_000

    def sources(self, n: int, generator: torch.Generator) -> Sources:
        """Draw objects at redshift 0, some of them from the built-in templates."""
        sets = len(self.populations) + len(self.libraries)
        few = round(PARAMETRIC * n) if sets > 1 else 0
        numbers = [few, n - few] if sets > 1 else [n]
        parts = [
            galaxies(number, one, generator)
            for number, one in zip(numbers, self.populations, strict=False)
        ] + [
            stars(number, one, generator)
            for number, one in zip(numbers, self.libraries, strict=False)
        ]
        return Sources.cat(parts)

    def redshifts(self, n: int, instrument: Instrument, generator: torch.Generator) -> Tensor:
        """Draw redshifts: of galaxies evenly and, a third of them, nearby; of stars, as measured."""
        if self.what == "stars":
            return 5e-4 * torch.randn(n, generator=generator, dtype=torch.float64)
        high = Z_RANGE[instrument.name][1]
        even, near, pick = torch.rand(3, n, generator=generator, dtype=torch.float64)
        return torch.where(pick < 0.33, 0.15 * near, high * even)

    def observed(
        self,
        n: int,
        instrument: Instrument,
        generator: torch.Generator,
        snr: tuple[float, float] = SNR,
    ) -> Observed:
        """Draw objects and observe them."""
        sources = self.sources(n, generator)
        sources = sources.at(self.redshifts(n, instrument, generator))
        choice = self.conditions[instrument.name]
        which = int(torch.randint(len(choice), (1,), generator=generator))
        return observe(sources, instrument, choice[which], generator, snr=snr)

    def kernel(self, instrument: Instrument, taps: int) -> Tensor:
        """Return the mean line spread function of an instrument, shape (taps,)."""
        lsf_CKL = self.conditions[instrument.name][-1].lsf
        mean = lsf_CKL.mean(dim=(0, 2))
        middle = len(mean) // 2
        kernel = mean[middle - taps // 2 : middle + taps // 2 + 1]
        return (kernel + kernel.flip(0)) / 2


def mocks(what: str, folder: Path | None) -> Mocks:
    """Return mocks of galaxies or stars; with a folder, from the real templates in it too."""
    instruments: dict[str, Instrument] = {one.name: one for one in (SDSS(), BOSS(), DESI())}
    generator = torch.Generator().manual_seed(1)
    conditions = {}
    for name, instrument in instruments.items():
        conditions[name] = [Conditions.parametric(instrument, 64, generator)]
        if folder is not None:
            files = sorted(map(str, folder.rglob(FILES[name])))
            conditions[name].append(Conditions.from_files(instrument, files))
    populations: list[PreparedPopulations] = []
    libraries: list[StarLibrary] = []
    if what == "galaxies":
        populations = [prepare(parametric.populations())]
        if folder is not None:
            populations.append(prepare(read_populations(folder)))
        grid = FINE
    else:
        libraries = [StarLibrary.parametric()]
        if folder is not None:
            libraries.append(StarLibrary.read(folder))
        grid = libraries[-1].grid
    return Mocks(what, grid, instruments, conditions, populations, libraries, folder)
