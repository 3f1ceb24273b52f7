"""The mock surveys that the embedded models, and those of studies, are trained on and judged by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from spender_desi.instrument import DESI
from spender_sdss.instrument import BOSS, SDSS
from torch import Tensor
from torch.nn.functional import pad

from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.conditions import Conditions, KnownLSF
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
            if number
        ] + [
            stars(number, one, generator)
            for number, one in zip(numbers, self.libraries, strict=False)
            if number
        ]
        return Sources.cat(parts)

    def redshifts(
        self,
        n: int,
        instrument: Instrument,
        generator: torch.Generator,
        z_range: tuple[float, float] | None = None,
    ) -> Tensor:
        """Draw redshifts: of galaxies evenly and, a third of them, nearby; of stars, as measured.

        With a range, those of galaxies are even in it.
        """
        if self.what == "stars":
            return 5e-4 * torch.randn(n, generator=generator, dtype=torch.float64)
        if z_range is not None:
            low, high = z_range
            return low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)
        high = Z_RANGE[instrument.name][1]
        even, near, pick = torch.rand(3, n, generator=generator, dtype=torch.float64)
        return torch.where(pick < 0.33, 0.15 * near, high * even)

    def observed(
        self,
        n: int,
        instrument: Instrument,
        generator: torch.Generator,
        snr: tuple[float, float] = SNR,
        z_range: tuple[float, float] | None = None,
        lsf: KnownLSF = False,
    ) -> Observed:
        """Draw objects and observe them."""
        sources = self.sources(n, generator)
        sources = sources.at(self.redshifts(n, instrument, generator, z_range))
        choice = self.conditions[instrument.name]
        which = int(torch.randint(len(choice), (1,), generator=generator))
        return observe(sources, instrument, choice[which], generator, snr=snr, lsf=lsf)

    def kernel(self, instrument: Instrument, taps: int) -> Tensor:
        """Return the mean line spread function of an instrument, shape (taps,)."""
        lsf_CKL = self.conditions[instrument.name][-1].lsf
        mean = lsf_CKL.mean(dim=(0, 2))
        middle = len(mean) // 2
        kernel = mean[middle - taps // 2 : middle + taps // 2 + 1]
        return (kernel + kernel.flip(0)) / 2


def mocks(
    what: str,
    folder: Path | None,
    names: Collection[str] = tuple(Z_RANGE),
    real_conditions: bool = True,
) -> Mocks:
    """Return mocks of galaxies or stars; with a folder, from the real templates in it too.

    Args:
        what: "galaxies" or "stars".
        folder: Where files of templates and of surveys are.
        names: Of the instruments that observe.
        real_conditions: Observe half of the batches as the spectra in the folder were.
    """
    every: list[Instrument] = [SDSS(), BOSS(), DESI()]
    instruments = {one.name: one for one in every if one.name in names}
    generator = torch.Generator().manual_seed(1)
    conditions = {}
    for one in every:  # what an instrument draws does not hang on which others are asked for
        made = [Conditions.parametric(one, 64, generator)]
        if one.name not in instruments:
            continue
        if folder is not None and real_conditions:
            files = sorted(map(str, folder.rglob(FILES[one.name])))
            made.append(Conditions.from_files(one, files))
        conditions[one.name] = _alike(made)
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


def _alike(conditions: list[Conditions]) -> list[Conditions]:
    """Return conditions with as many taps each, so that their LSFs are stored alike."""
    most = max(one.lsf.shape[1] for one in conditions)
    sides = [(most - one.lsf.shape[1]) // 2 for one in conditions]
    return [
        replace(one, lsf=pad(one.lsf, (0, 0, side, side)))
        for one, side in zip(conditions, sides, strict=True)
    ]
