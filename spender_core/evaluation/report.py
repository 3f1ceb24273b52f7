"""What was found out about a model, as tables, plain data and pictures in a folder.

Shapes: N mocks, W wavelength bins.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core import __version__
from spender_core.archives.writing import replacing
from spender_core.evaluation.invariance import Invariance
from spender_core.evaluation.measures import PullProfile
from spender_core.evaluation.real import RealSpectrum, real_dict, real_table
from spender_core.evaluation.tables import (
    SNR_EDGES,
    Z_EDGES,
    Table,
    grouped,
    interval,
    plain,
    share_below,
    spread,
)

FloatArray = NDArray[np.float64]

LIMIT = 0.1
"""Error of the restframe below which it counts as good."""


@dataclass(frozen=True)
class Example:
    """One mock to draw, in the units of its batch, shape (L,) each.

    Attributes:
        title: Why it was chosen.
        wave: Observed wavelengths, Angstrom.
        flux: Flux, NaN where masked.
        sigma: Its uncertainty, NaN where masked.
        fits: Descriptions by name, NaN where they do not reach.
        z: Redshift.
        snr: Median S/N a pixel.
        chi2: Reduced chi square by description.
    """

    title: str
    wave: FloatArray
    flux: FloatArray
    sigma: FloatArray
    fits: dict[str, FloatArray]
    z: float
    snr: float
    chi2: dict[str, float]


@dataclass(frozen=True)
class RestProfile:
    """Errors of the restframe in bins of wavelength, of every mock.

    Attributes:
        edges: Edges of the bins, shape (W + 1,), Angstrom.
        within: In bins that were observed, shape (N, W); NaN elsewhere.
        beyond: In bins outside of the observed range.
    """

    edges: FloatArray
    within: FloatArray
    beyond: FloatArray


@dataclass(frozen=True)
class MockResult:
    """A model judged on mocks.

    Attributes:
        snr: Median S/N a pixel, shape (N,).
        z: Redshifts, shape (N,).
        chi2: Reduced chi square by description, shape (N,) each.
        errors: Error of the restframe by window, shape (N,) each.
        observed: Pulls along observed wavelengths.
        rest: Pulls along restframe wavelengths.
        profile: Error of the restframe along wavelengths.
        examples: The best, a median and the worst one.
    """

    snr: FloatArray
    z: FloatArray
    chi2: dict[str, FloatArray]
    errors: dict[str, FloatArray]
    observed: PullProfile
    rest: PullProfile
    profile: RestProfile
    examples: tuple[Example, ...]

    def tables(self) -> dict[str, Table]:
        """Return the tables by name."""
        label = "Reduced chi square on mocks, median (16–84 percent)"
        limits = dict.fromkeys(self.errors, LIMIT)
        return {
            "chi2_snr": grouped(
                f"{label}, by S/N a pixel", ("S/N", self.snr), SNR_EDGES, self.chi2
            ),
            "chi2_z": grouped(f"{label}, by redshift", ("z", self.z), Z_EDGES, self.chi2),
            "restframe_snr": grouped(
                "Error of the restframe on mocks, mean |x − t| / mean t, median (16–84 percent), "
                "by S/N a pixel",
                ("S/N", self.snr),
                SNR_EDGES,
                self.errors,
                limits,
            ),
            "restframe_68": self._percentile(68),
        }

    def _percentile(self, percent: float) -> Table:
        rows = []
        for low, high in pairwise(SNR_EDGES):
            inside = (self.snr >= low) & (self.snr < high)
            chosen = [column[inside & np.isfinite(column)] for column in self.errors.values()]
            if inside.any():
                counted = [
                    (len(one), float(np.percentile(one, percent)) if len(one) else None)
                    for one in chosen
                ]
                rows.append((interval(low, high), *(cell for pair in counted for cell in pair)))
        heads = [head for name in self.errors for head in (f"n, {name}", name)]
        title = (
            f"Error of the restframe that {percent:g} percent of mocks stay below, by S/N a pixel"
        )
        return Table(title, ("S/N", *heads), tuple(rows))

    def summary(self) -> dict[str, Any]:
        """Return the main figures: for a card."""
        near = (self.snr >= 8) & (self.snr < 12.5)
        beyond = {
            name: {
                "n": int(np.isfinite(self.errors[name][near]).sum()),
                "share below 10 percent": share_below(self.errors[name][near], LIMIT),
                "p68": _p68(self.errors[name][near]),
            }
            for name in self.errors
        }
        return {
            "mocks": len(self.snr),
            "reduced chi square": {name: spread(v) for name, v in self.chi2.items()},
            "restframe error at S/N 8 to 12.5": beyond,
        }


def _p68(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, 68)) if len(finite) else float("nan")


@dataclass(frozen=True)
class Report:
    """A model judged.

    Attributes:
        model: Its name.
        instrument: Name of the instrument.
        about: On what it was judged: numbers, seeds, templates.
        mocks: Figures on mocks, if there were any.
        invariance: Distances of latents, if measured.
        real: Real spectra, if there were any.
    """

    model: str
    instrument: str
    about: dict[str, Any] = field(default_factory=dict)
    mocks: MockResult | None = None
    invariance: Invariance | None = None
    real: tuple[RealSpectrum, ...] = ()

    def tables(self) -> dict[str, Table]:
        """Return all tables by name."""
        found = {} if self.mocks is None else self.mocks.tables()
        if self.invariance is not None:
            found["invariance"] = self.invariance.table()
        if self.real:
            found["real"] = real_table(self.real)
        return found

    def summary(self) -> dict[str, Any]:
        """Return the main figures as plain data, for the `evaluation` of a card."""
        content: dict[str, Any] = dict(self.about)
        if self.mocks is not None:
            content |= self.mocks.summary()
        if self.invariance is not None:
            pairs = zip(self.invariance.views, self.invariance.plain, strict=True)
            content["latent distance, median"] = {view: one.median for view, one in pairs}
        if self.real:
            names = self.real[0].chi2
            content["real spectra"] = {
                "n": len(self.real),
                "reduced chi square": {
                    name: spread([one.chi2[name] for one in self.real]) for name in names
                },
            }
        cleaned: dict[str, Any] = plain(content)
        return cleaned

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the spectra as plain data, which JSON can hold."""
        content: dict[str, Any] = {
            "model": self.model,
            "instrument": self.instrument,
            "spender": __version__,
            "summary": self.summary(),
            "tables": {name: table.to_dict() for name, table in self.tables().items()},
        }
        if self.mocks is not None:
            content["pulls along observed wavelength"] = self.mocks.observed.to_dict()
            content["pulls along restframe wavelength"] = self.mocks.rest.to_dict()
        if self.real:
            content["real"] = real_dict(self.real)
        return content

    def markdown(self, pictures: Sequence[Path] = ()) -> str:
        """Return the report as text, with its pictures."""
        lines = [f"# {self.model} on {self.instrument}", ""]
        lines += [f"- {key}: {value}" for key, value in self.about.items()]
        lines += [f"\n{table.markdown()}" for table in self.tables().values()]
        lines += [f"\n![{path.stem.replace('_', ' ')}]({path.name})" for path in pictures]
        return "\n".join(lines) + "\n"

    def write(self, folder: str | Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
        """Write report.json, report.md and the pictures into a folder.

        Args:
            folder: Made if it does not exist.
            formats: Of each picture, as file endings that matplotlib knows.

        Returns:
            The files.

        Raises:
            FileError: They cannot be written.
        """
        from spender_core.evaluation import figures

        folder = Path(folder)
        files = []
        for name, figure in figures.all_of(self).items():
            for suffix in formats:
                path = folder / f"{name}.{suffix}"
                with replacing(path) as temporary:
                    figures.save(figure, temporary)
                files.append(path)
        shown = [path for path in files if path.suffix == f".{formats[0]}"]
        texts = {
            "report.json": json.dumps(
                self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False
            ),
            "report.md": self.markdown(shown),
        }
        for name, text in texts.items():
            with replacing(folder / name) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
            files.append(folder / name)
        return files
