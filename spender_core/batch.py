"""`SpectrumBatch`: spectra of one instrument on its grid, as every model takes them.

Shapes: B spectra, L observed pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from enum import IntFlag
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spender_core.errors import Failure, Failures, InputError


class Flag(IntFlag):
    """What is known about a spectrum, as bits of `SpectrumBatch.flags`."""

    NORM_RMS = 1
    """norm is the RMS of the good pixels: the median window could not be used."""
    NO_Z = 2
    """The redshift is unknown."""
    Z_WARNING = 4
    """The survey warns about the redshift."""
    Z_UNCERTAIN = 8
    """The redshift fails the survey's cut on its uncertainty for this target class."""
    FIBRE = 16
    """The survey flags the fibre."""
    NOT_TARGET = 32
    """A sky fibre, a broken one, or one without an object."""
    EMPTY = 64
    """No good pixel at all."""
    SPARSE = 128
    """Less than a tenth of the pixels is good. No reason to reject, but to look."""
    BAD_VALUES = 256
    """Pixels that the survey holds for good are NaN, infinite or have a negative inverse
    variance; they were masked. No reason to reject, but to look."""

    @property
    def causes(self) -> list[str]:
        """The bits that are set, in words."""
        return [_CAUSES[flag] for flag in Flag if flag in self]


_CAUSES = {
    Flag.NORM_RMS: "normalised by its RMS",
    Flag.NO_Z: "redshift unknown",
    Flag.Z_WARNING: "redshift warning set by the survey",
    Flag.Z_UNCERTAIN: "redshift too uncertain for its target class",
    Flag.FIBRE: "fibre flagged by the survey",
    Flag.NOT_TARGET: "sky fibre or no object",
    Flag.EMPTY: "no good pixel",
    Flag.SPARSE: "less than a tenth of the pixels is good",
    Flag.BAD_VALUES: "NaN, infinite or negative values masked",
}


