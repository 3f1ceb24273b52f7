"""A correct instrument with a file of it, and mutants that differ from it in one fault each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from astropy.table import Table as Rows

from spender_core import Instrument, Loader, SpectrumBatch
from spender_core.archives.fits.opening import open_fits
from spender_core.errors import SpenderError
from spender_core.grid import Linear, Log, Table
from spender_core.interfaces import Source
from spender_core.line_spread import BandedLSF, GaussianLSF
from spender_core.testing import Example, Line

GRID = Linear(4000.0, 0.8, 2500)
LINE = Line(5200.0, 50.0, 0, 2.0)
Z = (0.1, np.nan, 0.3, 0.05)
SIGMA = 1.5  # pixels
BAD = (1, 300)
NOISE = 0.5


def write(folder: Path) -> Example:
    """Write two files of four spectra each; the first has the line."""
    paths = []
    for number in range(2):
        rng, wave = np.random.default_rng(number), GRID.wave
        flux = 5 + 0.02 * rng.standard_normal((4, GRID.size))
        profile = np.exp(-0.5 * ((wave - LINE.wave) / 2.0) ** 2) / (2.0 * np.sqrt(2 * np.pi))
        flux[LINE.row] += LINE.flux * profile
        mask = np.zeros(flux.shape, dtype="i4")
        mask[BAD], flux[BAD] = 4, np.nan
        columns = {
            "OBJECT": 10 * number + np.arange(4)[::-1], "Z": Z, "FLUX": flux,
            "SIGMA": np.full(flux.shape, NOISE), "MASK": mask, "LSF": np.full(flux.shape, SIGMA),
        }  # fmt: skip
        hdu = fits.BinTableHDU(Rows(columns), name="CORRECT")
        path = folder / f"correct{number}.fits"
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
        paths.append(path)
    ids = [(3,), (2,), (1,), (0,)]
    return Example(
        tuple(paths), LINE, ids=ids, z=Z, sigma=SIGMA, bad=BAD, ivar=(2, 7, NOISE**-2), root=folder
    )


class CorrectLoader(Loader):
    """Reads the files."""

    id_dtype = np.dtype([("OBJECT", "i8")])

    def recognises(self, url):
        with open_fits(url) as hdus:
            return "CORRECT" in hdus

    def columns(self, url):
        with open_fits(url) as hdus:
            rows = hdus["CORRECT"].data
            native = {name: np.asarray(rows[name]) for name in rows.names}
        return {name: v.astype(v.dtype.newbyteorder("=")) for name, v in native.items()}

    def clean(self, rows):
        good = (rows["MASK"] == 0) & np.isfinite(rows["FLUX"])
        ivar = np.where(good, rows["SIGMA"] ** -2, 0)
        return np.where(good, rows["FLUX"], 0), ivar

    def load(self, url):
        rows = self.columns(url)
        flux, ivar = self.clean(rows)
        ids = np.zeros(len(flux), dtype=self.id_dtype)
        ids["OBJECT"] = rows["OBJECT"]
        return SpectrumBatch(
            torch.tensor(flux, dtype=torch.float32), torch.tensor(ivar, dtype=torch.float32),
            z=np.array(rows["Z"], dtype=float), ids=ids, instrument="correct",
        )  # fmt: skip

    def load_with_lsf(self, url):
        sigma = torch.tensor(self.columns(url)["LSF"], dtype=torch.float32)
        return self.load(url).replace(lsf=GaussianLSF(sigma))

    def locate(self, ids, root, release):
        rows = [tuple(one) for one in ids]
        return [Source((f"{root}/correct{n // 10}.fits",), {"OBJECT": n}) for (n,) in rows]

    def load_rows(self, url, rows, lsf):
        batch = self.load_with_lsf(url) if lsf else self.load(url)
        ((field, values),) = rows.items()
        return batch[np.isin(batch.ids[field], values)]

    def load_many(self, asked, lsf):
        parts, slices, place = [], [], 0
        for urls in asked:
            try:
                part = self.load_with_lsf(urls[0]) if lsf else self.load(urls[0])
            except SpenderError as error:
                slices.append(error)
                continue
            parts.append(part)
            slices.append(slice(place, place + len(part)))
            place += len(part)
        return (SpectrumBatch.cat(parts) if parts else None), slices


class Correct(Instrument):
    """The correct instrument."""

    name = "correct"
    grid = GRID
    loader = CorrectLoader()


def air_of(wave):
    """Wavelengths in air, by another formula than core's: Edlen 1953, J. Opt. Soc. Am. 43, 339."""
    s2 = (1e4 / wave) ** 2
    return wave / (1 + 6.4328e-5 + 2.94981e-2 / (146 - s2) + 2.5540e-4 / (41 - s2))


STATE = []  # what only the process has that fills it


class Reversed(Correct):
    @property
    def grid(self):
        return Table(GRID.wave[::-1])


