"""`spender plot`: the spectra of files, with reconstructions and residuals."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from spender_core import plot, registry
from spender_core.archives.location import redacted
from spender_core.archives.writing import replacing
from spender_core.batch import Flag, SpectrumBatch
from spender_core.cataloguing.measuring import encode
from spender_core.cli.outputs import check_outputs
from spender_core.cli.spectra import Models, read
from spender_core.errors import NoSpectraError, SpenderError
from spender_core.interfaces import Instrument
from spender_core.records import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNIT = "10⁻¹⁷ erg s⁻¹ cm⁻² Å⁻¹"


@dataclass(frozen=True)
class Request:
    """What to draw, and how.

    Attributes:
        files: Files of spectra, paths or URLs.
        model: Name, path or URL; None for the embedded one of each instrument.
        z: Redshift of spectra without one.
        most: Spectra of each file.
        everything: Keep spectra that fail the survey's quality cuts.
        per_page: Spectra on a page; if None, 3 in a .pdf and 6 otherwise, where each page is a
            file.
        zoom: What to enlarge, as `plot.zooms` understands it; nothing if empty.
        rest: Restframe wavelengths, and the model beyond the observed range.
        smooth: How to smooth, as `plot.kernel` understands it; not at all if empty.
        style: Name of a style.
        dpi: Of raster pictures; that of the style if None.
        refine: Steps from the encoder's latents to those that fit best.
    """

    files: Sequence[str]
    model: str | None = None
    z: float | None = None
    most: int = 6
    everything: bool = False
    per_page: int | None = None
    zoom: str = ""
    rest: bool = False
    smooth: str = ""
    style: str = "paper"
    dpi: int | None = None
    refine: int = 0

    @property
    def look(self) -> plot.Style:
        """The style, with the resolution asked for."""
        return look(self.style, self.dpi)


def look(name: str, dpi: int | None) -> plot.Style:
    """Return a style, with another resolution if one is given."""
    return plot.style(name) if dpi is None else plot.style(name, dpi=dpi)


def run(request: Request, output: Path) -> None:
    """Draw spectra of files; say which ones could not be used, and why."""
    plot.numbered(output, 1)
    inputs = [*request.files] if request.model is None else [*request.files, request.model]
    check_outputs([output], inputs)
    zoom = plot.zooms(request.zoom) if request.zoom else []
    kernel = plot.kernel(request.smooth) if request.smooth else None
    sizes = request.look
    models = Models(request.model)
    models.check()
    panels, left = _panels(request, models)
    if kernel is not None:
        panels = [plot.smoothed(one, kernel) for one in panels]
    per_page = request.per_page or (3 if output.suffix == ".pdf" else 6)
    pages = -(-len(panels) // per_page)
    paths = plot.numbered(output, pages)
    check_outputs(paths, inputs)
    save(plot.pages(panels, per_page, sizes, request.rest, zoom), paths, sizes)
    there = "the file" if len(request.files) == 1 else "the files"
    told = f", {pages} pages" if pages > 1 else ""
    told += f", {left} more in {there}" if left else ""
    names = str(output) if len(paths) == 1 else f"{paths[0]} to {paths[-1].name}"
    print(printable(f"{names}: {len(panels)} spectra{told}"))


def save(figures: Iterable[Figure], paths: Sequence[Path], sizes: plot.Style) -> None:
    """Write pictures, each whole or not at all: one a path, or all as pages of one .pdf."""
    if len(paths) == 1:
        with replacing(paths[0]) as temporary:
            plot.write(figures, [temporary], sizes)
        return
    for figure, path in zip(figures, paths, strict=True):
        with replacing(path) as temporary:
            plot.write([figure], [temporary], sizes)


def _panels(request: Request, models: Models) -> tuple[list[plot.Panel], int]:
    """Return what to draw, and how many usable spectra are left out.

    Raises:
        SpenderError: There is nothing to draw.
    """
    panels: list[plot.Panel] = []
    left, failed, causes = 0, [], []
    for file in request.files:
        try:
            drawn, more, unused = _of_file(file, request, models)
        except SpenderError as error:
            if len(request.files) == 1:
                raise
            print(printable(f"not used: {redacted(file)}: {error}"), file=sys.stderr)
            failed.append(error)
            continue
        panels += drawn
        left += more
        causes += unused
    if panels:
        return panels, left
    if failed:
        raise failed[0]
    where = ", ".join(map(redacted, request.files))
    raise NoSpectraError(
        f"no usable spectrum in {where} ({'; '.join(causes)}); --all keeps flagged ones"
    )


def _of_file(
    file: str, request: Request, models: Models
) -> tuple[list[plot.Panel], int, list[str]]:
    """Return what to draw of a file, how many spectra are left, and why others are not used."""
    instrument = registry.recognise(file)
    content = read(instrument, file, request.everything, models.use_lsf(instrument))
    unused = [f"{name}: {cause}" for name, cause in content.rejected]
    for told in unused:
        print(printable(f"not used: {told}"), file=sys.stderr)
    if not content.rows:
        return [], 0, unused
    batch = content.batch[content.rows[: request.most]]
    if request.z is not None:
        batch = _with_z(batch, request.z, instrument)
    return (
        _drawn(batch, instrument, models, request.refine),
        len(content.rows) - len(batch),
        unused,
    )


def _with_z(batch: SpectrumBatch, z: float, instrument: Instrument) -> SpectrumBatch:
    """Return a batch, normalised anew, in which spectra without a redshift have one."""
    unknown = batch.z.isnan()
    told = batch.flags & ~int(Flag.NO_Z | Flag.NORM_RMS)
    return instrument.prepare(
        batch.replace(
            z=batch.z.masked_fill(unknown, z), flags=torch.where(unknown, told, batch.flags)
        )
    )


def _drawn(
    batch: SpectrumBatch, instrument: Instrument, models: Models, refine: int
) -> list[plot.Panel]:
    model = models.for_instrument(instrument)
    result = encode(model, batch, keep=True, refine=refine)
    name = model.card.name if model.card else type(model).__name__
    panels = []
    for row in range(len(batch)):
        made, made_row = result.made.get(row, (None, None))
        chi2 = float(result.chi2[row])
        notes = f"{instrument.name}, {name}   S/N {float(batch.snr[row]):.1f}"
        notes += f"   χ²/ν = {chi2:.2f}" if chi2 == chi2 else ""
        panels.append(
            plot.panel(
                batch,
                row,
                instrument,
                made,
                made_row,
                title=plain(batch.label(row)),
                unit=UNIT,
                notes=plain(notes),
                wave_rest=model.wave_rest,
            )
        )
    return panels


def plain(text: str) -> str:
    """Return text as it may be drawn: without escapes, and no $, which would begin a formula."""
    return printable(text).replace("$", r"\$")
