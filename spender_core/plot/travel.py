"""What latents mean: one of them is varied, the others stay.

Shapes: N objects, S latents, K steps, R restframe pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from spender_core.errors import InputError
from spender_core.plot.corners import subscripted
from spender_core.plot.naming import Zoom, lines, zooms
from spender_core.plot.styles import Colours, Style, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spender_core.interfaces import Model

FloatArray = NDArray[np.float64]

ZOOMS = "4000 break, 4940:260, 6570:160"
"""What is enlarged by default: the break, H beta with [O III], H alpha with [N II]."""
_NAMES = {"4940 Å": "Hβ, [O III]", "6570 Å": "Hα, [N II]"}


@dataclass(frozen=True)
class Travel:
    """Restframe spectra along each latent.

    Attributes:
        values: Of the latent that is varied, shape (S, K).
        percentiles: The percentiles of the sample that these are, shape (K,).
        restframe: Shape (S, K, R).
        middle: The spectrum where all latents are at their medians, shape (R,).
        wave: Restframe wavelengths, shape (R,), Angstrom.
    """

    values: FloatArray
    percentiles: FloatArray
    restframe: FloatArray
    middle: FloatArray
    wave: FloatArray

    @property
    def change(self) -> FloatArray:
        """RMS over wavelengths of (last - first) / mean, shape (S,): how much a latent does."""
        first, last = self.restframe[:, 0], self.restframe[:, -1]
        level = np.abs(self.middle).mean()
        rms: FloatArray = np.sqrt(((last - first) ** 2).mean(axis=1)) / level
        return rms


def travel(
    model: Model,
    latents: ArrayLike,
    percentiles: tuple[float, float] = (2.0, 98.0),
    steps: int = 7,
) -> Travel:
    """Decode spectra along each latent, the others at the median of a sample.

    Args:
        model: Whose latents they are.
        latents: A sample, shape (N, S), finite: from `model.encode`.
        percentiles: Of the sample, between which each latent is varied.
        steps: Number K of values, evenly spaced in percentiles.

    Raises:
        InputError: The sample has not the model's latents, or the percentiles no order.
    """
    sample = np.asarray(latents, dtype=float)
    if sample.ndim != 2 or len(sample) == 0 or not np.isfinite(sample).all():
        raise InputError(
            f"latents must be a sample of shape (N, S), finite, N > 0; got shape {sample.shape}"
        )
    low, high = percentiles
    if not 0 <= low < high <= 100 or steps < 2:
        raise InputError(
            f"percentiles must rise within 0 to 100, and steps be 2 at least; got {percentiles} "
            f"and {steps}"
        )
    shares = np.linspace(low, high, steps)
    median = np.median(sample, axis=0)
    values = np.percentile(sample, shares, axis=0).T
    points = np.tile(median, (len(values), steps, 1))
    for latent, along in enumerate(values):
        points[latent, :, latent] = along
    made = _decoded(model, np.concatenate([points.reshape(-1, len(median)), median[None]]))
    shape = (len(values), steps, -1)
    wave = model.wave_rest.cpu().numpy()
    return Travel(values, shares, made[:-1].reshape(shape), made[-1], wave)


def _decoded(model: Model, points: FloatArray) -> FloatArray:
    weight = next(model.parameters())
    with torch.inference_mode():
        try:
            made = model.decode(torch.tensor(points, device=weight.device, dtype=weight.dtype))
        except RuntimeError as error:
            raise InputError(
                f"the model decodes no {points.shape[1]} latents; give those that it encoded "
                f"({error})"
            ) from error
    decoded: FloatArray = made.cpu().double().numpy()
    return decoded


def traversal(
    model: Model,
    latents: ArrayLike,
    zoom: str | Sequence[Zoom] = ZOOMS,
    percentiles: tuple[float, float] = (2.0, 98.0),
    steps: int = 7,
    labels: Sequence[str] | None = None,
    look: str | Style = "paper",
) -> Figure:
    """Draw what each latent does: a row each, the whole restframe and zooms on lines.

    Arguments are those of `travel`, and:

    Args:
        model: Whose latents they are.
        latents: A sample, shape (N, S).
        zoom: Ranges to enlarge, as in `spectra`.
        percentiles: Between which each latent is varied.
        steps: Number of spectra in a panel.
        labels: Names of the latents; s₀, s₁, ... by default.
        look: A style or its name.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    made = travel(model, latents, percentiles, steps)
    number = len(made.values)
    names = [subscripted(k) for k in range(number)] if labels is None else list(labels)
    if len(names) != number:
        raise InputError(f"{len(names)} labels for {number} latents; give one for each")
    enlarged = zooms(zoom) if isinstance(zoom, str) else list(zoom)
    sizes = style(look)
    # the lightest colours of the map would be lost on white
    scale = Normalize(made.percentiles[0], made.percentiles[-1] + 0.12 * np.ptp(made.percentiles))
    colours = colormaps[Colours.MAP]
    with sizes.context():
        height = (0.75 * sizes.row + 0.5 * sizes.font / 72) * number + 7 * sizes.font / 72
        figure = Figure(figsize=(sizes.width, height), layout="constrained")
        engine: Any = figure.get_layout_engine()
        engine.set(w_pad=0.02, h_pad=0.02, hspace=0.0, wspace=0.01)
        ratios = [2.4] + [1.0] * len(enlarged)
        grid = figure.subplots(
            number, len(ratios), squeeze=False, width_ratios=ratios, sharex="col"
        )
        whole = Zoom("restframe", float(made.wave[0]), float(made.wave[-1]))
        for latent, row in enumerate(grid):
            for axes, part in zip(row, [whole, *enlarged], strict=True):
                shades = [colours(scale(share)) for share in made.percentiles]
                _draw(axes, made, latent, part, shades, sizes)
                if latent == 0:
                    axes.set_title(_NAMES.get(part.name, part.name))
                if latent == number - 1:
                    axes.set_xlabel(
                        "restframe (Å)" if part is not whole else "restframe wavelength (Å)"
                    )
            row[0].set_ylabel(names[latent], rotation=0, ha="right", va="center")
            low, high = made.values[latent, [0, -1]]
            row[0].text(
                0.99, 0.95, f"{low:+.2f} to {high:+.2f}   rms change {made.change[latent]:.0%}",
                transform=row[0].transAxes, ha="right", va="top", fontsize=sizes.small_font,
                bbox={"color": "white", "alpha": 0.75, "pad": 1, "lw": 0},
            )  # fmt: skip
        bar = figure.colorbar(
            ScalarMappable(scale, colours), ax=grid.ravel().tolist(), location="bottom",
            aspect=60, shrink=0.5, pad=0.02, boundaries=np.linspace(*percentiles, 200),
            ticks=np.round(made.percentiles).tolist(),
        )  # fmt: skip
        bar.set_label("percentile of the latent in the sample; the others at their medians")
    return figure


