"""Draw the pictures of the documentation again: `python docs/draw.py`.

Those of the gallery are what the blocks of its page write; the drawings are SVG that follows the
colours of the page it stands in. They are kept in the repository, so that the pages
show them wherever they are read.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from spender_core import registry
from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.galaxies import galaxies, prepare
from spender_core.datasets.mock.observing import observe
from spender_core.datasets.mock.sources import Sources

HERE = Path(__file__).parent
STATIC = HERE / "_static"
Floats = NDArray[np.float64]

LIGHT = {
    "ink": "#222832", "soft": "#68707c", "line": "#c3c8cf", "fill": "#f3f4f5",
    "accent": "#0a7d91", "sdss": "#b85300", "boss": "#00744f", "desi": "#0064a6",
}  # fmt: skip
DARK = {
    "ink": "#e6e8eb", "soft": "#a2a9b2", "line": "#4d545e", "fill": "#22272e",
    "accent": "#5cc8d7", "sdss": "#f0984a", "boss": "#4fc79b", "desi": "#6fb6ea",
}  # fmt: skip
LINES = {"4000 Å": 4000.0, "[O III]": 5008.2, "Hα": 6564.6}
"""Vacuum wavelengths, Angstrom, of what is followed from row to row."""


def colours(name: str) -> str:
    """Return the style of a drawing: by the reader's system, or by the theme of the site."""
    light, dark = (
        ";".join(f"--{key}:{value}" for key, value in palette.items()) for palette in (LIGHT, DARK)
    )
    return (
        f"<style>.{name}{{{light}}}@media(prefers-color-scheme:dark){{.{name}{{{dark}}}}}"
        f'html[data-theme="light"] .{name}{{{light}}}html[data-theme="dark"] .{name}{{{dark}}}'
        f".{name} text{{font-family:system-ui,sans-serif;fill:var(--ink)}}"
        f".{name} .soft{{fill:var(--soft)}}.{name} .mono{{font-family:ui-monospace,monospace}}"
        f".{name} path{{fill:none;stroke-linejoin:round}}</style>"
    )


