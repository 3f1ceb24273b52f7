"""Claim: mock galaxies and their noise look like real ones, as far as the numbers say.

    python benchmarks/compare_mocks.py FOLDER [-o OUT] [--many 72]

takes all real galaxies below the folder that pass the quality cuts and have a redshift (of SDSS and
BOSS: CLASS = GALAXY; of DESI: SPECTYPE = GALAXY in a redrock file beside the coadd), and for each of
them mocks of its redshift and S/N, from the stellar populations and the observing conditions of
the same folder. It prints distributions of what `spender_core.evaluation.indices` measures, of the
noise and of what is wrong with pixels, and writes them to OUT with pictures.

SDSS galaxies whose only warning is MANY_OUTLIERS (bit 0x10 of ZWARNING) are kept: it is set for
strong lines at high S/N. The instruments' masks of sky lines are left off, for real and for mocks.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from compare_mocks_pictures import draw_distributions, draw_nearest, draw_noise
from compare_mocks_pixels import BINS, expected_sigma, pixels, sigma_bins
from numpy.typing import NDArray

from spender_core import SpectrumBatch, registry
from spender_core.batch import Flag
from spender_core.datasets.mock import surveys
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.galaxies import PreparedPopulations, galaxies, prepare
from spender_core.datasets.mock.observing import observe
from spender_core.datasets.mock.sources import FINE, KINDS, Sources
from spender_core.datasets.mock.templates import read_populations
from spender_core.evaluation.indices import indices
from spender_core.evaluation.tables import Cell, Table, plain, spread
from spender_core.interfaces import Instrument

FloatArray = NDArray[np.float64]

SEED = 20260401
MANY_OUTLIERS = 0x10
FAINT = 5.0


@dataclass(frozen=True)
class Survey:
    """What is real of one instrument: galaxies, what they are, and spectra with little light."""

    instrument: Instrument
    conditions: Conditions
    galaxies: SpectrumBatch | None
    sorts: list[str]
    sky: SpectrumBatch


@dataclass(frozen=True)
class Compared:
    """One real galaxy and its mocks: measures by name, (1,) and (N,), and the spectra."""

    instrument: Instrument
    real: SpectrumBatch
    mocks: SpectrumBatch
    sort: str
    values: dict[str, tuple[FloatArray, FloatArray]]
    errors: dict[str, FloatArray]

    @property
    def same_break(self) -> NDArray[np.int64]:
        """The quarter of the mocks whose D4000 is nearest, in rows."""
        real, mocks = self.values["D4000"]
        return np.argsort(np.abs(mocks - real[0]))[: len(mocks) // 4]


def read_surveys(folder: Path) -> list[Survey]:
    """Return what lies below a folder, by instrument."""
    files = sorted([*folder.rglob("spec-*.fits"), *folder.rglob("coadd-*.fits")])
    by_name: dict[str, list[str]] = {}
    for path in files:
        by_name.setdefault(registry.recognise(str(path)).name, []).append(str(path))
    return [read_survey(unmasked(name), paths) for name, paths in by_name.items()]


def unmasked(name: str) -> Instrument:
    """Return an instrument that masks nothing of its own accord."""
    instrument = copy.copy(registry.instrument(name))
    instrument.mask = None
    return instrument


def read_survey(instrument: Instrument, paths: list[str]) -> Survey:
    chosen, sorts, sky, faint = [], [], [], []
    for path in paths:
        batch = instrument.read(path, quality=False)
        known, names = told(path, batch)
        flags = batch.flags.numpy()
        bad = flags & int(Flag.EMPTY | Flag.FIBRE) != 0
        rows = np.flatnonzero(known & ~bad)
        if len(rows):
            chosen.append(batch[rows])
            sorts += [names[row] for row in rows]
        empty = flags & int(Flag.NOT_TARGET) != 0
        full = (batch.ivar > 0).float().mean(dim=1).numpy() > 0.5
        sky.append(batch[empty & full & ~bad])
        faint.append(batch[~empty & full & ~bad & (batch.snr.numpy() < FAINT)])
    skies = [one for one in sky if len(one)] or [one for one in faint if len(one)]
    return Survey(
        instrument,
        Conditions.from_files(instrument, paths),
        SpectrumBatch.cat(chosen) if chosen else None,
        sorts,
        SpectrumBatch.cat(skies),
    )


def told(path: str, batch: SpectrumBatch) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which spectra are galaxies of known redshift, and the survey's names of their sort."""
    z = batch.z.numpy()
    if Path(path).name.startswith("spec-"):
        row = fits.getdata(path, 2)
        kind, sort = (str(row[name][0]).strip() for name in ("CLASS", "SUBCLASS"))
        good = kind == "GALAXY" and int(row["ZWARNING"][0]) & ~MANY_OUTLIERS == 0
        good = good and not int(batch.flags[0]) & int(Flag.NOT_TARGET)
        return np.array([good]) & np.isfinite(z), [sort.lower() or "no subclass"]
    partner = Path(path).with_name(Path(path).name.replace("coadd-", "redrock-"))
    if not partner.exists():
        return np.zeros(len(batch), dtype=bool), [""] * len(batch)
    table = fits.getdata(partner, "REDSHIFTS")
    is_galaxy = np.char.strip(table["SPECTYPE"].astype(str)) == "GALAXY"
    targets = table["TARGETID"][is_galaxy & (table["ZWARN"] == 0)]
    known = np.isin(batch.ids["TARGETID"], targets) & np.isfinite(z)
    return known, ["no subclass"] * len(batch)