def _draw(
    axes: Axes, made: Travel, latent: int, part: Zoom, shades: Sequence[Any], sizes: Style
) -> None:
    """Draw the spectra of one latent in one range."""
    inside = (made.wave >= part.low) & (made.wave <= part.high)
    wave, whole = made.wave[inside], bool(inside.all())
    axes.set_xlim(part.low, part.high)
    if not inside.any():
        axes.text(0.5, 0.5, "beyond\nthe model", transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])
        return
    shown = made.restframe[latent][:, inside]
    order = np.argsort(np.abs(made.percentiles - 50))[::-1]  # the median last, on top
    for step in order:
        width = (0.5 if whole else 0.8) * sizes.line
        axes.plot(wave, shown[step], color=shades[step], lw=width)
    # in the whole restframe, peaks would leave no room for the continuum
    low, high = np.percentile(shown, [0.1, 99.0 if whole else 100])
    span = float(high - low) or 1.0
    axes.set_ylim(low - 0.06 * span, high + (0.35 if whole else 0.08) * span)
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", nbins=9 if whole else 4)
    for line, kind, _ in lines():
        if part.low < line < part.high and not whole:
            dashes: Any = "-" if kind == "emission" else (0, (4, 3))
            axes.axvline(line, color=Colours.ZERO, lw=0.4 * sizes.line, ls=dashes, zorder=0)