def path(x: Floats, y: Floats, colour: str, width: float, opacity: float = 1.0) -> str:
    """Return a line through points, to a tenth of a unit."""
    points = "".join(f"L{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True) if np.isfinite(b))
    return (
        f'<path d="M{points[1:]}" style="stroke:var(--{colour});stroke-width:{width};'
        f'opacity:{opacity}"/>'
    )


def words(x: float, y: float, content: str, size: float = 20, more: str = "") -> str:
    """Return a text that begins, or as `more` says, at a place."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" {more}>{content}</text>'


def drawing(name: str, title: str, width: int, height: int, parts: list[str]) -> None:
    """Write a drawing into the folder of static files."""
    (STATIC / f"{name}.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{name}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{title}"><title>{title}</title>{colours(name)}'
        + "\n".join(parts)
        + "</svg>\n",
        encoding="utf-8",
    )


def binned(wave: Floats, values: Floats, edges: Floats) -> Floats:
    """Return means of values in bins of wavelength; NaN where there are none."""
    where = np.digitize(wave, edges) - 1
    keep = np.isfinite(values) & (where >= 0) & (where < len(edges) - 1)
    count = np.bincount(where[keep], minlength=len(edges) - 1)
    total = np.bincount(where[keep], values[keep], minlength=len(edges) - 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class Seen:
    """One galaxy as an instrument sees it, and what its embedded model makes of that."""

    def __init__(self, name: str, source: Sources, z: float) -> None:
        self.instrument, self.model = registry.load(f"{name}_demo")
        self.name, self.z = name, z
        generator = torch.Generator().manual_seed(2)
        conditions = Conditions.parametric(self.instrument, 8, generator)
        source = source.at(torch.tensor([z]))
        mock = observe(source, self.instrument, conditions, generator, snr=(3.0, 3.1))
        with torch.inference_mode():
            made = self.model.reconstruct(mock.batch, refine=6)
        self.wave: Floats = self.instrument.wave
        self.flux = np.where(mock.batch.ivar[0] > 0, mock.batch.flux[0], np.nan).astype(float)
        self.observed = np.where(made.valid[0], made.observed[0], np.nan).astype(float)
        self.rest: Floats = self.model.rest.wave
        self.restframe = made.restframe[0].double().numpy()
        self.latents = made.latents[0].double().numpy()


def level(values: Floats, foot: float, height: float) -> Floats:
    """Return where values are drawn: upwards from a foot, the bulk of them within a height."""
    low, high = np.nanpercentile(values, (2.0, 98.0))
    return np.asarray(foot - height * (values - low) / (high - low))


def hero(seen: list[Seen]) -> None:
    """Draw one galaxy in restframe, and below it what instruments observe of it."""
    width, low, high, tall = 760, 3500.0, 10000.0, 52.0
    edges = np.geomspace(low, high, 521)
    feet = [146.0, 274.0, 402.0, 530.0]

    def across(wave: Floats) -> Floats:
        return np.asarray(width * np.log(wave / low) / np.log(high / low))

    x = across(np.sqrt(edges[1:] * edges[:-1]))
    parts = []
    for name, wave in LINES.items():
        points = zip([0.0, *(one.z for one in seen)], feet, strict=True)
        ends = [(float(across(np.array(wave * (1 + z)))), foot) for z, foot in points]
        first = f"M{ends[0][0]:.1f},28V{feet[0]:.0f}"
        line = first + "".join(f"L{a:.1f},{b - tall:.1f}V{b:.1f}" for a, b in ends[1:] if a < width)
        parts.append(f'<path d="{line}" style="stroke:var(--line);stroke-dasharray:3 4"/>')
        parts.append(words(ends[0][0], 18, name, 20, 'class="soft" text-anchor="middle"'))
    last = seen[-1]
    shown = level(binned(last.rest, last.restframe, edges), feet[0], tall)
    parts.append(path(x, np.maximum(shown, 60), "accent", 2.2))
    parts.append(words(4, feet[0] - 92, "restframe", 22, 'style="fill:var(--accent)"'))
    for one, foot in zip(seen, feet[1:], strict=True):
        found = binned(one.wave, one.observed, edges)
        low_end, high_end = np.nanpercentile(found, (2.0, 98.0))
        data = foot - tall * (binned(one.wave, one.flux, edges) - low_end) / (high_end - low_end)
        top = foot - 86
        parts.append(path(x, np.clip(data, top, foot + 14), "soft", 1, 0.7))
        parts.append(path(x, np.maximum(level(found, foot, tall), top), one.name, 2.0))
        label = f"{one.name.upper()}, z = {one.z:g}"
        parts.append(words(4, foot - 92, label, 22, f'style="fill:var(--{one.name})"'))
    for wave in (4000, 5000, 6000, 7000, 8000, 9000):
        at = float(across(np.array(float(wave))))
        parts.append(f'<path d="M{at:.1f},552v6" style="stroke:var(--soft)"/>')
        parts.append(words(at, 580, f"{wave}", 20, 'class="soft" text-anchor="middle"'))
    parts.append(words(width, 580, "Å", 20, 'class="soft" text-anchor="end"'))
    title = "The restframe spectrum of one galaxy, and what SDSS, BOSS and DESI observe of it"
    drawing("hero", title, width, 588, parts)


def box(x: int, y: int, height: int, title: str, below: str, colour: str) -> list[str]:
    """Return a box of the data path, with its name and what it holds."""
    return [
        f'<rect x="{x}" y="{y}" width="260" height="{height}" rx="10" '
        f'style="fill:var(--fill);stroke:var(--{colour});stroke-width:1.5"/>',
        words(x + 14, y + 30, title, 21, 'font-weight="600"'),
        words(x + 14, y + height - 14, below, 16, 'class="soft mono"'),
    ]


def arrow(start: tuple[int, int], end: tuple[int, int], both: bool = False) -> str:
    """Return an arrow."""
    (a, b), (c, d) = start, end
    tail = 'marker-start="url(#head)" ' if both else ""
    dashes = ";stroke-dasharray:5 5" if both else ""
    return (
        f'<path d="M{a},{b}L{c},{d}" {tail}marker-end="url(#head)" '
        f'style="stroke:var(--ink);stroke-width:1.8{dashes}"/>'
    )


def thumb(x: int, y: int, wave: Floats, values: list[tuple[Floats, str, float]]) -> list[str]:
    """Return a small picture of spectra, 232 by 62 units."""
    edges = np.geomspace(wave[0], wave[-1], 150)
    top = max(float(np.nanpercentile(binned(wave, one, edges), 99.5)) for one, _, _ in values)
    at = np.linspace(x, x + 232, 149)
    return [
        path(at, np.clip(y + 62 - 56 * binned(wave, one, edges) / top, y, y + 66), colour, thick)
        for one, colour, thick in values
    ]


def data_path(seen: Seen) -> None:
    """Draw the way of a spectrum: down through the encoder, up through the transform."""
    left, right = 20, 340
    bars = [
        f'<rect x="{left + 20 + 28 * n}" y="{494 - max(h, 0):.1f}" width="16" '
        f'height="{abs(h) + 1:.1f}" rx="2" style="fill:var(--accent)"/>'
        for n, h in enumerate(26 * seen.latents / np.abs(seen.latents).max())
    ]
    parts = [
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto-start-reverse"><path d="M0,0L10,5L0,10z" '
        'style="fill:var(--ink)"/></marker></defs>',
        *box(left, 12, 78, "File", "https, s3, disk", "line"),
        arrow((150, 90), (150, 152)),
        words(164, 128, "Loader", 19),
        *box(left, 154, 150, "Batch", "flux, ivar, z, … (B, L)", "desi"),
        *thumb(left + 14, 196, seen.wave, [(seen.flux, "desi", 1.0)]),
        arrow((150, 304), (150, 418)),
        words(164, 368, "encoder", 19),
        words(20, 350, "one for each", 16, 'class="soft"'),
        words(20, 371, "instrument", 16, 'class="soft"'),
        *box(left, 420, 150, "Latents", "s (B, S)", "accent"),
        *bars,
        arrow((280, 495), (338, 495)),
        words(310, 598, "decoder: one, for all instruments", 19, 'text-anchor="middle"'),
        '<path d="M309,580V506" style="stroke:var(--soft);stroke-dasharray:2 4"/>',
        *box(right, 420, 150, "Restframe", "x (B, R)", "accent"),
        *thumb(right + 14, 462, seen.rest, [(seen.restframe, "accent", 1.6)]),
        arrow((470, 420), (470, 306)),
        words(456, 346, "transform:", 19, 'text-anchor="end"'),
        words(456, 371, "redshift, resample", 16, 'class="soft" text-anchor="end"'),
        words(456, 392, "line spread function", 16, 'class="soft" text-anchor="end"'),
        words(484, 368, "instrument, z", 16, 'class="soft"'),
        *box(right, 154, 150, "Observed", "y, valid (B, L)", "desi"),
        *thumb(right + 14, 196, seen.wave, [(seen.observed, "desi", 1.8)]),
        arrow((282, 229), (338, 229), both=True),
        words(310, 216, "χ²", 21, 'text-anchor="middle"'),
    ]
    title = (
        "From a file through its loader to a batch; through the encoder to latents, the decoder to "
        "the restframe, and the transform to what is observed, which is compared with the batch"
    )
    drawing("data-path", title, 620, 612, parts)


def gallery() -> None:
    """Run the blocks of the gallery, and keep the pictures that it shows, in few colours."""
    page = (HERE / "gallery.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    target = STATIC / "gallery"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            exec(compile(code, "gallery.md", "exec"), {"__name__": "gallery"})
        finally:
            os.chdir(before)
        for name in re.findall(r"_static/gallery/([\w.-]+)", page):
            with Image.open(Path(folder) / name) as picture:
                small = picture.convert("RGB").quantize(24, dither=Image.Dither.NONE)
                small.save(target / name, optimize=True)


def strong_lined(sources: Sources) -> Sources:
    """Return a galaxy with strong emission lines, by [O III] over the continuum beside it."""
    wave = sources.grid.wave
    line, beside = (wave > 5003) & (wave < 5014), (wave > 5030) & (wave < 5100)
    ratio = sources.restframe[:, line].mean(dim=1) / sources.restframe[:, beside].mean(dim=1)
    row = int((ratio - 2.5).abs().argmin())
    return sources[row : row + 1]


def main() -> None:
    """Draw everything."""
    generator = torch.Generator().manual_seed(11)
    source = strong_lined(galaxies(200, prepare(parametric.populations()), generator))
    seen = [Seen("sdss", source, 0.08), Seen("boss", source, 0.25), Seen("desi", source, 0.42)]
    hero(seen)
    data_path(seen[-1])
    if "--drawings" not in sys.argv[1:]:
        gallery()


if __name__ == "__main__":
    main()
