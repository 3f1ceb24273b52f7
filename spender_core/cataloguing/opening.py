"""Open a catalogue: as one table, or written into one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spender_core.archives.writing import replacing
from spender_core.cataloguing import layout, parts
from spender_core.datasets.layout import parquet
from spender_core.errors import FileError, InputError

if TYPE_CHECKING:
    from astropy.table import Table


def read(folder: str | Path, columns: Sequence[str] | None = None, partial: bool = False) -> Table:
    """Read a catalogue, in the order of its parts.

    Args:
        folder: The catalogue.
        columns: Columns to read; all if None.
        partial: Take what is there of one that is not finished.

    Returns:
        A table, whose `meta` has the plan under "catalogue".

    Raises:
        InputError: It has no such column, or is not finished.
        FileError: There is no catalogue, or a part is damaged.
    """
    from astropy.table import Table

    folder = Path(folder)
    plan = _plan(folder)
    tables = list(_tables(folder, plan, columns, partial))
    pa, _ = parquet()
    joined = pa.concat_tables(tables)
    made = Table({name: _values(joined[name]) for name in joined.column_names})
    made.meta["catalogue"] = {name: plan[name] for name in ("plan", "model", "flow", "options")}
    return made


def merge(folder: str | Path, path: str | Path, partial: bool = False) -> int:
    """Write a catalogue into one Parquet file, part by part, and return its rows.

    Args:
        folder: The catalogue.
        path: The file, which appears whole or not at all; each part is a row group of it.
        partial: Take what is there of one that is not finished.

    Raises:
        InputError: It is not finished, or the name of the file does not end in .parquet.
        FileError: There is no catalogue, a part is damaged, or the file cannot be written.
    """
    folder, path = Path(folder), Path(path)
    if path.suffix != ".parquet":
        raise InputError(f"{path} must end in .parquet; `read` and astropy write other formats")
    _, pq = parquet()
    rows, writer, lengths = 0, None, dict[bytes, int]()
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            for table in _tables(folder, _plan(folder), None, partial):
                for key, value in (table.schema.metadata or {}).items():
                    if key.startswith(layout.LENGTH):
                        lengths[key] = max(int(value), lengths.get(key, 0))
                table = table.replace_schema_metadata(None)
                writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
                writer.write_table(table)
                rows += len(table)
        finally:
            if writer is not None:
                writer.add_key_value_metadata({k: str(n) for k, n in lengths.items()})
                writer.close()
    return rows


def _plan(folder: Path) -> dict[str, Any]:
    plan = parts.read_plan(folder)
    if plan is None:
        raise FileError(f"{folder} holds no catalogue: there is no {layout.MANIFEST}")
    return plan


def _tables(
    folder: Path, plan: dict[str, Any], columns: Sequence[str] | None, partial: bool
) -> Iterator[Any]:
    """Yield the parts of a catalogue, once all of them are known to be there."""
    numbers = range(len(plan["partitions"]))
    there = [n for n in numbers if parts.found(folder, n, plan["plan"]) is not None]
    if len(there) < len(numbers) and not (partial and there):
        absent = next(n for n in numbers if n not in set(there))
        raise InputError(
            f"{folder} is not finished: {len(numbers) - len(there)} of {len(numbers)} parts are missing, "
            f"such as {layout.part_name(absent)}. Run the command that began it again, or take what "
            "is there: partial=True"
        )
    return (_table(folder / layout.part_name(n), columns) for n in there)


def _table(path: Path, columns: Sequence[str] | None) -> Any:
    pa, pq = parquet()
    try:
        with (
            path.open("rb") as file,
            pq.ParquetFile(file, page_checksum_verification=True) as opened,
        ):
            names = opened.schema_arrow.names
            unknown = [name for name in columns or () if name not in names]
            if unknown:
                raise InputError(
                    f"the catalogue has no column {', '.join(unknown)}; it has {', '.join(names)}"
                )
            return opened.read(columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise FileError(
            f"{path} is damaged: {error!s:.200}; remove it, and run the command that made it again"
        ) from error


def _values(column: Any) -> Any:
    pa, _ = parquet()
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=str)
    return column.to_numpy()
