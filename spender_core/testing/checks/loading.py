"""Checks of what `load` and `read` give: shapes, values, ivar, redshifts, normalisation."""

from __future__ import annotations

import numpy as np
import torch

from spender_core.batch import Flag
from spender_core.testing.faults import NotApplicable, expect
from spender_core.testing.subject import Subject

_KNOWN = sum(map(int, Flag))
_FARTHEST = 20.0
"""Redshift beyond any spectrum's: galaxies are known to 15."""


def check_recognises(subject: Subject) -> None:
    """The loader recognises its files."""
    for path in subject.example.paths:
        expect(
            subject.loader.recognises(str(path)),
            expected=f"recognises({path.name}) is true",
            found="it is false",
            fix="look for what only files of this instrument have: a name of an HDU or of a column",
        )


def check_loads(subject: Subject) -> None:
    """Every file gives spectra on the grid of the instrument, under its name."""
    size = subject.instrument.grid.size
    for path in subject.example.paths:
        batch = subject.raw(path)
        expect(
            len(batch) > 0 and batch.flux.shape[1] == size,
            expected=f"flux of shape (spectra, {size}), as the grid has {size} pixels",
            found=f"wrong shape {tuple(batch.flux.shape)}",
            fix="place pixels of the file on the grid, with ivar 0 where the file has none",
        )
        expect(
            batch.instrument == subject.instrument.name,
            expected=f"the batch says instrument={subject.instrument.name!r}",
            found=repr(batch.instrument),
            fix="give SpectrumBatch the instrument's name",
        )


def check_not_normalised(subject: Subject) -> None:
    """The loader does not normalise: core does."""
    norm = subject.raw().norm
    expect(
        (norm == 1).all(),
        expected="norm is 1 in what load gives",
        found=f"norm {float(norm[norm != 1][0]) if bool((norm != 1).any()) else 1:g}: the loader normalised",
        fix="return the archive's flux and leave norm out; Instrument.read normalises",
    )


def check_read_normalises(subject: Subject) -> None:
    """Flux * norm of `read` is the archive's flux, ivar / norm^2 its ivar; masked pixels have 0."""
    raw = subject.raw()
    one = subject.instrument
    batch = one.read(str(subject.example.paths[0]), quality=False)
    expect(
        torch.allclose(batch.flux.double() * batch.norm[:, None], raw.flux.double(), 1e-4, 1e-6),
        expected="read gives flux / norm of the same spectra, in the order of load",
        found="flux * norm differs from the loader's flux",
        fix="leave `prepare` of the instrument to core, and let load give the same each time",
    )
    if one.mask is not None:
        expect(
            not batch.good[:, torch.from_numpy(one.mask)].any(),
            expected="pixels of the instrument's mask have ivar 0 after read",
            found="some are good",
            fix="leave `prepare` of the instrument to core",
        )


def check_good_pixels(subject: Subject) -> None:
    """Some spectrum has more good pixels than bad ones."""
    good = subject.raw().good.double().mean(dim=1)
    expect(
        good.max() > 0.5,
        expected="most pixels of an ordinary spectrum have ivar > 0",
        found=f"{float(good.max()):.0%} at most: is the mask inverted?",
        fix="let ivar be 0 where the file's mask says bad, and only there",
    )


def check_bad_pixel(subject: Subject) -> None:
    """A pixel that the survey masked has ivar 0."""
    if subject.example.bad is None:
        raise NotApplicable("the example states no bad pixel")
    row, pixel = subject.example.bad
    ivar = float(subject.raw().ivar[row, pixel])
    expect(
        ivar == 0,
        expected=f"ivar 0 at the bad pixel {pixel} of row {row}, which the survey masked",
        found=f"ivar {ivar:g}",
        fix="let load apply the file's mask: ivar[mask != 0] = 0",
    )


def check_ivar(subject: Subject) -> None:
    """The inverse variance is that of the file."""
    if subject.example.ivar is None:
        raise NotApplicable("the example states no inverse variance")
    row, pixel, truth = subject.example.ivar
    found = float(subject.raw().ivar[row, pixel])
    likely = {"the standard deviation sigma": truth**-0.5, "the variance": 1 / truth,
              "1 / sigma": truth**0.5}  # fmt: skip
    close = [f"; that is {what}" for what, v in likely.items() if abs(found / v - 1) < 1e-3]
    expect(
        abs(found / truth - 1) < 1e-3,
        expected=f"inverse variance {truth:g} at pixel {pixel} of row {row}",
        found=f"ivar {found:g}{''.join(close[:1])}",
        fix="ivar is sigma ** -2, in the unit of flux to the power -2",
    )


def check_redshifts(subject: Subject) -> None:
    """Redshifts are z = v / c, NaN where unknown, and those of the file."""
    z = subject.raw().z.double().numpy()
    worst = np.nanmax(np.abs(z), initial=0.0)
    expect(
        worst < _FARTHEST,
        expected=f"redshifts below {_FARTHEST:g}, NaN where unknown",
        found=f"z = {worst:g}" + ("; is it a velocity in km/s?" if worst > 50 else ""),
        fix="divide velocities by 299792.458 km/s; set NaN where the survey has no redshift",
    )
    truth = np.asarray(subject.example.z, dtype=float)
    if not len(truth):
        return
    expect(
        z.shape == truth.shape and np.allclose(z, truth, rtol=0, atol=1e-5, equal_nan=True),
        expected=f"z = {truth.tolist()[:4]}, in this order, NaN where the survey has none",
        found=f"{np.round(z, 6).tolist()[:4]}",
        fix="give z in the order of the spectra, float64, and NaN in place of 0 or -9 if unknown",
    )


def check_flags(subject: Subject) -> None:
    """Flags are bits of Flag, and some spectrum passes the quality cuts."""
    flags = torch.cat([subject.raw(path).flags for path in subject.example.paths])
    expect(
        flags.min() >= 0 and flags.max() <= _KNOWN,
        expected="flags are sums of members of spender_core.Flag",
        found=f"flags from {int(flags.min())} to {int(flags.max())}",
        fix="translate the survey's own flags, e.g. np.where(zwarn != 0, int(Flag.Z_WARNING), 0)",
    )
    rejected = flags & int(subject.instrument.rejects)
    expect(
        (rejected == 0).any(),
        expected="some spectrum passes the quality cuts",
        found=f"all are rejected; the first for: {', '.join(Flag(int(rejected[0])).causes)}",
        fix="set flags only where a spectrum should be left out, or give a file with a good one",
    )
