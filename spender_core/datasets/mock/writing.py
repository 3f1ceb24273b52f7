"""Files of mocks: FITS or Parquet, a row a spectrum, with the truth beside.

Columns, of which those marked * are written only if the truth is wanted:

| column | shape | what |
|---|---|---|
| flux, ivar | (L,) | float32, normalised: times norm, over norm squared for archive units |
| truth* | (L,) | float32, flux without noise and all that goes wrong, in the same units |
| restframe* | (M,) | float32, before it was observed; not in mixed surveys, whose grids differ |
| z, norm | | float64; norm in 1e-17 erg/s/cm2/Angstrom |
| flags | | bits of `Flag` |
| kind | | index into `sources.KINDS` |
| condition | | which of the conditions gave noise, mask and LSF |
| blend, share | | row of the object that shines in, or -1; its share of the light |
| noise, residual | | factors of sigma, and of the sky residual |
| p_... * | | what the object was drawn from; NaN for other kinds of object |

FITS: the table is the extension MOCKS; WAVELENGTH and RESTWAVE are images of the wavelengths,
float64, vacuum Angstrom; the card MOCKS of the primary header says where all comes from, as JSON.
Parquet: the same JSON, and wavelengths as JSON, too, are in the metadata of the schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.io import fits
from numpy.typing import NDArray
from torch import Tensor

from spender_core.archives.fits.opening import open_fits
from spender_core.archives.writing import free_space, replacing
from spender_core.batch import SpectrumBatch
from spender_core.datasets.mock.observing import Observed
from spender_core.datasets.mock.sources import Sources
from spender_core.datasets.mock.stream import MockSurvey
from spender_core.errors import DamagedFileError, FileError, InputError, SpenderError
from spender_core.grid import Log

FORMATS = (".fits", ".parquet")
"""Suffixes of the files that can be written."""
_BLOCK = 2880  # bytes of a block of FITS
_HIDDEN = "p_"  # prefix of the columns of parameters


@dataclass(frozen=True)
class MockFile:
    """What a file of mocks holds.

    Attributes:
        batch: The spectra.
        truth: Their flux without noise, shape (B, L); None if it was not written.
        sources: What was observed; None if restframes were not written.
        condition: Which of the conditions, shape (B,), int64.
        provenance: Where they come from.
    """

    batch: SpectrumBatch
    truth: Tensor | None
    sources: Sources | None
    condition: Tensor
    provenance: dict[str, Any]


def write_mocks(
    survey: MockSurvey,
    path: str | Path,
    *,
    truth: bool = True,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Write all spectra of a survey, batch by batch; the file is there whole or not at all.

    Args:
        survey: With an end.
        path: File to write, .fits or .parquet; what is there is replaced.
        truth: Write what the spectra would be without noise, and what they were drawn from.
        done: Called after every batch with the number of its spectra.

    Raises:
        InputError: The survey has no end, or the suffix is none of these.
        FileError: It cannot be written, or the disk has no room.
        SpenderError: Parquet is wanted, and pyarrow is not installed.
    """
    path = Path(path)
    if survey.n is None:
        raise InputError("a survey without end cannot be written; give MockSurvey a number n")
    check_suffix(path)
    layout = _layout(survey, truth)
    with replacing(path) as temporary:
        room, needed = free_space(temporary.parent), survey.n * layout.dtype.itemsize
        if needed > room:
            raise FileError(
                f"{path} needs {needed / 1e9:.1f} GB, the disk has {room / 1e9:.1f} GB left; write "
                "fewer spectra, or no truth"
            )
        writer = _fits_rows if path.suffix == ".fits" else _parquet_rows
        with writer(temporary, layout, survey.n) as write:
            for number in range(len(survey)):
                observed = survey.batch(number)
                write(_rows(observed, layout, number * survey.size))
                done(len(observed.batch))


