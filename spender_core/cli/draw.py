"""`spender plot`: the spectra of a file, with reconstructions and residuals."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from spender_core import registry
from spender_core.archives.location import redacted
from spender_core.archives.writing import replacing
from spender_core.batch import Flag
from spender_core.cli.outputs import check_outputs
from spender_core.cli.spectra import Models, encode, read
from spender_core.errors import InputError, NoSpectraError
from spender_core.plot import Panel, panel, spectra
from spender_core.records import printable

FORMATS = (".png", ".pdf", ".svg")
UNIT = "10⁻¹⁷ erg s⁻¹ cm⁻² Å⁻¹"


def run(
    file: str, output: Path, wanted: str | None, z: float | None, most: int, everything: bool
) -> None:
    """Draw at most `most` spectra of a file; say which ones could not be used, and why."""
    if output.suffix not in FORMATS:
        raise InputError(f"cannot draw {output}: its name must end in {', '.join(FORMATS)}")
    check_outputs([output], [file] if wanted is None else [file, wanted])
    models = Models(wanted)
    models.check()
    instrument = registry.recognise(file)
    content = read(instrument, file, everything)
    for name, cause in content.rejected:
        print(printable(f"not used: {name}: {cause}"), file=sys.stderr)
    if not content.rows:
        causes = "; ".join(f"{name}: {cause}" for name, cause in content.rejected)
        raise NoSpectraError(
            f"no usable spectrum in {redacted(file)} ({causes}); --all keeps flagged ones"
        )
    batch = content.batch[content.rows[:most]]
    if z is not None:
        unknown = batch.z.isnan()
        told = batch.flags & ~int(Flag.NO_Z | Flag.NORM_RMS)
        batch = instrument.prepare(
            batch.replace(
                z=batch.z.masked_fill(unknown, z), flags=torch.where(unknown, told, batch.flags)
            )
        )
    model = models.for_instrument(instrument)
    result = encode(model, batch, keep=True)
    name = model.card.name if model.card else type(model).__name__
    panels = []
    for row in range(len(batch)):
        made, made_row = result.made.get(row, (None, None))
        chi2 = float(result.chi2[row])
        label = printable(batch.label(row)).replace("$", r"\$")  # which would begin a formula
        title = f"{label}   {instrument.name}, {name}   S/N {float(batch.snr[row]):.1f}"
        title += f"   χ²/ν = {chi2:.2f}" if chi2 == chi2 else ""
        panels.append(panel(batch, row, instrument, made, made_row, title, UNIT))
    save(panels, output)
    left = len(content.rows) - len(batch)
    more = f", {left} more in the file" if left else ""
    print(printable(f"{output}: {len(batch)} spectra{more}"))


def save(panels: list[Panel], output: Path) -> None:
    """Write a picture, whole or not at all."""
    with replacing(output) as temporary:
        spectra(panels).savefig(temporary, dpi=150)