@runtime_checkable
class SpectrumLSF(Protocol):
    """A line spread function of each spectrum, as `SpectrumBatch.lsf` carries it.

    `spender_core.line_spread` has those of SDSS and DESI.
    """

    def __call__(self, y_BL: Tensor) -> Tensor:
        """Broaden spectra on the pixels of the instrument, shape (B, L), each by its own."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any) -> Self: ...
    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """Return it on a device, in a floating type."""
        ...

    @classmethod
    def cat(cls, parts: Sequence[Any]) -> Any:
        """Join those of several batches, in order."""
        ...


class SpectrumBatch:
    """Spectra of one instrument, normalised, with everything needed to undo that.

    flux = archive flux / norm and ivar = archive ivar * norm**2. A masked pixel has
    ivar 0 and a finite flux. Only z may be NaN, where it is unknown.

    Args:
        flux: Flux density over norm, shape (B, L), float32 or float64.
        ivar: Inverse variance of flux, shape (B, L), same type, >= 0.
        z: Redshifts, shape (B,); NaN or absent where unknown. Kept in float64.
        zerr: Uncertainties of z, shape (B,), >= 0; infinite where unknown.
        norm: Normalisation, shape (B,), > 0, in units of the archive's flux
            (1e-17 erg/s/cm2/Angstrom for SDSS and DESI); 1 if absent.
        ids: Structured numpy array, shape (B,), with the survey's own names.
        instrument: Name of the instrument, or the instrument.
        lsf: Line spread function of each spectrum (a `SpectrumLSF`), if known. Models apply it
            only if their card says so.
        flags: Bits of `Flag`, shape (B,); 0 if absent.
        failures: What could not be read along with these spectra: `errors.Failure` each.

    Raises:
        InputError: An argument has the wrong shape, type or values.
    """

    def __init__(
        self,
        flux: Tensor,
        ivar: Tensor,
        z: Any = None,
        zerr: Any = None,
        norm: Any = None,
        ids: NDArray[np.void] | None = None,
        instrument: Any = None,
        lsf: SpectrumLSF | None = None,
        flags: Any = None,
        failures: Iterable[Failure] = (),
    ) -> None:
        self.flux = _floating("flux", flux)
        self.ivar = _floating("ivar", ivar)
        if self.flux.ndim != 2 or self.flux.shape != self.ivar.shape:
            raise InputError(
                "flux and ivar must both have shape (B, L), got "
                f"{tuple(self.flux.shape)} and {tuple(self.ivar.shape)}; "
                "give a single spectrum as flux[None, :]"
            )
        if self.flux.dtype != self.ivar.dtype:
            raise InputError(
                f"flux is {self.flux.dtype} and ivar is {self.ivar.dtype}; give both in one type"
            )
        if self.flux.device != self.ivar.device:
            raise InputError(f"flux is on {self.flux.device}, ivar on {self.ivar.device}")
        self.z = self._column("z", z, float("nan"))
        self.zerr = self._column("zerr", zerr, float("inf"))
        self.norm = self._column("norm", norm, 1.0)
        self.flags = self._column("flags", flags, 0, torch.int64)
        self.ids = self._rows("ids", ids)
        self.lsf = self._rows("lsf", lsf)
        self.instrument: str | None = getattr(instrument, "name", instrument)
        self.failures = Failures(failures)
        self._check_values()

    def _column(
        self, name: str, values: Any, default: float, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        device = self.flux.device
        if device.type == "mps" and dtype == torch.float64:
            dtype = torch.float32
        if values is None:
            return torch.full((len(self),), default, dtype=dtype, device=device)
        column = as_tensor(values, dtype).to(device=device, dtype=dtype)
        if column.shape != (len(self),):
            raise InputError(
                f"{name} must have shape ({len(self)},), one value a spectrum, "
                f"got {tuple(column.shape)}"
            )
        return column

    def _rows(self, name: str, rows: Any) -> Any:
        if rows is None:
            return None
        structured = isinstance(rows, np.ndarray) and rows.ndim == 1
        if name == "ids" and not structured:
            raise InputError(
                f"ids must be a numpy array of one dimension, best a structured one, not {rows!r:.60}"
            )
        if name == "lsf" and not isinstance(rows, SpectrumLSF):
            raise InputError(f"lsf must have the methods of SpectrumLSF; {type(rows)} has not")
        if len(rows) != len(self):
            raise InputError(f"{name} has {len(rows)} rows for {len(self)} spectra")
        return rows

    def _check_values(self) -> None:
        flux, ivar = (tensor.detach() for tensor in (self.flux, self.ivar))
        if not all_finite(flux):
            self._refuse("flux must be finite; set masked pixels to 0 with ivar 0", flux.isfinite())
        least, most = ivar.aminmax() if ivar.numel() else (0, 0)
        if not bool((least >= 0) & (most < torch.inf)):
            good = (ivar >= 0) & ivar.isfinite()
            self._refuse("ivar must be finite and >= 0; use 0 for masked pixels", good)
        columns = {
            "norm must be finite and > 0": (self.norm > 0) & self.norm.isfinite(),
            "zerr must be >= 0, infinite where unknown": self.zerr >= 0,
            "z must be > -1, or NaN where unknown": (self.z > -1) & ~self.z.isinf()
            | self.z.isnan(),
        }
        for message, good in columns.items():
            if not bool(good.all()):
                self._refuse(message, good[:, None])

    def _refuse(self, message: str, good: Tensor) -> None:
        rows = (~good).any(dim=1).nonzero()[:, 0].tolist()
        raise InputError(f"{message}. Offending spectra: {self._naming(rows)}")

    def _naming(self, rows: Sequence[int], most: int = 5) -> str:
        names = [self.label(row) for row in rows[:most]]
        return ", ".join(names) + (f" and {len(rows) - most} more" if len(rows) > most else "")

    def label(self, row: int) -> str:
        """Return a readable name of one spectrum: its id, or its row."""
        if self.ids is None:
            return f"row {row}"
        names = self.ids.dtype.names
        fields = [self.ids[row]] if names is None else [self.ids[row][name] for name in names]
        return "-".join(str(value) for value in fields if str(value) not in ("", "-1"))

    def __len__(self) -> int:
        return int(self.flux.shape[0])

    def __repr__(self) -> str:
        known = int((~self.z.isnan()).sum())
        return (
            f"SpectrumBatch({len(self)} spectra of {self.flux.shape[1]} pixels, "
            f"instrument={self.instrument!r}, {known} with z, "
            f"{str(self.flux.dtype).removeprefix('torch.')} on {self.flux.device})"
        )

    def __getitem__(self, index: Any) -> SpectrumBatch:
        """Select spectra by a row, slice, list of rows or boolean mask; always a batch."""
        index = index.cpu().numpy() if isinstance(index, Tensor) else index
        if isinstance(index, Sequence) and len(index) == 0:
            index = slice(0)
        rows = torch.from_numpy(np.atleast_1d(np.arange(len(self))[index]).copy())
        there = rows.to(self.flux.device)
        return SpectrumBatch(
            self.flux[there],
            self.ivar[there],
            z=self.z[there],
            zerr=self.zerr[there],
            norm=self.norm[there],
            ids=None if self.ids is None else self.ids[rows.numpy()],
            instrument=self.instrument,
            lsf=None if self.lsf is None else self.lsf[rows],
            flags=self.flags[there],
            failures=self.failures,
        )

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> SpectrumBatch:
        """Return the batch on a device, with flux and ivar in a floating type."""
        return self.replace(
            flux=self.flux.to(device=device, dtype=dtype),
            ivar=self.ivar.to(device=device, dtype=dtype),
            lsf=None if self.lsf is None else self.lsf.to(device=device, dtype=dtype),
        )

    def replace(self, **changes: Any) -> SpectrumBatch:
        """Return a copy with some of the constructor's arguments replaced."""
        return SpectrumBatch(**(self._arguments() | changes))

    def _arguments(self) -> dict[str, Any]:
        names = ("flux", "ivar", "z", "zerr", "norm", "ids", "instrument", "lsf", "flags")
        return {name: getattr(self, name) for name in (*names, "failures")}

    @classmethod
    def cat(cls, batches: Sequence[SpectrumBatch]) -> SpectrumBatch:
        """Join batches of one instrument, in order; their failures too, each once.

        Raises:
            InputError: No batch was given, or they differ in instrument, pixels or ids.
        """
        if not batches:
            raise InputError("cannot concatenate an empty list of batches")
        kinds = {(batch.instrument, batch.flux.shape[1]) for batch in batches}
        if len(kinds) > 1:
            raise InputError(
                f"cannot concatenate batches of different instruments and pixels: {sorted(kinds, key=str)}"
            )
        if len({None if batch.ids is None else batch.ids.dtype for batch in batches} - {None}) > 1:
            raise InputError("the ids of the batches have different fields")
        for name in ("ids", "lsf"):
            if len({getattr(batch, name) is None for batch in batches}) > 1:
                raise InputError(f"some of the batches have {name} and some have none")
        if len(batches) == 1:
            return batches[0]
        columns = ("flux", "ivar", "z", "zerr", "norm", "flags")
        joined = {name: torch.cat([getattr(b, name) for b in batches]) for name in columns}
        first = batches[0]
        return cls(
            **joined,
            ids=None if first.ids is None else np.concatenate([b.ids for b in batches]),
            lsf=None if first.lsf is None else type(first.lsf).cat([b.lsf for b in batches]),
            instrument=first.instrument,
            failures=dict.fromkeys(failure for batch in batches for failure in batch.failures),
        )

    @property
    def good(self) -> Tensor:
        """Pixels with ivar > 0, shape (B, L), bool."""
        return self.ivar > 0

    @property
    def snr(self) -> Tensor:
        """Median signal-to-noise ratio of the good pixels, shape (B,); 0 if there is none."""
        ratio = (self.flux * self.ivar.sqrt()).masked_fill(~self.good, float("nan"))
        return ratio.nanmedian(dim=1).values.nan_to_num(0.0)

    def causes(self, row: int, among: Flag | None = None) -> list[str]:
        """Return in words the flags of one spectrum, or those of them in `among`."""
        flags = Flag(int(self.flags[row]))
        return (flags if among is None else flags & among).causes


def unchecked(like: SpectrumBatch, **columns: Any) -> SpectrumBatch:
    """Return a batch like another with other columns, whose values are known to be sound.

    Rows of batches that were checked need not be checked again, which takes as long as a copy.
    """
    made = copy.copy(like)
    vars(made).update(columns)
    return made


def all_finite(values: Tensor) -> bool:
    """Tell whether all values are finite, without arrays of their size."""
    if values.numel() == 0:
        return True
    least, most = values.aminmax()  # NaN if any value is
    return bool((least > -torch.inf) & (most < torch.inf))


def _floating(name: str, values: Any) -> Tensor:
    tensor = torch.as_tensor(values)
    if tensor.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{name} must be float32 or float64, got {tensor.dtype}")
    return tensor


def as_tensor(values: Any, dtype: torch.dtype) -> Tensor:
    """Return a tensor as it is, and anything else in `dtype`, without rounding numbers first."""
    return values if isinstance(values, Tensor) else torch.as_tensor(np.array(values)).to(dtype)
