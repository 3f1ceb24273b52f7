"""Files of spectra, written as they are read, a row a spectrum; docs/archives.md describes them.

| | FITS and ECSV | Parquet |
|---|---|---|
| flux, ivar | FLUX, IVAR, in units of the archive | spec, w, normalised as in datasets |
| the rest | ids by their names, Z, ZERR, NORM, FLAGS | columns of datasets |
| line spread functions | LSF_SIGMA (L,) or RESOLUTION (K, L) | lsf_sigma or lsf_bands |
| wavelengths | the image WAVELENGTH; `wave` of the meta | `wave` of the metadata, JSON |

Shapes: B spectra, L observed pixels, K diagonals.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spender_core import __version__
from spender_core.archives.writing import replacing
from spender_core.batch import Flag, SpectrumBatch
from spender_core.datasets.layout import LSFKind, lsf_kind, schema
from spender_core.datasets.shards import ShardWriter
from spender_core.datasets.stores import Store
from spender_core.datasets.tables import fits_float32, lsf_columns, to_table
from spender_core.errors import Failure, InputError
from spender_core.interfaces import Instrument

UNIT = "10**-17 Angstrom-1 cm-2 erg s-1"
"""Of flux in archives, as FITS writes it."""

IVAR_UNIT = "10**34 Angstrom2 cm4 erg-2 s2"

_BLOCK = 2880
"""Bytes of a block of FITS."""


@dataclass
class Product(ABC):
    """A file of spectra that grows.

    Attributes:
        path: Where it is written to, for now.
        instrument: Of all its spectra.
        lsf: Write line spread functions.
        release: The data release, "" if none was named.
        rows: Spectra in it.
        failures: Spectra that it cannot hold.
    """

    path: Path
    instrument: Instrument
    lsf: bool
    release: str = ""
    rows: int = 0
    failures: list[Failure] = field(default_factory=list)
    _kind: LSFKind = None

    def add(self, batch: SpectrumBatch) -> None:
        """Add spectra behind those that are there.

        Raises:
            FileError: They cannot be written.
            InputError: Their line spread functions are of another kind than those before.
        """
        if len(batch) == 0:
            return
        if self.lsf and self._kind is None:
            self._kind = lsf_kind(batch.lsf)
        self.rows += self._add(batch)

    @abstractmethod
    def _add(self, batch: SpectrumBatch) -> int:
        """Write spectra, and return how many."""

    @abstractmethod
    def close(self, error: BaseException | None = None) -> None:
        """Write what is left; or, because of an error, leave nothing beside the file itself."""

    def _columns(self, batch: SpectrumBatch) -> dict[str, NDArray[Any]]:
        """Return the columns of FITS and ECSV, in archive units."""
        ids, norm = batch.ids, batch.norm[:, None]
        columns = {} if ids is None else {name: ids[name] for name in ids.dtype.names or ()}
        numbers = {"Z": batch.z, "ZERR": batch.zerr, "NORM": batch.norm, "FLAGS": batch.flags}
        numbers |= {"FLUX": (batch.flux * norm).float(), "IVAR": (batch.ivar / norm**2).float()}
        for name, values in lsf_columns(batch.lsf, self._kind).items():
            numbers |= self._spread(name, values.float(), len(batch))
        return columns | {name: values.numpy() for name, values in numbers.items()}

    def _spread(self, name: str, values: Tensor, rows: int) -> dict[str, Tensor]:
        if name == "lsf_sigma":
            return {"LSF_SIGMA": values}
        return {"RESOLUTION": values.reshape(rows, -1, self.instrument.grid.size)}

    def _about(self) -> dict[str, str]:
        """Return what a file says of itself: keywords of FITS."""
        about = {"INSTRUME": self.instrument.name, "ORIGIN": f"spender_core {__version__}"}
        return about | ({"RELEASE": self.release} if self.release else {})

    def _offsets(self) -> str:
        return ",".join(map(str, self._kind[1])) if isinstance(self._kind, tuple) else ""


class FitsProduct(Product):
    """WAVELENGTH, an image of shape (L,), and SPECTRA, a table whose length is filled in last."""

    _header: Any = None
    _start: int = 0
    _dtype: np.dtype[np.void]

    def _add(self, batch: SpectrumBatch) -> int:
        columns = {name: _ascii(values) for name, values in self._columns(batch).items()}
        if self._header is None:
            self._begin(columns)
        rows = np.empty(len(batch), self._dtype)
        for name, values in columns.items():
            rows[name] = values
        with self.path.open("ab") as file:
            file.write(rows.tobytes())
        return len(batch)

    def _begin(self, columns: dict[str, NDArray[Any]]) -> None:
        from astropy.io import fits

        self._dtype = np.dtype(
            [(n, v.dtype.newbyteorder(">"), v.shape[1:]) for n, v in columns.items()]
        )
        primary = fits.PrimaryHDU()
        primary.header.update(self._about())
        wave = fits.ImageHDU(self.instrument.wave, name="WAVELENGTH")
        wave.header["BUNIT"] = ("Angstrom", "in vacuum")
        fits.HDUList([primary, wave]).writeto(self.path, overwrite=True)
        header = fits.BinTableHDU(np.zeros(0, self._dtype), name="SPECTRA").header
        units = {"FLUX": UNIT, "IVAR": IVAR_UNIT, "NORM": UNIT, "LSF_SIGMA": "pixel"}
        for number, name in enumerate(columns, 1):
            if name in units:
                header.set(f"TUNIT{number}", units[name], after=f"TFORM{number}")
        for flag in Flag:
            header[f"FLAG{int(flag).bit_length() - 1}"] = (flag.name, f"bit {int(flag)} of FLAGS")
        if self._offsets():
            header["OFFSETS"] = (self._offsets(), "diagonals of RESOLUTION")
        self._header, self._start = header, self.path.stat().st_size
        with self.path.open("ab") as file:
            file.write(header.tostring().encode("ascii"))

    def close(self, error: BaseException | None = None) -> None:
        """Fill the last block, and write the number of rows into the header."""
        if error is not None:
            return
        with self.path.open("rb+") as file:
            file.seek(0, io.SEEK_END)
            file.write(bytes(-file.tell() % _BLOCK))
            file.seek(self._start)
            self._header["NAXIS2"] = self.rows
            file.write(self._header.tostring().encode("ascii"))


class EcsvProduct(Product):
    """Text; one head, then the rows."""

    def _add(self, batch: SpectrumBatch) -> int:
        from astropy.table import Table

        columns = {name: _shortest(values) for name, values in self._columns(batch).items()}
        table = Table(columns, meta=self._about())
        table.meta["wave"] = self.instrument.wave.tolist()
        if self._offsets():
            raise InputError(
                "resolution matrices are larger than what readers of ECSV take; write .fits or "
                ".parquet, or leave out --lsf"
            )
        for name, unit in (("FLUX", UNIT), ("IVAR", IVAR_UNIT), ("NORM", UNIT)):
            table[name].unit = unit
        text = io.StringIO()
        table.write(text, format="ascii.ecsv")
        lines = text.getvalue().splitlines(keepends=True)
        if self.rows:
            head = next(n for n, line in enumerate(lines) if not line.startswith("#"))
            del lines[: head + 1]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        return len(batch)

    def close(self, error: BaseException | None = None) -> None:
        """Nothing is left to write."""


class ParquetProduct(Product):
    """A shard of a dataset, with the wavelengths beside."""

    _writer: ShardWriter | None = None

    def _add(self, batch: SpectrumBatch) -> int:
        if self._writer is None:
            made = schema(self.instrument, self._kind)
            about = {name.encode(): text.encode() for name, text in self._about().items()}
            about[b"wave"] = json.dumps(self.instrument.wave.tolist()).encode()
            made = made.with_metadata(made.metadata | about)
            self._schema = made
            self._writer = ShardWriter(Store(self.path.parent), self.path.name, made)
        fits = fits_float32(batch)
        self.failures += [
            Failure(batch.label(int(row)), "InputError", "float32 cannot hold all of its values")
            for row in np.flatnonzero(~fits)
        ]
        batch = batch if fits.all() else batch[fits]
        self._writer.add(to_table(batch, self._schema))
        return len(batch)

    def close(self, error: BaseException | None = None) -> None:
        """Write the last row group."""
        if self._writer is not None and error is not None:
            self._writer.discard(error)
        elif self._writer is not None:
            self._writer.close()


FORMATS: dict[str, Callable[..., Product]] = {
    ".fits": FitsProduct,
    ".parquet": ParquetProduct,
    ".ecsv": EcsvProduct,
}
"""By extension."""


@contextmanager
def writing(path: Path, instrument: Instrument, lsf: bool, release: str) -> Iterator[Product]:
    """Give a file of spectra to add to, in the format of its extension.

    It appears under its name once the block has ended; if it raises, or nothing was added,
    nothing is left.

    Raises:
        FileError: It cannot be written.
    """
    with suppress(_NothingError), replacing(path) as temporary:
        product = FORMATS[path.suffix](temporary, instrument, lsf, release)
        try:
            yield product
            if not product.rows:
                raise _NothingError
            product.close()
        except BaseException as error:
            product.close(error)
            raise


class _NothingError(Exception):
    """Nothing was added, so that nothing is to be written."""


def _shortest(values: NDArray[Any]) -> NDArray[Any]:
    """Return float32 as the float64 with the fewest digits: readers limit the length of cells."""
    return values.astype(str).astype(np.float64) if values.dtype == np.float32 else values


def _ascii(values: NDArray[Any]) -> NDArray[Any]:
    """Return text as FITS holds it, as wide as the field of the ids."""
    if values.dtype.kind != "U":
        return values
    width = values.dtype.itemsize // 4
    encoded = [text.encode("ascii", "backslashreplace") for text in values.tolist()]
    return np.array(encoded, dtype=f"S{width}")
