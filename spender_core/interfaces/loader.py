"""The interface that reads an instrument's files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.catalogues.scanning import Catalogue, CatalogueRequest
from spender_core.archives.fits.opening import reading
from spender_core.archives.releases import Cutouts
from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError, SpenderError


@dataclass(frozen=True)
class Source:
    """Where the spectra of one id are: a file, and rows of it.

    Attributes:
        urls: Where the file may be; the first that exists is read.
        rows: Id fields that the wanted rows have, e.g. {"TARGETID": 39627}; all rows
            if empty.
    """

    urls: tuple[str, ...]
    rows: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FileConditions:
    """What a file tells of how its spectra were taken, row by row as `Loader.load` reads them.

    Mock surveys are made from it (`spender_core.datasets.mock.conditions`). Arrays are on the
    instrument's grid; a value that the file lacks is NaN.

    Attributes:
        equal_light: Flux of an object whose photons would double the variance, shape (N, L),
            1e-17 erg/s/cm2/Angstrom. Where photons of the sky are all the noise, it is the
            flux of the sky.
        sigma: Standard deviation of a Gaussian line spread function, shape (N, L), pixels.
        resolution: Or the line spread function itself, shape (N, K, L), K odd: element k of
            column j is the share of pixel j that falls into pixel j + k - K // 2.
        seams: Wavelengths at which the arms of the spectrograph meet, Angstrom.
    """

    equal_light: NDArray[np.float64]
    sigma: NDArray[np.float64] | None = None
    resolution: NDArray[np.float64] | None = None
    seams: tuple[float, ...] = ()


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that raises nothing but a SpenderError, which names the file."""

    @wraps(method)
    def guarded(self: Any, url: str, *more: Any) -> Any:
        with reading(url):
            return method(self, url, *more)

    return guarded


