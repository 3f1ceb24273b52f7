"""The files of a catalogue: each whole or not at all, and known by what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.writing import replacing
from spender_core.cataloguing.layout import (
    FAILURES,
    KEY,
    LENGTH,
    LISTING,
    MANIFEST,
    About,
    part_name,
    part_number,
)
from spender_core.datasets.layout import parquet
from spender_core.errors import Failure, FileError, InputError
from spender_core.records import printable

ROW_GROUP = 1 << 16
"""Rows of a row group: a part is one, unless its files hold very many spectra."""

_NAMES = ("source", "error", "message")


def to_table(columns: dict[str, Any], schema: Any) -> Any:
    """Return columns as a `pyarrow.Table` of a schema."""
    pa, _ = parquet()
    arrays = [_array(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def write(folder: Path, about: About, tables: Sequence[Any], failures: Sequence[Failure]) -> None:
    """Write a part, after its failures: where the part is there, both are.

    Raises:
        FileError: They cannot be written; nothing half-written is left behind.
    """
    pa, _ = parquet()
    path = folder / FAILURES / part_name(about.number)
    said = {KEY: about.to_json()}
    if failures:
        rows = [[printable(getattr(one, name)) for one in failures] for name in _NAMES]
        texts = [pa.array(values, pa.string()) for values in rows]
        _write(path, pa.Table.from_arrays(texts, _NAMES).replace_schema_metadata(said))
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise FileError(f"cannot remove {path}: {error}") from error
    # in one chunk, so that the bytes do not depend on the pieces that the rows came in
    table = pa.concat_tables(tables).combine_chunks()
    lengths = {LENGTH + name.encode(): str(longest) for name, longest in _longest(table).items()}
    _write(folder / part_name(about.number), table.replace_schema_metadata(said | lengths))


def found(folder: Path, number: int, plan: str) -> About | None:
    """Return what a part says of itself; None if it is not there, damaged, or of another plan."""
    about = _about(folder / part_name(number))
    if about is None or (about.plan, about.number) != (plan, number):
        return None
    if about.failures and _about(folder / FAILURES / part_name(number)) != about:
        return None
    return about


def failures(folder: Path, number: int) -> list[Failure]:
    """Return the sources of a part that could not be read.

    Raises:
        FileError: They cannot be read.
    """
    pa, pq = parquet()
    path = folder / FAILURES / part_name(number)
    if not path.exists():
        return []
    try:
        with path.open("rb") as file:
            table = pq.read_table(file).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise FileError(
            f"cannot read {path}: {error!s:.200}; remove it, and run the same command again"
        ) from error
    return [Failure(*row) for row in zip(*(table[name] for name in _NAMES), strict=True)]


def sweep(folder: Path, plan: str, parts: int) -> None:
    """Remove parts of other plans, and those beyond the number of parts.

    Raises:
        FileError: One cannot be removed.
    """
    for path in (*folder.glob("part-*.parquet"), *(folder / FAILURES).glob("part-*.parquet")):
        number = part_number(path.name)
        about = None if number is None or number >= parts else _about(path)
        if number is None or (about is not None and about.plan == plan):
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise FileError(f"cannot remove {path}: {error}") from error


def write_plan(folder: Path, told: dict[str, Any], plan: str, versions: dict[str, str]) -> None:
    """Write what the catalogue is to be.

    Raises:
        FileError: It cannot be written.
    """
    content = {"plan": plan, **told, "versions": versions}
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Return what a folder says that its catalogue is to be; None if it is no catalogue.

    Raises:
        FileError: It cannot be read, or understood.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content["plan"], str) and isinstance(content["partitions"], list):
            return dict(content)
        raise ValueError("it does not tell a plan")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FileError(
            f"{path} is damaged: {error!s:.200}; begin anew with --overwrite, or in another folder"
        ) from error


def write_listing(folder: Path, rows: Iterable[tuple[str, Failure]]) -> int:
    """Write the table of everything that could not be done, and return how many rows it has.

    Raises:
        FileError: It cannot be written.
    """
    from csv import writer

    number = 0
    with (
        replacing(folder / LISTING) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        lines = writer(file, lineterminator="\n")
        lines.writerow(("part", *_NAMES))
        for part, one in rows:
            lines.writerow((part, *(printable(getattr(one, name)) for name in _NAMES)))
            number += 1
    return number


def read_listing(folder: Path) -> Iterator[tuple[str, Failure]]:
    """Yield what could not be done, with the name of its part, as the last run left it.

    Raises:
        FileError: There is no such table; the run has not come to its end.
        InputError: It is damaged.
    """
    from csv import reader

    path = folder / LISTING
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(reader(file)):
                if len(row) != 1 + len(_NAMES):
                    raise InputError(f"{path} is damaged in line {number + 1}")
                if number:
                    yield row[0], Failure(*row[1:])
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error


def _write(path: Path, table: Any) -> None:
    pa, pq = parquet()
    text = [field.name for field in table.schema if pa.types.is_string(field.type)]
    with replacing(path) as temporary, temporary.open("wb") as file:
        # pyarrow opens no path that is not UTF-8
        pq.write_table(
            table,
            file,
            row_group_size=ROW_GROUP,
            compression="zstd",
            use_dictionary=text,
            write_page_checksum=True,
        )


def _longest(table: Any) -> dict[str, int]:
    """Return how long the texts of a table are at most, which astropy wants to know."""
    pa, _ = parquet()
    import pyarrow.compute as pc

    return {
        field.name: pc.max(pc.utf8_length(table[field.name])).as_py() or 1
        for field in table.schema
        if pa.types.is_string(field.type)
    }


def _about(path: Path) -> About | None:
    """Return what a file of the catalogue says of itself; None if it is absent or damaged."""
    pa, pq = parquet()
    try:
        with path.open("rb") as file:
            footer = pq.read_metadata(file)
            about = About.from_schema(footer.schema.to_arrow_schema())
    except (OSError, pa.ArrowException):
        return None
    rows = None if about is None else about.failures if FAILURES in path.parts else about.rows
    return about if footer.num_rows == rows else None


def _array(values: Any, kind: Any) -> Any:
    pa, _ = parquet()
    if pa.types.is_string(kind):
        return pa.array([printable(str(value)) for value in values], kind)
    array: NDArray[Any] = np.ascontiguousarray(values)
    return pa.array(array.astype(array.dtype.newbyteorder("=")), from_pandas=False).cast(kind)