class Drifting(Correct):
    made = 0

    def __init__(self):
        type(self).made += 1
        self.grid = Linear(4000.0 + 1e-9 * self.made, 0.8, 2500)


class Overriding(Correct):
    @property
    def wave(self):
        return GRID.wave[:-1]


class Long(Linear):
    def _nodes(self):
        return np.append(super()._nodes(), 6000.0)


class Counting(CorrectLoader):
    count = 0

    def load(self, url):
        self.count += 1
        batch = super().load(url)
        return batch[::-1] if self.count % 2 else batch


class Varying(CorrectLoader):
    count = 0

    def load(self, url):
        self.count += 1
        batch = super().load(url)
        return batch.replace(flux=batch.flux + 1e-6 * self.count)


class Locked(CorrectLoader):
    def __init__(self):
        self.opener = lambda url: url


class Remembering(CorrectLoader):
    def load(self, url):
        STATE[0]
        return super().load(url)


class Holding(Correct):
    def __init__(self):
        self.loader = Locked()


class Forgetful(Correct):
    grid = Linear(4000.0, 0.4, 2500)

    def __init__(self):
        self.grid = GRID

    def __reduce__(self):
        return object.__new__, (Forgetful,)


class Opening(CorrectLoader):
    def columns(self, url):
        with open(url, "rb") as file, fits.open(file) as hdus:
            rows = hdus[1].data
            native = {name: np.asarray(rows[name]) for name in rows.names}
        return {name: v.astype(v.dtype.newbyteorder("=")) for name, v in native.items()}


class Single(Correct):
    def prepare(self, raw):
        if raw.flux.dtype == torch.float64:
            raise TypeError("expected float32 spectra")
        return super().prepare(raw)


class Unprepared(Correct):
    def prepare(self, raw):
        batch = super().prepare(raw)
        return batch.replace(norm=torch.ones_like(batch.norm))


def _with(**members):
    return type("Mutant", (Correct,), members)


def _loading(**members):
    return _with(loader=type("MutantLoader", (CorrectLoader,), members)())


def _changed(change):
    return _loading(load=lambda self, url: change(CorrectLoader.load(self, url)))


def _cleaned(change):
    return _loading(clean=lambda self, rows: change(*CorrectLoader.clean(self, rows), rows))


def _doubled(batch):
    batch.ids["OBJECT"][1] = batch.ids["OBJECT"][0]
    return batch


def _texts(batch):
    names = [(str(one[0]),) for one in batch.ids]
    return batch.replace(ids=np.array(names, dtype=[("OBJECT", "U4")]))


def _lsf(make):
    def load_with_lsf(self, url):
        batch = self.load(url)
        return batch.replace(lsf=make(batch.flux.shape))

    return _loading(load_with_lsf=load_with_lsf)


def _swapped(self, asked, lsf):
    together, slices = CorrectLoader.load_many(self, asked, lsf)
    good = [one for one in slices if isinstance(one, slice)][::-1]
    return together, [good.pop(0) if isinstance(one, slice) else one for one in slices]


LOG = Log(np.log10(4000), np.log10(GRID.wave[-1] / 4000) / 2499, 2500)

