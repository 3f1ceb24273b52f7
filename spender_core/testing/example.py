"""What a file of an instrument holds: the truth that checks compare with what is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """An emission line in a spectrum, as the file's author knows it.

    Attributes:
        wave: where the line is observed, in vacuum Angstrom (restframe times 1 + z).
        flux: what it holds above the continuum: the archive's flux unit times Angstrom.
        row: row of the spectrum that has it, in the first file, as `load` gives it.
        sigma: width of the line in the file, in Angstrom; None if it is not known.
    """

    wave: float
    flux: float
    row: int = 0
    sigma: float | None = None


@dataclass(frozen=True)
class Example:
    """Files of an instrument, and what is true of them. Only `paths` is required.

    A function named by `InstrumentSpec.example` takes a folder, writes files of the instrument
    into it, and returns this; `spender check NAME` and the contract tests read them.

    Attributes:
        paths: files that `load` reads, each with at least one usable spectrum.
        line: a line in a spectrum of the first file. Without it wavelengths are not compared.
        ids: the ids of the first file, in the order in which `load` gives them: a tuple of the
            fields of `Loader.id_dtype` each. Empty: not compared.
        z: redshifts of the first file's spectra, NaN where the survey has none. Empty: not compared.
        sigma: width of the LSF of `line`'s spectrum, in pixels, at the line. None: not compared.
        bad: row and pixel of a pixel that the survey masked in the first file. None: not compared.
        ivar: row, pixel and inverse variance of a pixel in the first file, in the archive's
            flux unit to the power -2. None: not compared.
        root: folder that is an archive of such files, from which `read` takes `ids`, by way of
            `Loader.locate`. None: not tried.

    Example:
        >>> from pathlib import Path
        >>> Example((Path("mine.fits"),), line=Line(wave=6564.6, flux=120.0)).line.wave
        6564.6
    """

    paths: tuple[Path, ...]
    line: Line | None = None
    ids: Sequence[tuple[object, ...]] = field(default=())
    z: Sequence[float] = field(default=())
    sigma: float | None = None
    bad: tuple[int, int] | None = None
    ivar: tuple[int, int, float] | None = None
    root: Path | None = None
