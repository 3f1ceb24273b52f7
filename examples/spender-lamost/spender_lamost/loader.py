"""Reads the files: from FITS to arrays. Masking of sky lines, normalisation and cuts are core's.

Whatever goes wrong in here becomes a `FileError` that names the file, so nothing need be caught.
Shapes: B spectra of a file, always 1; L pixels of the grid; M of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spender_core import Flag, Loader, SpectrumBatch
from spender_core.archives.fits.opening import open_fits
from spender_core.errors import FileError
from spender_core.grid import Log
from spender_core.interfaces import Source
from spender_core.line_spread import GaussianLSF

from spender_lamost import archive
from spender_lamost.layouts import Recorded, is_lamost, recorded

# Resolving power, wavelength / FWHM: the one that the survey states, at 5500 Angstrom (DR10, "LRS data
# production description"). Files do not tell it, though it differs by wavelength, fibre and time;
# Liu et al. 2026, arXiv:2603.09178, measure it with arc lamps.
RESOLVING_POWER = 1800.0
FWHM_OF_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))

TOLERANCE = 0.01  # pixels: WAVELENGTH is float32, which is good to 0.0005

# Kinds of fibre (keyword FIBERTYP) that see no object, and that cannot be trusted. Others are Obj and
# F-std, a standard star. Source: https://dc.g-vo.org/lamost6/q/lrs_web/form, `fibertype`.
SKY = frozenset({"SKY"})
BROKEN = frozenset({"UNUSED", "POSERR", "DEAD"})


class LamostLoader(Loader):
    """Reads files of LAMOST's low-resolution survey, one spectrum each.

    Args:
        grid: The wavelengths of the instrument; those of files are a whole number of steps away.
    """

    # LAMOST numbers every observation of a target through a fibre: OBSID. It is one integer, by
    # which the survey's server finds a file. (LMJD, PLANID, SPID, FIBERID), of which names of files are
    # made, tell the same.
    id_dtype = np.dtype([("OBSID", "i8")])

    # A file holds one spectrum of 0.1 MB: many remote ones are fetched at once.
    whole = True

    def __init__(self, grid: Log) -> None:
        self.grid = grid

    def recognises(self, url: str) -> bool:
        """Tell whether a file, of whatever kind, is a LAMOST spectrum of low resolution."""
        with open_fits(url, contents=False) as hdus:
            return is_lamost(hdus)

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        """Return where the file of each id is, as `spender_lamost.archive` says."""
        return archive.sources(ids, root, release)

    def load(self, url: str) -> SpectrumBatch:
        """Read the spectrum of a file."""
        with open_fits(url) as hdus:
            return self._spectrum(recorded(hdus), url)

    def load_with_lsf(self, url: str) -> SpectrumBatch:
        """Read the spectrum of a file, with a Gaussian line spread function of R = 1800."""
        batch = self.load(url)
        width = self.grid.step * np.log(10.0)  # of a pixel, by its wavelength
        sigma = 1.0 / (RESOLVING_POWER * FWHM_OF_SIGMA * width)  # pixels
        return batch.replace(lsf=GaussianLSF(torch.full(batch.flux.shape, sigma)))

    def _spectrum(self, found: Recorded, url: str) -> SpectrumBatch:
        """Return a spectrum on the grid, with what its header tells."""
        # ANDMASK has the bits that all exposures of a pixel agree on; ORMASK, which also has those of
        # one exposure that the coadd could do without, is left alone. Inverse variance 0: not measured.
        trusted_M = (found.andmask == 0) & (found.ivar != 0)
        sound_M = np.isfinite(found.flux) & np.isfinite(found.ivar) & (found.ivar >= 0)
        good_M = trusted_M & sound_M

        flux_BL, ivar_BL = np.zeros((2, 1, len(self.grid)), dtype=np.float32)
        inside_M, places = self._places(found, url)
        flux_BL[0, places] = np.where(good_M, found.flux, 0)[inside_M]
        ivar_BL[0, places] = np.where(good_M, found.ivar, 0)[inside_M]

        z, zerr = redshift(found.header)
        ids = np.array([(int(found.header["OBSID"]),)], dtype=self.id_dtype)
        flags = quality(found.header, z)
        if bool((trusted_M & ~sound_M).any()):
            flags |= Flag.BAD_VALUES
        return SpectrumBatch(
            torch.from_numpy(flux_BL),
            torch.from_numpy(ivar_BL),
            z=np.array([z]),
            zerr=np.array([zerr]),
            ids=ids,
            instrument="lamost",
            flags=np.array([int(flags)]),
        )

    def _places(self, found: Recorded, url: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which pixels of a file the grid has, and their places on it.

        Raises:
            FileError: Pixels are not those of the grid, or none is on it. The file is sound, so
                that fetching it again would not help.
        """
        wave, header = found.wave, found.header
        told = f"{url} has {wave.size} pixels, {wave[0]:.2f} to {wave[-1]:.2f} Angstrom, "
        if header.get("VACUUM", True) in (False, "F"):
            raise FileError(f"{told}in air (VACUUM = F); LAMOST's are in vacuum, convert them")
        if not np.all(np.isfinite(wave) & (wave > 0)):
            raise FileError(f"{told}not all of them positive and finite")
        exact = (np.log10(wave) - self.grid.start) / self.grid.step
        places = np.round(exact).astype(np.int64)
        off = float(np.abs(exact - places).max())
        if off > TOLERANCE or np.any(np.diff(places) != 1):
            raise FileError(
                f"{told}which do not follow the grid, {self.grid}: up to {off:.2f} pixel off; "
                "LAMOST's have steps of 1e-4 in log10, from a multiple of it; rebin others, and "
                "read them with `Instrument.batch`"
            )
        inside = (places >= 0) & (places < len(self.grid))
        if not inside.any():
            raise FileError(f"{told}all outside of the grid, {self.grid}")
        return inside, places[inside]


def redshift(header: Any) -> tuple[float, float]:
    """Return z and its uncertainty: NaN and infinite where LAMOST has none, and writes -9999."""
    z = float(header.get("Z", np.nan))
    if unclassified(header) or not z > -1:
        return float("nan"), float("inf")
    zerr = float(header.get("Z_ERR", np.inf))
    return z, zerr if zerr > 0 else float("inf")


def quality(header: Any, z: float) -> Flag:
    """Return what the survey says of a spectrum: of its class and redshift, and of its fibre."""
    flags = Flag(0)
    if unclassified(header) or np.isnan(z):
        flags |= Flag.Z_WARNING
    kind = str(header.get("FIBERTYP", "Obj")).strip().upper()
    if kind in SKY:
        flags |= Flag.NOT_TARGET
    if kind in BROKEN or int(header.get("FIBERMAS", 0)) != 0:
        flags |= Flag.FIBRE
    return flags


def unclassified(header: Any) -> bool:
    """Tell whether the survey's pipeline found no class: CLASS is Unknown, in any case of letters."""
    return str(header.get("CLASS", "")).strip().upper() == "UNKNOWN"
