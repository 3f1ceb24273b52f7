"""Spectra to tables of a dataset, and back, without a step for each row.

Shapes: B spectra, L observed pixels, K diagonals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from spender_core.batch import Flag, SpectrumBatch, SpectrumLSF, all_finite
from spender_core.datasets.layout import (
    NUMBERS,
    SPECTRA,
    LSFKind,
    Metadata,
    id_dtype,
    id_fields,
    lsf_kind,
    metadata,
    parquet,
)
from spender_core.errors import FileError, InputError
from spender_core.interfaces import Instrument
from spender_core.line_spread import BandedLSF, GaussianLSF

_NUMPY = {"float": "float32", "double": "float64"}
"""What numpy calls types of Arrow that have other names there."""


def to_table(batch: SpectrumBatch, schema: Any) -> Any:
    """Return spectra as a `pyarrow.Table` of a dataset's schema, in their order.

    Raises:
        InputError: They have other pixels or other ids, or lack an LSF that is to be stored.
    """
    pa, _ = parquet()
    about = metadata(schema)
    if about is None or batch.flux.shape[1] != about.pixels or batch.ids is None:
        raise InputError(
            f"{batch!r} does not fit a dataset of {about.pixels if about else '?'} pixels, whose "
            "spectra have ids"
        )
    missing = [name for name in about.ids if name not in (batch.ids.dtype.names or ())]
    if missing:
        raise InputError(f"the ids {batch.ids.dtype} lack the field {', '.join(missing)}")
    columns: dict[str, Any] = {"spec": batch.flux, "w": batch.ivar}
    columns |= {name: getattr(batch, name) for name in (*NUMBERS, "flags")}
    columns |= {column: batch.ids[name] for name, column in about.ids.items()}
    columns |= lsf_columns(batch.lsf, about.lsf)
    return pa.Table.from_arrays([_array(columns[f.name], f.type) for f in schema], schema=schema)


def fits_float32(batch: SpectrumBatch) -> NDArray[np.bool_]:
    """Tell which spectra are sound as float32 too, as datasets hold them, shape (B,).

    Larger numbers become inf, a norm below 1e-45 becomes 0, and a redshift just above -1 -1.
    """
    small = {name: getattr(batch, name).float() for name in ("flux", "ivar", *NUMBERS)}
    z, zerr, norm = (small[name] for name in NUMBERS)
    sound = small["flux"].isfinite().all(dim=1) & small["ivar"].isfinite().all(dim=1)
    sound &= norm.isfinite() & (norm > 0)
    sound &= z.isnan() | (z.isfinite() & (z > -1))
    sound &= zerr.isfinite() | ~batch.zerr.isfinite()
    for values in () if batch.lsf is None else lsf_columns(batch.lsf, lsf_kind(batch.lsf)).values():
        sound &= values.float().isfinite().all(dim=1)
    made: NDArray[np.bool_] = sound.cpu().numpy()
    return made


def lsf_columns(lsf: SpectrumLSF | None, kind: LSFKind) -> dict[str, Tensor]:
    """Return the column of line spread functions; diagonals that are absent count as 0."""
    if kind is None:
        return {}
    found = lsf_kind(lsf)
    if kind == "gaussian" and isinstance(lsf, GaussianLSF):
        return {"lsf_sigma": lsf.sigma}
    if kind != "gaussian" and isinstance(lsf, BandedLSF) and set(lsf.offsets) <= set(kind[1]):
        if lsf.offsets == kind[1]:
            return {"lsf_bands": lsf.data.flatten(1)}
        full = lsf.data.new_zeros((len(lsf), len(kind[1]), lsf.data.shape[2]))
        full[:, [kind[1].index(offset) for offset in lsf.offsets]] = lsf.data
        return {"lsf_bands": full.flatten(1)}
    raise InputError(f"the dataset stores line spread functions as {kind}, not {found}")


def _array(values: Any, kind: Any) -> Any:
    pa, _ = parquet()
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if pa.types.is_fixed_size_list(kind):
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), kind.list_size)
    if pa.types.is_string(kind):
        values = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
        return pa.array(values.tolist(), kind)
    with np.errstate(over="ignore"):
        return pa.array(np.ascontiguousarray(values, dtype=_NUMPY.get(str(kind), str(kind))))


def to_batch(table: Any, instrument: Instrument, lsf: bool = False) -> SpectrumBatch:
    """Return rows of a dataset, a `pyarrow.Table` or `RecordBatch`, as spectra on the host.

    Fields of the ids that the dataset lacks are -1 or "". In a dataset of spender, which may
    have them, pixels that are not finite and norms that are not positive are made so:
    their spectra have the flag `BAD_VALUES`, and where nothing is left, `EMPTY`.

    Args:
        table: Rows with the columns of `schema`; z, zerr, norm, ids and flags may be absent.
        instrument: The dataset's.
        lsf: Give the line spread functions too.

    Raises:
        InputError: They are asked for and not there.
    """
    names = set(table.schema.names)
    about = metadata(table.schema)
    flux, ivar = (column_tensor(table.column(name)) for name in SPECTRA)
    numbers = {n: column_tensor(table.column(n)).double() for n in NUMBERS if n in names}
    flags = column_tensor(table.column("flags")) if "flags" in names else None
    if about is None:
        flags = torch.zeros(len(flux), dtype=torch.int64) if flags is None else flags
        flux, ivar = _repaired(flux, ivar, numbers, flags)
    return SpectrumBatch(
        flux,
        ivar,
        **numbers,
        flags=flags,
        ids=ids_of(table, instrument),
        instrument=instrument,
        lsf=_lsf_of(table, about, instrument) if lsf else None,
    )


def ids_of(table: Any, instrument: Instrument) -> NDArray[np.void]:
    """Return the ids of rows of a dataset, with the survey's own names, shape (B,).

    Raises:
        FileError: One is missing (null).
    """
    names, dtype = set(table.schema.names), id_dtype(instrument)
    ids = np.empty(table.num_rows, dtype=dtype)
    for name, column in id_fields(instrument).items():
        if column in names:
            values = table.column(column)
            if values.null_count:  # numpy would make floats of the others
                raise FileError(f"the column {column} has missing values (null)")
            ids[name] = values.to_numpy(**_copying(table))
        else:
            ids[name] = -1 if dtype[name].kind == "i" else 0 if dtype[name].kind == "u" else ""
    return ids


def _copying(table: Any) -> dict[str, bool]:
    """Return what lets a column of a record batch become numpy where it must be copied."""
    pa, _ = parquet()
    return {"zero_copy_only": False} if isinstance(table, pa.RecordBatch) else {}


def column_tensor(column: Any) -> Tensor:
    """Return a column of numbers (B,) or of lists (B, L) as a tensor, without a copy if in one chunk.

    Raises:
        FileError: Values are missing (null).
    """
    chunks: Sequence[Any] = getattr(column, "chunks", None) or [column]
    if column.null_count:
        raise FileError("a column of the dataset has missing values (null)")
    tensors = [_tensor(chunk) for chunk in chunks if len(chunk)] or [_tensor(chunks[0])]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _tensor(array: Any) -> Tensor:
    pa, _ = parquet()
    if isinstance(array, pa.ChunkedArray):  # of no chunk at all
        array = array.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return _tensor(array.flatten()).reshape(len(array), array.type.list_size)
    # numpy would hand out what cannot be written to, of which torch warns
    return from_dlpack(array) if len(array) else torch.from_numpy(array.to_numpy().copy())


def _repaired(
    flux: Tensor, ivar: Tensor, numbers: dict[str, Tensor], flags: Tensor
) -> tuple[Tensor, Tensor]:
    """Return spectra of spender as a `SpectrumBatch` takes them; sets `numbers` and `flags`."""
    broken = torch.zeros(len(flux), dtype=torch.bool)
    if not (all_finite(flux) and all_finite(ivar) and (not ivar.numel() or ivar.min() >= 0)):
        bad = ~(flux.isfinite() & ivar.isfinite() & (ivar >= 0))
        flux, ivar = flux.masked_fill(bad, 0), ivar.masked_fill(bad, 0)
        broken |= bad.any(dim=1)
    norm = numbers.get("norm")
    if norm is not None and not bool((norm > 0).all() and norm.isfinite().all()):
        lost = ~(norm.isfinite() & (norm != 0))
        turned = (norm < 0) & ~lost
        flux = torch.where(turned[:, None], -flux, flux).masked_fill(lost[:, None], 0)
        ivar = ivar.masked_fill(lost[:, None], 0)
        numbers["norm"] = norm.abs().masked_fill(lost, 1)
        broken |= lost | turned
    if bool(broken.any()):
        flags |= int(Flag.BAD_VALUES) * broken
        flags |= int(Flag.EMPTY) * (broken & ~(ivar > 0).any(dim=1))
    z, zerr = numbers.get("z"), numbers.get("zerr")
    if z is not None:
        unknown = ~(z.isfinite() & (z > -1))
        numbers["z"] = z.masked_fill(unknown, torch.nan)
        flags |= int(Flag.NO_Z) * unknown
    if zerr is not None:
        numbers["zerr"] = zerr.masked_fill(~(zerr >= 0), torch.inf)
    return flux, ivar


def _lsf_of(table: Any, about: Metadata | None, instrument: Instrument) -> SpectrumLSF:
    if about is None or about.lsf is None:
        raise InputError(
            f"the dataset of {instrument.name} has no line spread functions; write it with them: "
            "spender prepare ... --lsf"
        )
    if about.lsf == "gaussian":
        return GaussianLSF(column_tensor(table.column("lsf_sigma")))
    bands = column_tensor(table.column("lsf_bands"))
    offsets = about.lsf[1]
    return BandedLSF(bands.reshape(len(bands), len(offsets), -1), offsets)