def check_suffix(path: Path) -> None:
    """Refuse a file that could not be written as asked for.

    Raises:
        InputError: Its suffix is none of `FORMATS`.
        SpenderError: pyarrow is needed, and not installed.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"cannot tell the format of {path}: end it in {' or '.join(FORMATS)}")
    if path.suffix == ".parquet":
        _pyarrow()


def read_mocks(path: str | Path) -> MockFile:
    """Read a file of mocks.

    Raises:
        InputError: Its suffix is none of `FORMATS`.
        FileError: It cannot be read, or holds no mocks.
    """
    path = Path(path)
    check_suffix(path)
    columns, about = _read_fits(path) if path.suffix == ".fits" else _read_parquet(path)
    try:
        batch = SpectrumBatch(
            _tensor(columns["flux"]),
            _tensor(columns["ivar"]),
            z=_tensor(columns["z"]),
            zerr=torch.zeros(len(columns["z"]), dtype=torch.float64),
            norm=_tensor(columns["norm"]),
            flags=_tensor(columns["flags"]),
            instrument=about["instrument"],
        )
        truth = _tensor(columns["truth"]) if "truth" in columns else None
        sources = _sources(columns, about) if "restframe" in columns else None
        return MockFile(batch, truth, sources, _tensor(columns["condition"]).long(), about)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} is no file of mocks as spender writes them") from error


@dataclass(frozen=True)
class _Layout:
    """The columns of a file, and what is told of them."""

    dtype: np.dtype[np.void]
    wave: NDArray[np.float64]
    rest: Log | None
    about: str

    def names(self, prefix: str) -> list[str]:
        return [name for name in self.dtype.names or () if name.startswith(prefix)]


def _layout(survey: MockSurvey, truth: bool) -> _Layout:
    """Return the columns, which the first batch of each kind tells."""
    examples = [survey.batch(number) for number in _firsts(survey)]
    pixels = survey.instrument.grid.size
    fields: list[tuple[Any, ...]] = [("flux", "f4", (pixels,)), ("ivar", "f4", (pixels,))]
    grids = {observed.sources.grid for observed in examples}
    rest = grids.pop() if truth and len(grids) == 1 else None
    if truth:
        fields.append(("truth", "f4", (pixels,)))
    if rest is not None:
        fields.append(("restframe", "f4", (rest.size,)))
    fields += [("z", "f8"), ("norm", "f8"), ("flags", "i8"), ("kind", "i2"), ("condition", "i4")]
    fields += [("blend", "i8"), ("share", "f4"), ("noise", "f4"), ("residual", "f4")]
    if truth:
        names = dict.fromkeys(name for one in examples for name in one.sources.parameters)
        fields += [(_HIDDEN + name, "f4") for name in names]
    about = survey.provenance()
    if rest is not None:
        about["rest_grid"] = {"start": rest.start, "step": rest.step, "size": rest.size}
    return _Layout(np.dtype(fields), survey.instrument.wave, rest, json.dumps(about))


def _firsts(survey: MockSurvey) -> list[int]:
    first: dict[str, int] = {}
    for number in range(min(len(survey), 16)):
        first.setdefault(survey.kind(number), number)
    return list(first.values())


def _rows(observed: Observed, layout: _Layout, first: int) -> NDArray[np.void]:
    """Return the rows of a batch, the first of which is row `first` of the file."""
    batch, sources, record = observed.batch, observed.sources, observed.record
    blend = torch.where(record.blend >= 0, record.blend + first, record.blend)
    values: dict[str, Tensor] = {
        "flux": batch.flux, "ivar": batch.ivar, "truth": observed.truth,
        "restframe": sources.restframe, "z": batch.z, "norm": batch.norm, "flags": batch.flags,
        "kind": sources.kind, "condition": observed.condition, "blend": blend,
        "share": record.share, "noise": record.noise, "residual": record.residual,
    }  # fmt: skip
    rows = np.empty(len(batch), layout.dtype)
    for name in layout.dtype.names or ():
        if name.startswith(_HIDDEN):
            absent = torch.full((len(batch),), torch.nan)
            rows[name] = sources.parameters.get(name.removeprefix(_HIDDEN), absent).numpy()
        else:
            rows[name] = values[name].numpy()
    return rows


_Write = Callable[[NDArray[np.void]], None]


@contextmanager
def _fits_rows(path: Path, layout: _Layout, n: int) -> Iterator[_Write]:
    """Give a function that adds rows to a FITS table, whose length is known."""
    primary = fits.PrimaryHDU()
    primary.header["MOCKS"] = (layout.about, "where they come from, JSON")
    hdus = [primary, fits.ImageHDU(layout.wave, name="WAVELENGTH")]
    if layout.rest is not None:
        hdus.append(fits.ImageHDU(layout.rest.wave, name="RESTWAVE"))
    table = fits.BinTableHDU(np.zeros(0, layout.dtype), name="MOCKS")
    table.header["NAXIS2"] = n
    fits.HDUList(hdus).writeto(path, overwrite=True)
    big = layout.dtype.newbyteorder(">")
    with path.open("ab") as file:
        file.write(table.header.tostring().encode("ascii"))
        yield lambda rows: _append(file, rows.astype(big).tobytes())
        file.write(bytes(-n * layout.dtype.itemsize % _BLOCK))


def _append(file: Any, content: bytes) -> None:
    file.write(content)


@contextmanager
def _parquet_rows(path: Path, layout: _Layout, n: int) -> Iterator[_Write]:
    """Give a function that adds rows to a Parquet file."""
    pyarrow, parquet = _pyarrow()
    fields = []
    for name in layout.dtype.names or ():
        kind = layout.dtype[name]
        scalar = pyarrow.from_numpy_dtype(kind.base)
        fields.append((name, pyarrow.list_(scalar, kind.shape[0]) if kind.shape else scalar))
    metadata = {"spender": layout.about, "wave": json.dumps(layout.wave.tolist())}
    if layout.rest is not None:
        metadata["restwave"] = json.dumps(layout.rest.wave.tolist())
    schema = pyarrow.schema(fields, metadata=metadata)

    def column(rows: NDArray[np.void], name: str) -> Any:
        values = np.ascontiguousarray(rows[name])
        if values.ndim == 1:
            return pyarrow.array(values)
        return pyarrow.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])

    # the path is opened here: pyarrow opens none that is not UTF-8
    with (
        path.open("wb") as file,
        parquet.ParquetWriter(file, schema, use_dictionary=False) as writer,
    ):
        yield lambda rows: writer.write_table(
            pyarrow.table([column(rows, name) for name in schema.names], schema=schema)
        )


def _read_fits(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    with open_fits(str(path)) as hdus:
        if "MOCKS" not in hdus[0].header or "MOCKS" not in hdus:
            raise FileError(f"{path} holds no mocks of spender")
        data = hdus["MOCKS"].data
        columns = {
            name: np.array(data[name], dtype=data[name].dtype.newbyteorder("="))
            for name in data.names
        }
        return columns, _about(path, hdus[0].header["MOCKS"])


def _read_parquet(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    pyarrow, parquet = _pyarrow()
    try:
        with path.open("rb") as file:
            table = parquet.read_table(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    about = (table.schema.metadata or {}).get(b"spender")
    if about is None:
        raise FileError(f"{path} holds no mocks of spender")
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        flat = column.flatten() if hasattr(column, "flatten") and column.type.num_fields else column
        columns[name] = flat.to_numpy(zero_copy_only=False).reshape(len(table), -1)
        if not column.type.num_fields:
            columns[name] = columns[name][:, 0]
    return columns, _about(path, about)


def _about(path: Path, text: str | bytes) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except ValueError as error:
        raise DamagedFileError(f"{path} does not say where its mocks come from") from error
    if not isinstance(about, dict):
        raise DamagedFileError(f"{path} does not say where its mocks come from")
    return about


def _sources(columns: dict[str, NDArray[Any]], about: dict[str, Any]) -> Sources:
    parameters = {
        name.removeprefix(_HIDDEN): _tensor(values)
        for name, values in columns.items()
        if name.startswith(_HIDDEN)
    }
    kind = _tensor(columns["kind"]).to(torch.int8)
    grid = Log(**about["rest_grid"])
    return Sources(_tensor(columns["restframe"]), _tensor(columns["z"]), kind, parameters, grid)


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))  # copied only if need be


def _pyarrow() -> Any:
    """Return the modules that read and write Parquet."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SpenderError(
            "Parquet needs pyarrow; pip install 'spender-core[parquet]', or write .fits"
        ) from error
    return pyarrow, parquet