MUTANTS = {
    "name of two words": (_with(name="not one"), "name", "identifier"),
    "unit in nm": (_with(grid=Linear(400.0, 0.08, 2500)), "line wavelength", "nm, not Angstrom"),
    "unit in micron": (_with(grid=Linear(0.4, 8e-5, 2500)), "grid increases", "from 0.4 to 0.59992"),
    "air grid": (_with(grid=Table(air_of(GRID.wave))), "line wavelength", "shift of air"),
    "reversed grid": (Reversed, "grid increases", "increase strictly"),
    "reversed flux": (
        _changed(lambda b: b.replace(flux=b.flux.flip(1), ivar=b.ivar.flip(1))),
        "line wavelength", "reversed order",
    ),
    "half a pixel": (_with(grid=Linear(4000.4, 0.8, 2500)), "line wavelength", "+0.49 pixel"),
    "log taken as linear": (_with(grid=LOG), "line wavelength", "spacing"),
    "wave overridden": (Overriding, "grid increases", "2499 in wave"),
    "size of the grid": (_with(grid=Long(4000.0, 0.8, 2500)), "model", "(2, 2501)"),
    "drifting grid": (Drifting, "grid is stable", "same grid"),
    "mask of wrong shape": (_with(mask=np.zeros(1999, dtype=bool)), "mask", "shape (1999,)"),
    "mask inverted": (_with(mask=GRID.wave > 4100), "mask", "inverted"),
    "recognises nothing": (_loading(recognises=lambda self, url: False), "recognises", "is false"),
    "NaN leak": (_cleaned(lambda f, i, rows: (rows["FLUX"], i)), "loads", "flux must be finite"),
    "negative ivar": (_cleaned(lambda f, i, rows: (f, np.where(i > 0, i, -1))), "loads", "ivar must"),
    "wrong shape": (
        _changed(lambda b: b.replace(flux=b.flux[:, 1:], ivar=b.ivar[:, 1:])), "loads",
        "wrong shape (4, 2499)",
    ),
    "normalised": (
        _changed(lambda b: b.replace(flux=b.flux / 5, ivar=b.ivar * 25, norm=b.norm * 5)),
        "not normalised", "the loader normalised",
    ),
    "norm lost": (
        _changed(lambda b: b.replace(flux=b.flux / 5, ivar=b.ivar * 25)), "line flux",
        "0.199 times",
    ),
    "norm undone": (Unprepared, "read normalises", "differs from the loader's flux"),
    "pixels' mask inverted": (
        _cleaned(lambda f, i, rows: (f, np.where(i > 0, 0, 4.0))), "good pixels", "inverted",
    ),
    "ivar at bad pixels": (
        _cleaned(lambda f, i, rows: (f, np.full_like(i, 4.0))), "bad pixel", "ivar 4",
    ),
    "ivar is sigma": (
        _cleaned(lambda f, i, rows: (f, np.where(i > 0, NOISE, 0))), "ivar",
        "that is the standard deviation",
    ),
    "ivar is the variance": (
        _cleaned(lambda f, i, rows: (f, np.where(i > 0, NOISE**2, 0))), "ivar", "the variance",
    ),
    "z in km/s": (_changed(lambda b: b.replace(z=b.z * 299792.458)), "redshifts", "km/s"),
    "z 0 if unknown": (_changed(lambda b: b.replace(z=b.z.nan_to_num(0.0))), "redshifts", "NaN"),
    "flags of the survey": (
        _changed(lambda b: b.replace(flags=b.flags + 2**20)), "flags", "1048576",
    ),
    "all rejected": (
        _changed(lambda b: b.replace(flags=b.flags + 4)), "flags", "redshift warning",
    ),
    "wrong unit of flux": (_changed(lambda b: b.replace(flux=b.flux * 10)), "line flux", "9.97 times"),
    "duplicate id": (_changed(_doubled), "ids", "a duplicate id: (3,) comes 2 times"),
    "ids of another dtype": (_changed(_texts), "ids", "'<U4'"),
    "unstable order": (_with(loader=Counting()), "stable", "unstable"),
    "unstable values": (_with(loader=Varying()), "stable", "differ the second time"),
    "ids in another order": (
        _changed(lambda b: b.replace(ids=b.ids[::-1])), "ids of example", "the order differs",
    ),
    "ids misled": (
        _loading(locate=lambda self, ids, *more: CorrectLoader.locate(self, ids[::-1], *more)),
        "by id", "[(3,), (2,), (1,), (0,)]",
    ),
    "files swapped": (_loading(load_many=_swapped), "load many", "swapped"),
    "files joined backwards": (_loading(load_many=_swapped), "joined in order", "swapped"),
    "rows in wrong order": (
        _loading(load_rows=lambda s, u, r, lsf: CorrectLoader.load_rows(s, u, r, lsf)[::-1]),
        "load rows", "wrong order",
    ),
    "LSF not normalised": (
        _lsf(lambda shape: BandedLSF(torch.full((shape[0], 3, shape[1]), 0.5), (1, 0, -1))),
        "lsf", "turns 1 into 1.5",
    ),
    "LSF of wrong shape": (_lsf(lambda s: GaussianLSF(torch.ones(s[0], s[1] - 1))), "lsf", "shape"),
    "LSF in Angstrom": (
        _lsf(lambda shape: GaussianLSF(torch.full(shape, SIGMA * GRID.step))), "lsf width",
        "that is Angstrom",
    ),
    "LSF as FWHM": (
        _lsf(lambda shape: GaussianLSF(torch.full(shape, SIGMA * 2.3548))), "lsf width", "FWHM",
    ),
    "opened by open()": (_with(loader=Opening()), "remote equals local", "remote file"),
    "not picklable": (Holding, "pickles", "pickle"),
    "forgets its grid": (Forgetful, "pickles", "same name and grid"),
    "state of one process": (_with(loader=Remembering()), "spawned process", "IndexError"),
    "float64 refused": (Single, "precision", "torch.float64 is refused"),
}  # fmt: skip
"""Each with the check that must fail, and words of its message."""


def _importable(made):
    """Give classes that were made above a name in this module, so that they can be pickled."""
    for place, (instrument, _, _) in enumerate(made.values()):
        for one, generic in ((instrument, "Mutant"), (type(instrument.loader), "MutantLoader")):
            if one.__name__ == generic:
                one.__name__ = one.__qualname__ = f"{generic}{place}"
                one.__module__ = __name__
                globals()[one.__name__] = one


_importable(MUTANTS)