class Loader(ABC):
    """Reads the files of one instrument onto its grid. Three members are required.

    Masking of sky lines, normalisation and quality cuts are done by `Instrument.read`.

    Whatever `recognises`, `load`, `load_with_lsf`, `load_rows` and `conditions` raise of a damaged
    file becomes a `FileError` that names it, so an implementation need not foresee how files can
    be damaged.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("recognises", "load", "load_with_lsf", "load_rows", "conditions"):
            if name in vars(cls):
                setattr(cls, name, _guarded(vars(cls)[name]))

    whole: ClassVar[bool] = False
    """Whether files are small, and all of each is needed: then remote ones are fetched whole,
    many at a time, before `load` opens them."""

    dataset_columns: Mapping[str, str] = {}
    """Optional: which fields of the ids name an object, and their columns in a dataset, e.g.
    {"TARGETID": "target_id"}. The split of a spectrum hangs on these alone, so that an object
    which is read from several places stays in one. Default: all integers, in lower case."""

    @property
    @abstractmethod
    def id_dtype(self) -> np.dtype[np.void]:
        """Fields that identify a spectrum, with the survey's own names.

        Example:
            `np.dtype([("PLATE", "i8"), ("MJD", "i8"), ("FIBERID", "i8")])`
        """

    @abstractmethod
    def recognises(self, url: str) -> bool:
        """Tell from its content whether a file comes from this instrument.

        A file of this instrument that `load` refuses is recognised all the same.

        Raises:
            FileError: The file cannot be opened.
        """

    @abstractmethod
    def load(self, url: str) -> SpectrumBatch:
        """Read every spectrum of a file, on the instrument's grid.

        Returns:
            A batch with ids, with flux and ivar as in the archive (norm absent),
            ivar 0 in masked pixels, z and zerr where the survey tells them, and what
            the survey says of the quality in `flags`. No row is left out.

        Raises:
            FileError: The file is missing, damaged, or holds no coadded spectra.
        """

    def load_with_lsf(self, url: str) -> SpectrumBatch:
        """Read what `load` reads, and with it the line spread function of each spectrum.

        Optional: `read(..., lsf=True)` of an instrument without it is refused.

        Returns:
            What `load` returns, and its `lsf`: a `line_spread.GaussianLSF` or `BandedLSF`, or
            any other `SpectrumLSF`.

        Raises:
            FileError: As of `load`; or the file does not tell the line spread function.
        """
        raise _no_lsf(self)

    def load_rows(self, url: str, rows: Mapping[str, tuple[Any, ...]], lsf: bool) -> SpectrumBatch:
        """Read only the spectra that ids ask for, so that little of a large file is moved.

        Optional: without it the file is loaded, and rows are taken from it.

        Args:
            url: The file's path or URL.
            rows: Id fields and the values that are wanted, e.g. {"TARGETID": (39627, 39628)};
                a row is wanted if it has one of the values in each field.
            lsf: Read what `load_with_lsf` reads.

        Returns:
            The wanted spectra, in the order of the file; ids that it lacks are just absent.

        Raises:
            FileError: As of `load` and `load_with_lsf`.
        """
        raise NotImplementedError

    def load_many(
        self, files: Sequence[Sequence[str]], lsf: bool
    ) -> tuple[SpectrumBatch | None, list[slice | SpenderError]]:
        """Read small files together, since a batch for each costs more than reading it.

        Optional: without it `load` is called for each file.

        Args:
            files: For each, where it may be; the first place that exists is read.
            lsf: Read what `load_with_lsf` reads.

        Returns:
            One batch of all that could be read, in order, None if nothing could; and for each
            file which rows of it are its own, or the error of `load` for it.
        """
        raise NotImplementedError

    @property
    def loads_many(self) -> bool:
        """Whether the loader has `load_many`."""
        return type(self).load_many is not Loader.load_many

    @property
    def reads_rows(self) -> bool:
        """Whether the loader has `load_rows`."""
        return type(self).load_rows is not Loader.load_rows

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        """Return where in the survey's archive each id is.

        Optional: an instrument without it reads from paths only.

        Args:
            ids: Ids as the survey writes them, tuples or rows of a structured array.
            root: Folder or URL that holds a copy of the archive; None for the survey's own.
            release: Name of a data release; None for the default.
        """
        raise InputError(
            f"{type(self).__name__} knows no archive, so it cannot find ids such as {ids[0]!r}; "
            "give paths or URLs of files"
        )

    def catalogue(self, asked: CatalogueRequest) -> Catalogue:
        """Return the survey's tables that answer a query, and what their columns mean.

        Optional: an instrument without it answers no queries.

        Args:
            asked: Part of the sky, target classes and cuts, and where to look.
        """
        raise InputError(
            f"{type(self).__name__} knows no catalogue, so it answers no queries; give ids, or "
            "paths of files"
        )

    def positions(self, url: str) -> NDArray[np.void]:
        """Return where on the sky the objects of a file are.

        Optional: images of an instrument without it are of positions only, not of ids.

        Returns:
            For each row, in fields RA and DEC, right ascension and declination, degrees; and the
            fields of `Source.rows`.
        """
        raise InputError(
            f"{type(self).__name__} does not read positions; give right ascension and declination"
        )

    def cutouts(self) -> Cutouts:
        """Return the service that images of the sky come from.

        Optional: an instrument without it has no images.
        """
        raise InputError(f"{type(self).__name__} knows no service that has images of the sky")

    def conditions(self, url: str) -> FileConditions:
        """Return what a file tells of how its spectra were taken, beyond their ivar.

        Optional: mocks of an instrument without it have parametric noise.
        """
        raise InputError(
            f"{type(self).__name__} does not read how the spectra of a file were taken; make mocks "
            "with Conditions.parametric instead"
        )


def check_reads_lsf(loader: Loader) -> None:
    """Check that a loader has the optional method `load_with_lsf`.

    Raises:
        InputError: It has not.
    """
    if type(loader).load_with_lsf is Loader.load_with_lsf:
        raise _no_lsf(loader)


def _no_lsf(loader: Loader) -> InputError:
    return InputError(
        f"{type(loader).__name__} does not read line spread functions; read without lsf=True, and "
        "give them with batch.replace(lsf=...) if they are known otherwise"
    )
