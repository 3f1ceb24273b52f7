"""Tables that commands write: by extension, each whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from spender_core.archives.writing import replacing
from spender_core.errors import Failure, FileError, InputError, SpenderError
from spender_core.records import printable

FORMATS = {".fits": "fits", ".ecsv": "ascii.ecsv", ".parquet": "parquet"}
"""Of results, by extension."""

LISTING_FORMATS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".csv": "ascii.csv"}
"""Of tables of what could not be read."""

META = b"spender"
"""Key of a Parquet file's metadata under which is what the table says of itself, as JSON."""

_ABOUT = ("INSTRUME", "RELEASE")
"""What a file of spectra says of itself, beside its table."""


def check_format(path: Path, formats: Iterable[str]) -> None:
    """Refuse a file whose extension tells no format, or whose format cannot be written.

    Raises:
        InputError: The extension is none of `formats`.
        SpenderError: pyarrow is needed, and not installed.
    """
    if path.suffix not in formats:
        raise InputError(
            f"cannot tell the format of {path}: its name must end in {', '.join(formats)}"
        )
    if path.suffix == ".parquet":
        pyarrow()


def read_table(path: Path) -> Any:
    """Read an `astropy.table.Table`, with what it says of itself as its `meta`.

    Columns that hold several values a row, such as spectra, are left out.

    Raises:
        FileError: It cannot be read.
    """
    from astropy.table import Table

    try:
        if path.suffix == ".parquet":
            return _read_parquet(path)
        table = _read_fits(path) if path.suffix == ".fits" else Table.read(path)
        table.remove_columns([name for name in table.colnames if table[name].ndim > 1])
        return table
    except SpenderError:
        raise
    except Exception as error:  # whatever astropy's readers raise
        raise FileError(
            f"cannot read {path} as a table: {error!s:.200}; give .fits, .ecsv, .csv or .parquet"
        ) from error


def _read_fits(path: Path) -> Any:
    """Read the first table of a FITS file; the primary header tells instrument and release."""
    from astropy.io import fits
    from astropy.table import Table

    table, header = Table.read(path, memmap=True), fits.getheader(path)
    for name in _ABOUT:
        if name in header:
            table.meta.setdefault(name, header[name])
    return table


def _read_parquet(path: Path) -> Any:
    """Read the columns of numbers and text of a Parquet file; absent values are masked."""
    from astropy.table import MaskedColumn, Table

    arrow, parquet = pyarrow()
    with path.open("rb") as file, parquet.ParquetFile(file) as opened:
        names = [one.name for one in opened.schema_arrow if not arrow.types.is_nested(one.type)]
        content = opened.read(columns=names)
    said = content.schema.metadata or {}
    meta = json.loads(said.get(META, b"{}"))
    table = Table(meta=meta if isinstance(meta, dict) else {})
    for name in _ABOUT:
        if name.encode() in said:
            table.meta.setdefault(name, said[name.encode()].decode())
    for name in names:
        values, mask = content[name], content[name].is_null().to_numpy()
        boolean = arrow.types.is_boolean(values.type)
        if boolean or arrow.types.is_integer(values.type) or arrow.types.is_floating(values.type):
            numbers = values.fill_null(False if boolean else 0).to_numpy()
            table[name] = MaskedColumn(numbers, mask=mask) if mask.any() else numbers
        elif str(values.type) in ("string", "large_string"):
            text = np.array(values.fill_null("").to_pylist(), dtype=str)
            table[name] = MaskedColumn(text, mask=mask) if mask.any() else text
    return table


def write_table(table: Any, path: Path) -> None:
    """Write an `astropy.table.Table` in the format of its extension, whole or not at all.

    Raises:
        InputError: The format cannot hold one of its columns.
        FileError: It cannot be written.
    """
    several = [name for name in table.colnames if table[name].ndim > 1]
    if path.suffix == ".csv" and several:
        raise InputError(
            f"{path} cannot hold {', '.join(several)}, which has several values a row; write .fits, "
            ".ecsv or .parquet"
        )
    if path.suffix == ".fits":
        table = in_ascii(table)
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            _write_parquet(table, temporary)
        else:
            formats = FORMATS | LISTING_FORMATS
            table.write(temporary, format=formats[path.suffix], overwrite=True)


def write_failures(failed: Iterable[Failure], path: Path) -> None:
    """Write the table of what could not be read: source, error and message.

    Raises:
        FileError: It cannot be written.
    """
    from astropy.table import Table

    failed = list(failed)
    columns = {
        name: [printable(getattr(failure, name)) for failure in failed]
        for name in ("source", "error", "message")
    }
    write_table(Table(columns, dtype=[str] * len(columns) if not failed else None), path)


def in_ascii(table: Any) -> Any:
    """Return a table with its strings as FITS can hold them, others escaped."""
    table = table.copy(copy_data=False)
    for name in table.colnames:
        if table[name].dtype.kind == "U":
            values = [v.encode("ascii", "backslashreplace").decode() for v in table[name].tolist()]
            table[name] = np.array(values, dtype=str)
    return table


def pyarrow() -> tuple[Any, Any]:
    """Return the modules that write Parquet, `pyarrow` and `pyarrow.parquet`.

    Raises:
        SpenderError: They are not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SpenderError(
            "writing Parquet needs pyarrow; pip install 'spender-core[parquet]', or write .fits"
        ) from error
    return pyarrow, parquet


def _write_parquet(table: Any, path: Path) -> None:
    arrow, parquet = pyarrow()
    arrays = {name: _array(table[name]) for name in table.colnames}
    about = {str(key): value for key, value in table.meta.items() if isinstance(value, (str, int))}
    with path.open("wb") as file:  # pyarrow opens no path that is not UTF-8
        made = arrow.table(arrays).replace_schema_metadata({META: json.dumps(about).encode()})
        parquet.write_table(made, file)


def _array(column: Any) -> Any:
    """Return a column as an array of Arrow, of the same type; masked values are absent."""
    arrow, _ = pyarrow()
    values, mask = np.ma.getdata(np.ma.asarray(column)), np.ma.getmaskarray(np.ma.asarray(column))
    if values.ndim == 1 and values.dtype.kind in "biuf":
        return arrow.array(values.astype(values.dtype.newbyteorder("=")), mask=mask)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "backslashreplace")
    return arrow.array(np.ma.array(values, mask=mask).tolist())
