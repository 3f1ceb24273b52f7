"""The interface that describes an instrument, and what core builds on top of it."""

from __future__ import annotations

import io
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from spender_core.archives.location import redacted
from spender_core.batch import Flag, SpectrumBatch, all_finite
from spender_core.errors import (
    Failure,
    Failures,
    FileError,
    InputError,
    MissingFileError,
    NoSpectraError,
    OfflineError,
    PartialReadWarning,
    PluginError,
    SpenderError,
)
from spender_core.grid import Grid
from spender_core.interfaces.arrays import from_specutils, numbers, onto_grid
from spender_core.interfaces.loader import Loader, Source, check_reads_lsf
from spender_core.ops.normalize import NORM_WINDOW, normalization

_CHUNK = 64
"""Spectra that are normalised together."""

_PATHS = (str, bytes, os.PathLike)


class Instrument(ABC):
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
    ) -> SpectrumBatch:
        """Read spectra, by path or by id, masked and normalised.

        Where several sources are asked for and some cannot be read, the others are
        returned with a `PartialReadWarning`, and `failures` of the batch lists the bad ones.

        Args:
            source: A path or URL, several of them, or several of the survey's ids: a list,
                an array or any other iterable that has an order.
            root: For ids: a copy of the archive (folder or URL) to read from instead
                of the survey's own.
            release: For ids: the data release.
            quality: Apply the survey's quality cuts. False keeps every row; what is
                wrong with it is in `flags`.
            strict: Raise at the first source that cannot be read.
            lsf: Read the line spread function of each spectrum too, into `lsf` of the batch.
                Models need it whose card says `lsf` is "per_spectrum". For DESI it is 5 times as
                large as the spectra, and otherwise not touched.

        Returns:
            The spectra in the order asked for, float32, on the host.

        Raises:
            InputError: There is nothing to read, an id or `root` is malformed, or the
                loader does not read line spread functions.
            FileError: A file is missing or cannot be used: the only one, each of them, or
                any of them if `strict`.
            NoSpectraError: No spectrum is left; the message says why.
        """
        sources = self._sources(source, _root(root), release)
        if lsf:
            check_reads_lsf(self._reader())
        parts, errors = self._parts(sources, strict or len(sources) == 1, lsf)
        failures = Failures(
            Failure(sources[i][0], type(error).__name__, str(error))
            for i, error in sorted(errors.items())
        )
        if not parts:
            raise _joint(failures, list(errors.values()))
        if failures:
            warnings.warn(
                f"{len(failures)} of {len(sources)} sources could not be read; `failures` of the "
                f"batch lists them. The first: {failures[0].message}",
                PartialReadWarning,
                stacklevel=2,
            )
        batch = SpectrumBatch.cat([parts.pop(i) for i in sorted(parts)])
        batch = self.prepare(batch.replace(failures=failures) if failures else batch)
        return self._cut(batch) if quality else batch

    def _parts(
        self, sources: Sequence[tuple[str, Source]], strict: bool, lsf: bool
    ) -> tuple[dict[int, SpectrumBatch], dict[int, SpenderError]]:
        """Return what each source gave, or its error, by position; read each file once."""
        files: dict[tuple[str, ...], list[int]] = {}
        for position, (_, wanted) in enumerate(sources):
            files.setdefault(wanted.urls, []).append(position)
        parts: dict[int, SpectrumBatch] = {}
        errors: dict[int, SpenderError] = {}
        for urls, positions in files.items():
            try:
                loaded = self._load(urls, lsf)
            except SpenderError as error:
                if strict:
                    raise
                errors |= dict.fromkeys(positions, error)
                continue
            for position in positions:
                try:
                    parts[position] = _select(loaded, sources[position][1], urls)
                except SpenderError as error:
                    if strict:
                        raise
                    errors[position] = error
        return parts, errors

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
        ivar = raw.ivar
        if self.mask is not None:
            ivar = ivar * torch.from_numpy(~self.mask).to(ivar)
        norm, used_rms = self._norm(raw.flux, ivar, raw.z)
        flags = raw.flags.clone()
        share = ivar.sign().sum(dim=1) / ivar.shape[1]
        conditions = {
            Flag.NORM_RMS: used_rms,
            Flag.NO_Z: raw.z.isnan(),
            Flag.EMPTY: share == 0,
            Flag.SPARSE: (share > 0) & (share < 0.1),
        }
        for flag, where in conditions.items():
            flags |= int(flag) * where.to(flags)
        flux, ivar = raw.flux / norm[:, None], ivar * norm[:, None] ** 2
        if not (all_finite(flux) and all_finite(ivar)):
            over = ~(flux.isfinite() & ivar.isfinite())
            flux, ivar = flux.masked_fill(over, 0), ivar.masked_fill(over, 0)
            flags |= int(Flag.BAD_VALUES) * over.any(dim=1).to(flags)
            flags |= int(Flag.EMPTY) * ~(ivar > 0).any(dim=1)
        return raw.replace(
            flux=flux,
            ivar=ivar,
            norm=raw.norm * norm,
            flags=flags,
            instrument=self,
        )

    def _norm(
        self, flux: torch.Tensor, ivar: torch.Tensor, z: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return norm and whether it is an RMS, shape (B,), a few spectra at a time."""
        wave = torch.tensor(self.wave)
        chunks = zip(flux.split(_CHUNK), ivar.split(_CHUNK), z.split(_CHUNK), strict=True)
        done = [normalization(f, i, at, wave, self.norm_window) for f, i, at in chunks]
        norms, used_rms = zip(*done, strict=True)
        return torch.cat(norms), torch.cat(used_rms)

    def _sources(
        self, source: Any, root: str | None, release: str | None
    ) -> list[tuple[str, Source]]:
        """Return what to read, each with the name under which it was asked for."""
        source = _listed(source)
        if all(isinstance(entry, _PATHS) for entry in source):
            paths = [str(os.fsdecode(path)) for path in source]  # no str of numpy
            if "" in paths:
                raise InputError("no path was given: it is empty; give the path or URL of a file")
            return [(redacted(path), Source((path,))) for path in paths]
        loader = self._reader()
        try:
            places = loader.locate(source, root, release)
        except SpenderError:
            raise
        except Exception as error:
            raise InputError(
                f"{source!r:.60} are no ids of {self.name} ({type(error).__name__}: {error})"
            ) from error
        if len(places) != len(source):
            raise PluginError(
                f"{type(loader).__name__}.locate found {len(places)} places for {len(source)} ids"
            )
        names = [str(row.item() if isinstance(row, np.void) else row)[:200] for row in source]
        return list(zip(names, places, strict=True))

    def _reader(self) -> Loader:
        if self.loader is None:
            raise InputError(f"{self.name} reads no files; bring its spectra in with `batch`")
        return self.loader

    def _load(self, urls: tuple[str, ...], lsf: bool) -> SpectrumBatch:
        """Load the first of these files that exists."""
        loader = self._reader()
        for url in urls:
            try:
                loaded = loader.load_with_lsf(url) if lsf else loader.load(url)
            except MissingFileError:
                if len(urls) == 1:
                    raise
                continue
            if lsf and loaded.lsf is None:
                raise PluginError(f"{type(loader).__name__}.load_with_lsf gave no lsf")
            return loaded
        shown = ", ".join(map(redacted, urls))
        raise MissingFileError(f"none of these files exists: {shown}; check the id and the root")

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


def _listed(source: Any) -> list[Any]:
    """Return the paths or ids of what `read` was given, in order."""
    if isinstance(source, np.ndarray) and source.ndim == 0:
        source = source[()]
    if isinstance(source, (*_PATHS, np.void)) or _is_one_id(source):
        return [source]
    if isinstance(source, (Set, Mapping)):
        raise InputError(
            f"a {type(source).__name__} has no order to return spectra in; give a list"
        )
    try:
        entries = [] if isinstance(source, io.IOBase) else list(source)
    except TypeError:
        entries = []
    if not entries:
        raise InputError(
            f"nothing to read in {source!r:.60}: give a path, a list of paths, or a list of ids"
        )
    return entries


def _root(root: Any) -> str | None:
    if root is None:
        return None
    if not isinstance(root, (str, os.PathLike)) or not os.fspath(root):
        raise InputError(
            f"root must be the folder or URL of a copy of the archive, not {root!r:.60}; leave it "
            "out for the survey's own"
        )
    return str(os.fsdecode(root))


def _is_one_id(source: Any) -> bool:
    """A tuple is one id, unless it holds ids or nothing but paths."""
    parts = (str, os.PathLike)
    return (
        isinstance(source, tuple)
        and len(source) > 0
        and not all(isinstance(part, parts) for part in source)
        and not any(isinstance(part, (tuple, list, np.void)) for part in source)
    )


def _select(loaded: SpectrumBatch, source: Source, urls: Sequence[str]) -> SpectrumBatch:
    if not source.rows:
        return loaded
    keep = np.ones(len(loaded), dtype=bool)
    for name, value in source.rows.items():
        keep &= loaded.ids[name] == value
    if not keep.any():
        wanted = ", ".join(f"{name} {value}" for name, value in source.rows.items())
        raise MissingFileError(f"{redacted(urls[0])} holds no spectrum with {wanted}")
    return loaded[keep]


def _joint(failures: Failures, errors: Sequence[SpenderError]) -> SpenderError:
    """Return one error for sources of which none could be read: of their class if it is one."""
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 else FileError
    listing = "; ".join(failure.message for failure in failures[:5])
    more = f"; and {len(failures) - 5} more" if len(failures) > 5 else ""
    text = f"none of {len(failures)} sources could be read: {listing}{more}"
    return kind(text) if kind in (MissingFileError, OfflineError, InputError) else FileError(text)
