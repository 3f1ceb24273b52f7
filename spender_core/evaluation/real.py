"""Models judged on real spectra, and which parts of a spectrum spoil its chi square.

Shapes: B spectra, L observed pixels, W wavelength bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spender_core.batch import SpectrumBatch
from spender_core.evaluation.measures import Fit, chi2, common_weight, fits, reconstruct
from spender_core.evaluation.pca import RestframePCA
from spender_core.evaluation.tables import Cell, Table, plain, spread
from spender_core.interfaces import Instrument, Model
from spender_core.ops.mask import sky_line_mask
from spender_core.plot import lines
from spender_core.plot.naming import TELLURIC

FloatArray = NDArray[np.float64]

WIDTH = 0.01
"""Width of a window in ln(wavelength), 3000 km/s: a narrow line with its wings."""
_NEAR = 1500.0 / 299792.458
"""Distance in ln(wavelength) within which a window is named by a line."""
_CHUNK = 64


@dataclass(frozen=True)
class Window:
    """A stretch of a spectrum whose chi square exceeds its number of pixels.

    Attributes:
        name: Nearest line, and telluric band if there is one; or else "sky line", or "continuum".
        rest: Restframe wavelength where the excess is centred, Angstrom.
        observed: The same as observed.
        excess: Its chi square less its number of pixels.
        share: The excess over the number of all pixels: what it adds to the reduced one.
    """

    name: str
    rest: float
    observed: float
    excess: float
    share: float

    def __str__(self) -> str:
        return f"{self.name} {self.rest:.0f}, {self.observed:.0f}: {self.share:+.2f}"


@dataclass(frozen=True)
class RealSpectrum:
    """How a model fared on one real spectrum.

    Attributes:
        label: Its id.
        instrument: Name of what observed it.
        z: Redshift.
        snr: Median S/N a pixel.
        chi2: Reduced chi square by description.
        elsewhere: That of the model without the worst windows.
        causes: What its flags say.
        worst: Where the excess of the model is largest.
    """

    label: str
    instrument: str
    z: float
    snr: float
    chi2: dict[str, float]
    elsewhere: float
    causes: tuple[str, ...]
    worst: tuple[Window, ...]


def judge_real(
    model: Model,
    instrument: Instrument,
    batch: SpectrumBatch,
    pca: RestframePCA | None = None,
    sizes: Sequence[int] = (),
    most: int = 3,
    refine: int = 0,
) -> list[RealSpectrum]:
    """Reconstruct real spectra and tell where they differ from the model.

    Args:
        model: The model.
        instrument: What observed the spectra.
        batch: Spectra with redshifts that the model reaches.
        pca: Components to fit too.
        sizes: How many of them, one fit each.
        most: Number of windows to name.
        refine: Steps towards the best latents, judged beside those of the encoder.
    """
    found: list[RealSpectrum] = []
    for start in range(0, len(batch), _CHUNK):
        part = batch[start : start + _CHUNK]
        made = reconstruct(model, part)
        refined = reconstruct(model, part, refine) if refine else None
        described = fits(model, part, made, pca, sizes, refined=refined)
        values = chi2(part, described)
        for row in range(len(part)):
            own = {name: float(column[row]) for name, column in values.items()}
            worst, elsewhere = _windows(part, row, instrument.wave, described, most)
            found.append(
                RealSpectrum(
                    part.label(row),
                    instrument.name,
                    float(part.z[row]),
                    float(part.snr[row]),
                    own,
                    elsewhere,
                    tuple(part.causes(row)),
                    worst,
                )
            )
    return found


def _windows(
    batch: SpectrumBatch, row: int, wave: FloatArray, found: dict[str, Fit], most: int
) -> tuple[tuple[Window, ...], float]:
    """Return the worst windows of one spectrum, and its reduced chi square without them.

    They are those of the refined model, if there is one.
    """
    one = {name: Fit(f.observed[[row]], f.valid[[row]], f.parameters) for name, f in found.items()}
    weight_L = common_weight(batch[[row]], one)[0].double()
    fit = one.get("refined", one["model"])
    square_L = (weight_L * (batch.flux[row] - fit.observed[0]).double().square()).numpy()
    used_L = (weight_L > 0).numpy()
    if not used_L.any():
        return (), float("nan")
    log_rest = np.log(wave / (1 + float(batch.z[row])))
    masked = sky_line_mask(wave, min_intensity=8.0)
    pixels, windows = int(used_L.sum()), []
    left_L = used_L.copy()
    for _ in range(most):
        excess, inside = _worst(log_rest, square_L, left_L)
        if excess <= 0:
            break
        centre = float(np.average(log_rest[inside], weights=square_L[inside]))
        pixel = int(np.argmin(np.abs(log_rest - centre)))
        name = _name(centre, wave[pixel], bool(masked[pixel]))
        place = float(np.exp(centre)), float(wave[pixel])
        windows.append(Window(name, *place, excess, excess / pixels))
        left_L &= ~inside
    freedom = left_L.sum() - fit.parameters
    elsewhere = float(square_L[left_L].sum() / freedom) if freedom > 0 else float("nan")
    return tuple(windows), elsewhere


def _worst(
    log_rest: FloatArray, square_L: FloatArray, left_L: NDArray[np.bool_]
) -> tuple[float, NDArray[np.bool_]]:
    """Return the largest excess of a window around any pixel that is left, and its pixels."""
    total = np.concatenate([[0.0], np.cumsum(np.where(left_L, square_L - 1, 0))])
    first = np.searchsorted(log_rest, log_rest - WIDTH / 2, side="left")
    after = np.searchsorted(log_rest, log_rest + WIDTH / 2, side="right")
    excess = total[after] - total[first]
    best = int(np.argmax(excess))
    inside = np.zeros(len(log_rest), dtype=bool)
    inside[first[best] : after[best]] = True
    return float(excess[best]), inside & left_L


def _name(log_rest: float, observed: float, near_sky_line: bool) -> str:
    named = [(abs(np.log(wave) - log_rest), label) for wave, _, label in lines()]
    distance, label = min(named)
    names = [label] if distance <= _NEAR else []
    names += [f"telluric {who}" for low, high, who in TELLURIC if low <= observed <= high]
    if near_sky_line and not names:
        names = ["sky line"]
    return ", ".join(names) or "continuum"


def real_table(spectra: Sequence[RealSpectrum]) -> Table:
    """Return one row a spectrum, and the spread of all."""
    names = list(spectra[0].chi2) if spectra else []
    rows: list[tuple[Cell, ...]] = [
        (
            one.label,
            one.instrument,
            f"{one.z:.4f}",
            f"{one.snr:.1f}",
            *(f"{one.chi2[name]:.2f}" for name in names),
            f"{one.elsewhere:.2f}",
            "; ".join(map(str, one.worst)),
            ", ".join(one.causes),
        )
        for one in spectra
    ]
    if spectra:
        rows.append(
            (
                f"all {len(spectra)}", "", spread([one.z for one in spectra]),
                spread([one.snr for one in spectra]),
                *(spread([one.chi2[name] for one in spectra]) for name in names),
                spread([one.elsewhere for one in spectra]), "", "",
            )
        )  # fmt: skip
    heads = ("object", "instrument", "z", "S/N", *names, "model elsewhere")
    columns = (*heads, "worst windows: restframe, observed Å, added to reduced chi2", "remark")
    return Table("Real spectra: reduced chi square", columns, tuple(rows))


def real_dict(spectra: Sequence[RealSpectrum]) -> list[dict[str, Any]]:
    """Return the judgement of every spectrum as plain data."""
    return [
        {
            "object": one.label,
            "instrument": one.instrument,
            "z": one.z,
            "snr": plain(one.snr),
            "chi2": plain(one.chi2),
            "chi2_elsewhere": plain(one.elsewhere),
            "remarks": list(one.causes),
            "worst": [plain(vars(window)) for window in one.worst],
        }
        for one in spectra
    ]


def usable(model: Model, batch: SpectrumBatch) -> torch.Tensor:
    """Tell which spectra have a redshift that the model was made for and reaches, bool (B,)."""
    z = batch.z.cpu()
    known = ~z.isnan() & model.reaches(z, batch.instrument) & batch.good.any(dim=1).cpu()
    if model.card is not None and model.card.z_range is not None:
        low, high = model.card.z_range
        known &= (z >= low) & (z <= high)
    return known
