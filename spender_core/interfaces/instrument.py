"""The interface that describes an instrument, and what core builds on top of it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from spender_core.archives.location import redacted
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import InputError, NoSpectraError, SpenderError
from spender_core.grid import Grid
from spender_core.interfaces.arrays import from_specutils, numbers, onto_grid
from spender_core.interfaces.asked import are_paths, listed, paths_of, root_of
from spender_core.interfaces.imaging import Imaging
from spender_core.interfaces.loader import Loader, Source, check_reads_lsf
from spender_core.interfaces.locating import located
from spender_core.interfaces.querying import query_table
from spender_core.interfaces.reading import Asked, Reading, Report, Traced
from spender_core.ops.normalize import NORM_WINDOW, normalize

if TYPE_CHECKING:
    from astropy.table import Table


class Instrument(Imaging, ABC):
    """A spectrograph: its name, its grid, and how its files are read.

    A plugin implements `name`, `grid` and `loader`; class attributes will do. It may
    override `mask`, `norm_window` and `rejects`. Everything else is built on these.

    Example:
        >>> from spender_core import Instrument
        >>> from spender_core.grid import Linear
        >>> class Mine(Instrument):
        ...     name = "mine"
        ...     grid = Linear(4000.0, 2.0, 2000)
        ...     loader = None  # reads no files: spectra come in through `batch`
        >>> len(Mine().batch(Mine.grid.wave, np.ones(2000), np.ones(2000), z=0.1))
        1
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Name under which the instrument is known, e.g. "desi"."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """Observed wavelengths, vacuum Angstrom."""

    @property
    @abstractmethod
    def loader(self) -> Loader | None:
        """What reads the instrument's files; None if spectra only come in through `batch`."""

    mask: NDArray[np.bool_] | None = None
    """Pixels never to be used, shape (L,), e.g. those on bright sky lines."""

    norm_window: tuple[float, float] = NORM_WINDOW
    """Restframe range whose median normalises a spectrum, Angstrom."""

    rejects: Flag = Flag.EMPTY | Flag.NOT_TARGET | Flag.FIBRE | Flag.Z_WARNING | Flag.Z_UNCERTAIN
    """The survey's quality cuts: spectra with any of these flags are left out by `read`."""

    @property
    def wave(self) -> NDArray[np.float64]:
        """Observed wavelengths, shape (L,), vacuum Angstrom."""
        return self.grid.wave

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.grid})"

    def read(
        self,
        source: Any,
        *,
        root: str | os.PathLike[str] | None = None,
        release: str | None = None,
        quality: bool = True,
        strict: bool = False,
        lsf: bool = False,
        progress: Report | None = None,
    ) -> SpectrumBatch:
        """Read spectra, by path or by id, masked and normalised.

        Where several sources are asked for and some cannot be read, the others are
        returned with a `PartialReadWarning`, and `failures` of the batch lists the bad ones.

        Args:
            source: A path or URL, several of them, or several of the survey's ids: a list,
                an array or any other iterable that has an order; or an astropy Table with
                columns of ids, such as `query` returns.
            root: For ids: a copy of the archive (folder or URL) to read from instead
                of the survey's own.
            release: For ids: the data release.
            quality: Apply the survey's quality cuts. False keeps every row; what is
                wrong with it is in `flags`.
            strict: Raise at the first source that cannot be read.
            lsf: Read the line spread function of each spectrum too, into `lsf` of the batch.
                Models need it whose card says `lsf` is "per_spectrum". For DESI it is 5 times as
                large as the spectra, and otherwise not touched.
            progress: Called with a `Progress` after each file.

        Returns:
            The spectra in the order asked for, float32, on the host.

        Raises:
            InputError: There is nothing to read, no id is one of the survey, `root` is malformed,
                or the loader does not read line spread functions.
            FileError: A file is missing or cannot be used: the only one, each of them, or
                any of them if `strict`.
            NoSpectraError: No spectrum is left; the message says why.
        """
        reading, sources = self._reading(source, root, release, strict, lsf, progress)
        (part,) = reading.parts(sources)
        batch = self.prepare(part.joined())
        return self._cut(batch) if quality else batch

    def read_chunks(
        self,
        source: Any,
        *,
        size: int = 1024,
        root: str | os.PathLike[str] | None = None,
        release: str | None = None,
        quality: bool = True,
        strict: bool = False,
        lsf: bool = False,
        progress: Report | None = None,
    ) -> Iterator[SpectrumBatch]:
        """Read what `read` reads, some sources at a time, so that memory stays bounded.

        Args:
            source: As of `read`, and so are those below.
            size: Sources of a chunk: ids, or files.
            root: Where a copy of the archive is.
            release: The data release, for ids.
            quality: Apply the survey's quality cuts.
            strict: Raise at the first source that cannot be read.
            lsf: Read line spread functions too.
            progress: Called with a `Progress` after each file.

        Yields:
            The spectra of each chunk, in the order asked for, with the `failures` of that chunk.
            It is empty if none could be read, or none passes the quality cuts.

        Raises:
            InputError: As of `read`, before anything is read; or `size` is not positive.
            FileError: A source cannot be read, and `strict` was asked for.
        """
        if size < 1:
            raise InputError(f"size must be at least 1, not {size}")
        reading, sources = self._reading(source, root, release, strict, lsf, progress, False)
        return self._chunks(reading, sources, size, quality)

    def _chunks(
        self, reading: Reading, sources: Sequence[Asked], size: int, quality: bool
    ) -> Iterator[SpectrumBatch]:
        for part in reading.parts(sources, size):
            if not part.batches:
                yield self._none().replace(failures=part.failures)
                continue
            batch = self.prepare(part.batch())
            keep = (batch.flags & int(self.rejects if quality else 0)) == 0
            yield batch if bool(keep.all()) else batch[keep]

    def read_traced(
        self,
        source: Any,
        *,
        size: int = 1024,
        root: str | os.PathLike[str] | None = None,
        release: str | None = None,
        lsf: bool = False,
    ) -> Iterator[Traced]:
        """Read as `read_chunks` does with `quality=False`, and tell which source each is from.

        Arguments and errors are those of `read_chunks`.
        """
        reading, sources = self._reading(source, root, release, False, lsf, None, False)
        for part in reading.parts(sources, size):
            none = not part.batches
            batch = self._none().replace(failures=part.failures) if none else part.batch()
            yield Traced(batch if none else self.prepare(batch), part.names, len(part.sources))

    def _none(self) -> SpectrumBatch:
        """Return a batch of no spectra."""
        nothing = torch.zeros(0, self.grid.size)
        loader = self._reader()
        ids = np.zeros(0, dtype=loader.id_dtype)
        return SpectrumBatch(nothing, nothing, ids=ids, instrument=self)

    def _reading(
        self,
        source: Any,
        root: Any,
        release: str | None,
        strict: bool,
        lsf: bool,
        report: Report | None,
        lone: bool = True,
    ) -> tuple[Reading, list[Asked]]:
        """Return how to read, and what; a lone source raises if it cannot be read."""
        sources = self._sources(source, root_of(root), release)
        loader = self._reader()
        if lsf:
            check_reads_lsf(loader)
        refused = next((one for _, one in sources if isinstance(one, SpenderError)), None)
        if strict and refused is not None:
            raise refused
        return Reading(loader, lsf, strict or (lone and len(sources) == 1), report), sources

    def batch(
        self,
        wave: Any,
        flux: ArrayLike | None = None,
        ivar: ArrayLike | None = None,
        z: ArrayLike | None = None,
        **columns: Any,
    ) -> SpectrumBatch:
        """Put a user's own spectra on the instrument's grid, masked and normalised.

        On the grid's own nodes, or a stretch of them, the values are taken as they are;
        any other sampling is rebinned, keeping the flux. Pixels not covered are masked.
        Where the grid is finer than the data, its pixels share measurements, so that their
        ivar counts the information more than once.

        Args:
            wave: Wavelengths, shape (M,), vacuum Angstrom, increasing; or a spectrum of
                specutils, which brings the rest along.
            flux: Flux density, shape (M,) or (B, M), any unit, finite where ivar > 0.
            ivar: Its inverse variance, same shape, >= 0; 0 where masked.
            z: Redshifts, a number or shape (B,); NaN or None where unknown.
            columns: `zerr`, `ids`, `flags` of `SpectrumBatch`; and its `lsf`, on the
                instrument's grid.

        Raises:
            InputError: Shapes or values do not fit.
        """
        if hasattr(wave, "spectral_axis"):
            if flux is not None or ivar is not None:
                raise InputError("a specutils spectrum brings its own flux and uncertainty")
            wave, flux, ivar, known_z = from_specutils(wave)
            z = known_z if z is None else z
        if flux is None or ivar is None:
            raise InputError("batch needs wave, flux and ivar (or one spectrum of specutils)")
        flux_BL, ivar_BL = onto_grid(self.grid, wave, flux, ivar)
        redshift = None if z is None else numbers("z", z)
        if redshift is not None and redshift.size == 1:
            redshift = np.full(len(flux_BL), redshift)
        # normalised in float64: in cgs units, ivar overflows float32
        raw = SpectrumBatch(
            torch.from_numpy(flux_BL),
            torch.from_numpy(ivar_BL),
            z=redshift,
            instrument=self,
            **columns,
        )
        return self.prepare(raw).to(dtype=torch.float32)

    def prepare(self, raw: SpectrumBatch) -> SpectrumBatch:
        """Mask and normalise spectra that a loader has read, and complete their flags."""
        keep = None if self.mask is None else torch.from_numpy(~self.mask).to(raw.flux.device)
        wave = torch.tensor(self.wave)
        made = normalize(raw.flux, raw.ivar, raw.z, wave, self.norm_window, keep)
        flags = raw.flags.clone()
        conditions = {
            Flag.NORM_RMS: made.used_rms,
            Flag.NO_Z: raw.z.isnan(),
            Flag.EMPTY: made.before == 0,
            Flag.SPARSE: (made.before > 0) & (10 * made.before < self.grid.size),
        }
        over = made.over > 0
        if bool(over.any()):
            conditions[Flag.BAD_VALUES] = over
            conditions[Flag.EMPTY] |= made.after == 0
        for flag, where in conditions.items():
            flags |= int(flag) * where.to(flags)
        return raw.replace(
            flux=made.flux,
            ivar=made.ivar,
            norm=raw.norm * made.norm,
            flags=flags,
            instrument=self,
        )

    def query(
        self,
        where: str | Mapping[str, Any] | None = None,
        *,
        columns: Sequence[str] | None = None,
        cone: tuple[float, float, float] | None = None,
        box: tuple[float, float, float, float] | None = None,
        healpix: tuple[int, int | Iterable[int]] | None = None,
        target: str | Sequence[str] | None = None,
        primary: bool | str = True,
        quality: bool = True,
        limit: int | None = None,
        root: str | os.PathLike[str] | None = None,
        release: str | None = None,
        catalogue: str | os.PathLike[str] | None = None,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> Table:
        """Find spectra in the survey's catalogues; `read` takes the table that is returned.

        Args:
            where: Conditions on columns, such as `"Z > 0.1 and CLASS == 'GALAXY'"`; or a mapping,
                `{"Z": (0.1, 0.3), "CLASS": ["GALAXY", "QSO"], "MJD": 52254}`, with ranges as
                tuples and lists of what is allowed.
            columns: Columns to return beside the ids, in place of the usual ones.
            cone: Right ascension, declination and radius, degrees.
            box: First and last right ascension, going east, lowest and highest declination,
                degrees.
            healpix: nside and one or more pixels, nested.
            target: Target classes of the survey, any of which will do, e.g. "BGS_BRIGHT".
            primary: Only the best spectrum of each object, as the survey chose; False for all.
                Some surveys have more than one choice, by name.
            quality: Apply the survey's quality cuts, as far as a catalogue tells them.
            limit: Return the first rows only, and read no more of the catalogue than needed.
            root: A copy of the archive (folder or URL) to use instead of the survey's own.
            release: The data release.
            catalogue: Path or URL of a catalogue (FITS or Parquet) in place of the survey's.
            progress: Called with the rows looked at, those of the tables opened, and those found.

        Returns:
            A table whose first columns are fields of the ids, in the order of the catalogue.

        Raises:
            InputError: An argument is malformed, or names what the catalogue does not have.
            FileError: A catalogue is missing or cannot be used.
            OfflineError: Its server cannot be reached.
        """
        return query_table(
            self.name,
            self._reader(),
            where,
            columns=columns,
            cone=cone,
            box=box,
            healpix=healpix,
            target=target,
            primary=primary,
            quality=quality,
            limit=limit,
            root=root,
            release=release,
            catalogue=catalogue,
            progress=progress,
        )

    def _sources(self, source: Any, root: str | None, release: str | None) -> list[Asked]:
        """Return what to read, each with the name under which it was asked for."""
        source = listed(source, self.loader)
        if are_paths(source):
            return [(redacted(path), Source((path,))) for path in paths_of(source)]
        places = located(self.name, self._reader(), source, root, release)
        names = [str(row.item() if isinstance(row, np.void) else row)[:200] for row in source]
        return list(zip(names, places, strict=True))

    def _reader(self) -> Loader:
        if self.loader is None:
            raise InputError(f"{self.name} reads no files; bring its spectra in with `batch`")
        return self.loader

    def _cut(self, batch: SpectrumBatch) -> SpectrumBatch:
        keep = (batch.flags & int(self.rejects)) == 0
        if not bool(keep.any()):
            causes = {
                batch.label(row): ", ".join(batch.causes(row, self.rejects))
                for row in range(min(len(batch), 5))
            }
            listing = "; ".join(f"{name}: {cause}" for name, cause in causes.items())
            raise NoSpectraError(
                f"none of {len(batch)} spectra passes the quality cuts of {self.name} ({listing}"
                f"{'; ...' if len(batch) > 5 else ''}). Read with quality=False to get them all"
            )
        return batch if bool(keep.all()) else batch[keep]