def compare(
    survey: Survey, prepared: PreparedPopulations, many: int, generator: torch.Generator
) -> list[Compared]:
    """Observe mocks of the redshift and S/N of each galaxy, and measure both."""
    found: list[Compared] = []
    if survey.galaxies is None:
        return found
    for row in range(len(survey.galaxies)):
        real = survey.galaxies[row]
        sources = galaxies(many, prepared, generator).at(real.z.expand(many))
        snr = real.snr.clamp(min=0.3).expand(many).contiguous()
        mocks = observe(sources, survey.instrument, survey.conditions, generator, snr=snr).batch
        grid = survey.instrument.grid
        mine, theirs = indices(real, grid), indices(mocks, grid)
        values = {name: (mine[name].value.numpy(), theirs[name].value.numpy()) for name in mine}
        errors = {name: mine[name].error.numpy() for name in mine}
        left, right = (pixels(one, survey.instrument) for one in (real, mocks))
        values |= {name: (left[name], right[name]) for name in left}
        found.append(Compared(survey.instrument, real, mocks, survey.sorts[row], values, errors))
    return found


def empty_mocks(survey: Survey, generator: torch.Generator) -> SpectrumBatch:
    """Observe nothing, as often as the survey did, three times over."""
    n = 3 * len(survey.sky)
    sources = Sources(
        torch.zeros(n, FINE.size),
        torch.zeros(n, dtype=torch.float64),
        torch.full((n,), KINDS.index("galaxy"), dtype=torch.int8),
    )
    return observe(sources, survey.instrument, survey.conditions, generator).batch


def rank(real: float, mocks: FloatArray) -> float:
    """Return which share of the mocks is below a real value; NaN if it, or most of them, is NaN."""
    there = mocks[np.isfinite(mocks)]
    return float(np.mean(there < real)) if np.isfinite(real) and len(there) > 5 else float("nan")


def kolmogorov(ranks: FloatArray, draws: int = 20_000) -> tuple[float, float]:
    """Return the largest distance of ranks from even ones, and how often even ones exceed it."""

    def distance(rows: FloatArray) -> FloatArray:
        rows = np.sort(rows, axis=1)
        step = np.arange(rows.shape[1] + 1) / rows.shape[1]
        above, below = step[1:] - rows, rows - step[:-1]
        most: FloatArray = np.maximum(above.max(axis=1), below.max(axis=1))
        return most

    found = float(distance(ranks[None])[0])
    even = np.random.default_rng(SEED).random((draws, len(ranks)))
    return found, float(np.mean(distance(even) >= found))


def galaxy_table(compared: list[Compared], same_break: bool) -> Table:
    """Return the measures of all galaxies, real and mock; or of mocks of the same D4000."""
    rows: list[tuple[Cell, ...]] = []
    for name in compared[0].values:
        pairs = [one.values[name] for one in compared]
        if same_break:
            pairs = [(v[0], v[1][c.same_break]) for v, c in zip(pairs, compared, strict=True)]
        ranks = np.array([rank(float(real[0]), mocks) for real, mocks in pairs])
        kept = np.isfinite(ranks)
        if not kept.any():
            continue
        there = [pair for pair, one in zip(pairs, kept, strict=True) if one]
        distance, chance = kolmogorov(ranks[kept])
        rows.append(
            (
                name,
                int(kept.sum()),
                spread(np.concatenate([real for real, _ in there])),
                spread(np.concatenate([mocks for _, mocks in there])),
                float(np.median([r[0] - np.nanmedian(m) for r, m in there])),
                float(np.median(ranks[kept])),
                int(((ranks[kept] == 0) | (ranks[kept] == 1)).sum()),
                distance,
                chance,
            )
        )
    heads = (
        "n",
        "real: 50 (16–84)",
        "mocks",
        "median difference",
        "median rank",
        "outside",
        "KS D",
        "p",
    )
    number = len(compared[0].mocks)
    which = (
        f"{number // 4} mocks of its z, S/N and D4000"
        if same_break
        else f"{number} of its z and S/N"
    )
    title = f"{len(compared)} real galaxies; for each {which}"
    return Table(title, ("measure", *heads), tuple(rows))


