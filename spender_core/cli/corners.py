"""`spender plot --corner`: the latents of tables that `spender encode` has written."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core import plot
from spender_core.archives.fits.opening import open_fits
from spender_core.archives.location import redacted
from spender_core.cli.draw import look, plain, save
from spender_core.cli.outputs import check_outputs
from spender_core.errors import FileError, InputError, NoSpectraError, SpenderError
from spender_core.records import printable

SUFFIXES = (".fits", ".ecsv", ".parquet")
_LATENT = re.compile(r"s_\d+")

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Request:
    """Which latents to draw, and how.

    Attributes:
        files: Tables of `spender encode`.
        model: Only rows of this model; needed where there are several.
        colour: Column to colour objects by; none if empty.
        style: Name of a style.
        dpi: Of raster pictures; that of the style if None.
    """

    files: Sequence[str]
    model: str | None = None
    colour: str = ""
    style: str = "paper"
    dpi: int | None = None


def run(request: Request, output: Path) -> None:
    """Draw latents against each other, and say how many rows could not be used."""
    plot.numbered(output, 1)
    check_outputs([output], request.files)
    sizes = look(request.style, request.dpi)
    table = _joined([read_table(file) for file in request.files])
    table = _of_one_model(table, request.model)
    names = [name for name in table if _LATENT.fullmatch(name)]
    names = sorted(
        (name for name in names if np.isfinite(table[name]).any()), key=lambda name: int(name[2:])
    )
    latents = np.stack([table[name] for name in names], axis=1) if names else np.zeros((0, 0))
    usable = np.isfinite(latents).all(axis=1)
    if not usable.any():
        raise NoSpectraError("no row of the tables has finite latents in columns s_0, s_1, ...")
    if not usable.all():
        print(f"not used: {int((~usable).sum())} rows without finite latents", file=sys.stderr)
    colour = _colour(table, request.colour)[usable] if request.colour else None
    figure = plot.corner(
        latents[usable], colour=colour, colour_label=plain(request.colour), look=sizes
    )
    save([figure], [output], sizes)
    print(printable(f"{output}: {len(names)} latents of {int(usable.sum())} objects"))


def read_table(file: str) -> Columns:
    """Read the columns of a table that `spender encode` has written.

    Raises:
        InputError: Its name does not tell the format, or it has no columns of latents.
        FileError: It cannot be read.
    """
    suffix = Path(file).suffix
    if suffix not in SUFFIXES:
        raise InputError(
            f"{redacted(file)} is no table of latents: its name must end in {', '.join(SUFFIXES)}; "
            "`spender encode FILES -o latents.fits` makes one"
        )
    try:
        columns = _READERS[suffix](file)
    except SpenderError:
        raise
    except Exception as error:
        raise FileError(
            f"cannot read {redacted(file)} as a table ({type(error).__name__}: {error})"
        ) from error
    if not any(_LATENT.fullmatch(name) for name in columns):
        raise InputError(
            f"{redacted(file)} has no latents, columns s_0, s_1, ...; "
            "`spender encode FILES -o latents.fits` makes such a table"
        )
    return columns


def _read_fits(file: str) -> Columns:
    with open_fits(file) as hdus:
        data = hdus[1].data
        return {name: np.array(data[name]) for name in data.names}


def _read_ecsv(file: str) -> Columns:
    from astropy.table import Table

    table = Table.read(file, format="ascii.ecsv")
    return {name: np.array(table[name]) for name in table.colnames}


def _read_parquet(file: str) -> Columns:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SpenderError(
            "reading Parquet needs pyarrow; pip install 'spender-core[parquet]', or use .fits"
        ) from error
    table = parquet.read_table(file)
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


_READERS = {".fits": _read_fits, ".ecsv": _read_ecsv, ".parquet": _read_parquet}


def _joined(tables: Sequence[Columns]) -> Columns:
    """Join tables; where one lacks a column of latents, NaN."""
    every = list(dict.fromkeys(name for table in tables for name in table))
    wanted = [n for n in every if _LATENT.fullmatch(n) or all(n in table for table in tables)]
    lengths = [len(next(iter(table.values()))) for table in tables]
    return {
        name: np.concatenate(
            [
                table.get(name, np.full(length, np.nan))
                for table, length in zip(tables, lengths, strict=True)
            ]
        )
        for name in wanted
    }


def _of_one_model(table: Columns, wanted: str | None) -> Columns:
    """Return the rows of one model: latents of different models cannot be compared."""
    if "model" not in table:
        return table
    models = table["model"].astype(str)
    known = sorted(set(models.tolist()))
    if wanted is None and len(known) > 1:
        raise InputError(
            f"the tables hold latents of several models, {', '.join(known)}, which mean different "
            "things; choose one with --model"
        )
    if wanted is not None and wanted not in known:
        raise InputError(f"no row is of model {wanted!r}; there are {', '.join(known)}")
    keep = models == (known[0] if wanted is None else wanted)
    return {name: values[keep] for name, values in table.items()}


def _colour(table: Columns, name: str) -> NDArray[np.float64]:
    numeric = [key for key, values in table.items() if values.dtype.kind in "fiu"]
    if name not in numeric:
        raise InputError(
            f"no column {name!r} of numbers to colour by; there are {', '.join(numeric)}"
        )
    return table[name].astype(float)