def noise_table(compared: list[Compared], taken: list[Survey], skies: list[SpectrumBatch]) -> Table:
    """Return what is wrong with pixels, of galaxies and of spectra with little light."""
    rows: list[tuple[Cell, ...]] = []
    for survey, mocks in zip(taken, skies, strict=True):
        own = [one for one in compared if one.instrument is survey.instrument]
        real, mock = pixels(survey.sky, survey.instrument), pixels(mocks, survey.instrument)
        what = f"{survey.instrument.name}, no light or little"
        sigma = [
            np.nanmedian(sigma_bins(one, survey.instrument)[1], axis=1)
            for one in (survey.sky, mocks)
        ]
        rows.append((what, len(survey.sky), "sigma, 1e-17", spread(sigma[0]), spread(sigma[1])))
        rows += [(what, len(survey.sky), k, spread(real[k]), spread(mock[k])) for k in real]
        if own:
            rows += [
                (
                    f"{survey.instrument.name}, galaxies", len(own), name,
                    spread(np.concatenate([one.values[name][0] for one in own])),
                    spread(np.concatenate([one.values[name][1] for one in own])),
                )
                for name in real
            ]  # fmt: skip
    title = "Pixels: 50 (16–84) over spectra"
    return Table(title, ("spectra", "n", "measure", "real", "mocks"), tuple(rows))


def survey_table(
    survey: Survey, prepared: PreparedPopulations, many: int, generator: torch.Generator
) -> Table:
    """Return the measures of mocks with the redshifts and S/N of the instrument's survey."""
    name, grid = survey.instrument.name, survey.instrument.grid
    z, snr = surveys.survey(name).draw(many, generator)
    sources = galaxies(many, prepared, generator).at(z)
    batch = observe(sources, survey.instrument, survey.conditions, generator, snr=snr).batch
    measured = {"z": z.numpy(), "S/N": batch.snr.numpy()}
    measured |= {key: found.value.numpy() for key, found in indices(batch, grid).items()}
    rows = [(key, int(np.isfinite(v).sum()), spread(v)) for key, v in measured.items()]
    return Table(
        f"{name}: {many} mocks drawn like its survey", ("measure", "n", "mocks"), tuple(rows)
    )


def galaxy_noise(survey: Survey) -> tuple[FloatArray, FloatArray]:
    """Return sigma of the real galaxies over what the conditions make of their light, by bin."""
    if survey.galaxies is None:
        return np.zeros(BINS), np.zeros((0, BINS))
    expected = expected_sigma(survey.galaxies, survey.instrument, survey.conditions)
    wave, real = sigma_bins(survey.galaxies, survey.instrument)
    return wave, real / sigma_bins(expected, survey.instrument)[1]


def objects(compared: list[Compared]) -> list[dict[str, object]]:
    """Return every real galaxy and its measures, with the spread of its mocks."""
    return [
        {
            "object": one.real.label(0), "instrument": one.instrument.name, "sort": one.sort,
            "z": plain(float(one.real.z[0])), "snr": plain(float(one.real.snr[0])),
            "measures": {
                name: {
                    "real": plain(float(real[0])),
                    "error": plain(float(one.errors[name][0])) if name in one.errors else None,
                    "mocks": plain(spread(mocks)),
                    "rank": plain(rank(float(real[0]), mocks)),
                }
                for name, (real, mocks) in one.values.items()
            },
        }
        for one in compared
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("mocks-and-real"))
    parser.add_argument("--many", type=int, default=72, help="mocks of each real galaxy")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    prepared = prepare(read_populations(options.folder))
    found = read_surveys(options.folder)
    generator = torch.Generator().manual_seed(SEED)
    compared = [
        one for survey in found for one in compare(survey, prepared, options.many, generator)
    ]
    skies = [empty_mocks(survey, generator) for survey in found]
    tables = [galaxy_table(compared, one) for one in (False, True)]
    tables += [noise_table(compared, found, skies)]
    tables += [survey_table(one, prepared, options.many, generator) for one in found]
    for table in tables:
        print(table.markdown())
    noise = [
        (
            one.instrument.name,
            *(sigma_bins(batch, one.instrument) for batch in (one.sky, mocks)),
            galaxy_noise(one),
        )
        for one, mocks in zip(found, skies, strict=True)
    ]
    draw_nearest(compared, options.out / "nearest.png")
    draw_distributions(compared, options.out / "distributions.png")
    draw_noise(noise, options.out / "noise.png")
    result = {"tables": [table.to_dict() for table in tables], "objects": objects(compared)}
    (options.out / "figures.json").write_text(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
