"""`Dataset`: the spectra of a dataset on the disk or elsewhere, by rows and by columns.

Shapes: B spectra, L observed pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spender_core.archives.location import redacted
from spender_core.batch import SpectrumBatch
from spender_core.datasets.gathering import gather
from spender_core.datasets.layout import (
    MANIFEST,
    NUMBERS,
    SPECTRA,
    SPLITS,
    Metadata,
    id_fields,
    metadata,
    parquet,
    parse_shard_name,
    split_fields,
)
from spender_core.datasets.order import rows_of
from spender_core.datasets.places import Place
from spender_core.datasets.tables import ids_of, to_batch
from spender_core.errors import FileError, InputError
from spender_core.interfaces import Instrument

_TOGETHER, _REMOTE = 8, 32
"""Shards whose small columns or headers are read at the same time, here and elsewhere."""

_LSF_COLUMNS = ("lsf_sigma", "lsf_bands")

Item = TypeVar("Item")


@dataclass(frozen=True)
class RowGroup:
    """A row group: its shard, its number in it, and its spectra."""

    shard: str
    number: int
    rows: int


class Dataset:
    """The spectra of one instrument, in shards, as `spender prepare` or spender 0.3 writes them.

    Args:
        root: A folder or a URL: s3://, hf://datasets/owner/name; or https://, if the
            dataset has a manifest.
        instrument: The instrument. Without it, the dataset tells what it holds, and gives
            no spectra; `about.instrument` is the name to look for.

    Raises:
        InputError: It is of another instrument or grid, or it is not complete.
        FileError: There is no dataset, a shard is missing or damaged.
        OfflineError: It cannot be reached.
        SpenderError: pyarrow is not installed.

    Example:
        >>> import tempfile
        >>> from spender_core import registry
        >>> from spender_core.datasets.mock.stream import MockSurvey
        >>> from spender_core.datasets.shards import write_dataset
        >>> sdss, folder = registry.instrument("sdss"), tempfile.mkdtemp()
        >>> rows = write_dataset(folder, (m.batch for m in MockSurvey(sdss, n=8, seed=1)), sdss)
        >>> dataset = Dataset(folder, sdss)
        >>> len(dataset.read("train")) == dataset.rows("train") == rows["train"]
        True
    """

    def __init__(self, root: str | Path, instrument: Instrument | None = None) -> None:
        self._place = Place(root)
        self.root, self.instrument = self._place.root, instrument
        shards = self._place.shards()
        footers = self._each(shards, self._footer)
        self._footers = dict(zip(shards, footers, strict=True))
        schema = footers[0].schema.to_arrow_schema()
        with self._place.opened(shards[0]):
            self.about: Metadata | None = metadata(schema)
        """What the shards say of themselves; None of a dataset of spender 0.3."""
        self._names: list[str] = schema.names
        for name, footer in self._footers.items():
            self._check_alike(name, footer.schema.to_arrow_schema(), schema)
        if instrument is not None:
            self._check(instrument, schema)

    def __repr__(self) -> str:
        rows = ", ".join(f"{self.rows(split)} {split}" for split in SPLITS)
        name = self.about.instrument if self.about else getattr(self.instrument, "name", None)
        return f"Dataset({self._place.shown!r}, instrument={name!r}, {rows})"

    @property
    def has_lsf(self) -> bool:
        """Whether it holds the line spread function of each spectrum."""
        return self.about is not None and self.about.lsf is not None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all shards: it tells datasets apart.

        Of their names, rows and the hashes in the manifest; without one, of their sizes.
        """
        noted = self._place.noted
        content: list[Any] = [
            [name, noted[name].rows, noted[name].sha256]
            if name in noted
            else [name, [[group.num_rows, *_sizes(group)] for group in _groups_of(footer)]]
            for name, footer in self._footers.items()
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def rows(self, split: str) -> int:
        """Return how many spectra a split has."""
        return sum(group.rows for group in self.groups(split))

    def groups(self, split: str) -> list[RowGroup]:
        """Return the row groups of a split, in order.

        Raises:
            InputError: There is no such split.
        """
        return [
            RowGroup(name, number, group.num_rows)
            for name in self._shards(split)
            for number, group in enumerate(_groups_of(self._footers[name]))
        ]

    def group(self, group: RowGroup, lsf: bool = False) -> SpectrumBatch:
        """Decode a row group.

        Raises:
            InputError: No instrument was given, or line spread functions are not there.
            FileError: The shard is damaged.
        """
        instrument = self.check_reads(lsf)
        _, pq = parquet()
        wanted = {*SPECTRA, *NUMBERS, "flags", *id_fields(instrument).values()}
        wanted |= set(_LSF_COLUMNS) if lsf else set()
        columns = [name for name in self._names if name in wanted]
        with self._place.opened(group.shard) as source:
            # from elsewhere, all columns in one request or a few
            file = pq.ParquetFile(
                source,
                metadata=self._footers[group.shard],
                pre_buffer=self._place.remote,
                page_checksum_verification=True,
            )
            table = file.read_row_group(group.number, columns=columns)
            self._check_rows(group, table)
            return to_batch(table, instrument, lsf=lsf)

    def read(self, split: str, rows: ArrayLike | None = None, lsf: bool = False) -> SpectrumBatch:
        """Read spectra of a split.

        Args:
            split: "train", "validation" or "test".
            rows: Which, whole numbers from 0, in any order, or a mask of all; all if absent.
            lsf: Read their line spread functions too.

        Returns:
            The spectra in the order of `rows`, or of the files, float32, on the host.

        Raises:
            InputError: There are no such rows, the split is empty, no instrument was given, or
                line spread functions are not there.
            FileError: A shard is damaged.
        """
        self.check_reads(lsf)
        groups = self.groups(split)
        count = self.rows(split)
        if not count:
            raise self.empty(split)
        if rows is None:
            return SpectrumBatch.cat([self.group(group, lsf) for group in groups])
        given = np.asarray(rows).reshape(-1)
        if given.dtype == bool and len(given) == count:
            given = np.flatnonzero(given)
        wanted = given.astype(np.int64) if given.dtype.kind in "iu" else np.array([], np.int64)
        if not len(wanted) or wanted.min() < 0 or wanted.max() >= count:
            raise InputError(
                f"rows must be whole numbers from 0 to {count - 1}, at least one, got "
                f"{given.dtype} {given!s:.80}"
            )
        pieces, places = [], []
        for number, own, place in rows_of([group.rows for group in groups], wanted):
            pieces.append((self.group(groups[number], lsf)[own], np.arange(len(own))))
            places.append(place)
        return gather(pieces)[np.argsort(np.concatenate(places))]

    def columns(self, split: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Read columns of all rows of a split, in order, without touching the others.

        Args:
            split: "train", "validation" or "test".
            names: Columns as the shards have them, e.g. "z"; "ids" are those of
                `SpectrumBatch`; "flags" are 0 in datasets of spender 0.3.

        Raises:
            InputError: There is no such column; or no instrument was given, for "ids".
            FileError: A shard is damaged.
        """
        ids = id_fields(self.check_reads()).values() if "ids" in names else ()
        held = [name for name in self._names if name not in (*SPECTRA, *_LSF_COLUMNS)]
        unknown = [name for name in names if name not in (*held, "ids", "flags")]
        if unknown:
            raise InputError(
                f"the dataset {self._place.shown} has no column {', '.join(unknown)} of numbers or "
                f"ids; it has {', '.join(held)}"
            )
        wanted = [name for name in self._names if name in {*names, *ids}]

        def read(shard: str) -> dict[str, NDArray[Any]]:
            return self._columns(shard, names, wanted)

        parts = self._each(self._shards(split), read)
        if not parts:
            raise self.empty(split)
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _columns(
        self, shard: str, names: Sequence[str], wanted: list[str]
    ) -> dict[str, NDArray[Any]]:
        _, pq = parquet()
        with self._place.opened(shard) as source:
            file = pq.ParquetFile(
                source,
                metadata=self._footers[shard],
                pre_buffer=self._place.remote,
                page_checksum_verification=True,
            )
            # the threads are those of `_each`; in pyarrow's few, requests would wait for each other
            table = file.read(columns=self._asked(wanted), use_threads=False)
            if table.num_rows != file.metadata.num_rows and wanted:
                raise FileError(f"it has {table.num_rows} rows, not {file.metadata.num_rows}")
            found = {name: _values(table.column(name)) for name in wanted if name in names}
            if "ids" in names and self.instrument is not None:
                found["ids"] = ids_of(table, self.instrument)
            found.setdefault("flags", np.zeros(file.metadata.num_rows, dtype=np.int64))
            return found

    def _each(self, names: Iterable[str], make: Callable[[str], Item]) -> list[Item]:
        """Return what a function makes of each name, several at a time, in order."""
        with ThreadPoolExecutor(_REMOTE if self._place.remote else _TOGETHER) as pool:
            return list(pool.map(make, names))

    def _asked(self, wanted: list[str]) -> list[str]:
        """Return the columns to ask for: from elsewhere, those between them too, in one request."""
        if not self._place.remote or not wanted:
            return wanted
        places = [self._names.index(name) for name in wanted]
        between = self._names[min(places) : max(places) + 1]
        large = {*SPECTRA, *_LSF_COLUMNS}
        return wanted if large & set(between) else between

    def empty(self, split: str) -> InputError:
        """Return the error of a split without spectra."""
        held = ", ".join(f"{name} {self.rows(name)}" for name in SPLITS)
        return InputError(
            f"the split {split!r} of {self._place.shown} has no spectra (it has {held}); prepare "
            "more spectra, or take another split"
        )

    def _shards(self, split: str) -> list[str]:
        if split not in SPLITS:
            raise InputError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
        return [name for name in self._footers if (parse_shard_name(name) or ("",))[0] == split]

    def _footer(self, name: str) -> Any:
        _, pq = parquet()
        with self._place.opened(name) as source:
            footer, noted = pq.read_metadata(source), self._place.noted.get(name)
            source.seek(0, os.SEEK_END)
            size = source.tell()
            if noted is not None and (footer.num_rows, size) != (noted.rows, noted.bytes):
                raise FileError(
                    f"it has {footer.num_rows} spectra in {size} bytes, and {MANIFEST} says "
                    f"{noted.rows} in {noted.bytes}"
                )
            return footer

    def check_reads(self, lsf: bool = False) -> Instrument:
        """Return the instrument, if spectra can be read with it.

        Raises:
            InputError: None was given, or line spread functions are not there.
        """
        if self.instrument is None:
            known = f" {self.about.instrument!r}" if self.about else ""
            raise InputError(
                f"reading spectra of {self._place.shown} needs its instrument{known}: "
                "Dataset(root, instrument)"
            )
        if lsf and not self.has_lsf:
            raise InputError(
                f"the dataset {self._place.shown} has no line spread functions; prepare it with "
                "them: spender prepare ... --lsf"
            )
        return self.instrument

    def _check_alike(self, name: str, schema: Any, first: Any) -> None:
        """Refuse a shard whose columns are not those of the first."""
        if not schema.equals(first) or metadata(schema) != self.about:
            raise FileError(
                f"the shard {redacted(self._place.path(name))} does not belong to the dataset: it has the "
                f"columns {_described(schema)}, the first shard has {_described(first)}, or another "
                "instrument; prepare the dataset anew"
            )

    def _check(self, instrument: Instrument, schema: Any) -> None:
        """Refuse a dataset of another instrument."""
        where = f"the dataset {self._place.shown} is not one of {instrument.name!r}"
        if self.about is not None:
            wrong = self.about.differences(Metadata.of(instrument, self.about.lsf))
            if wrong:
                raise InputError(f"{where}: it has {'; '.join(wrong)}")
        missing = [name for name in ("spec", "w", "z") if name not in schema.names]
        fields = id_fields(instrument)
        missing += [fields[n] for n in split_fields(instrument) if fields[n] not in schema.names]
        if missing:
            raise InputError(
                f"{where}: it lacks the columns {', '.join(missing)}, and has "
                f"{', '.join(schema.names)}"
            )
        pixels = {getattr(schema.field(name).type, "list_size", None) for name in SPECTRA}
        if pixels != {instrument.grid.size}:
            found = ", ".join(map(str, pixels))
            raise InputError(
                f"{where}: its spectra have {found} pixels, not {instrument.grid.size}"
            )

    def _check_rows(self, group: RowGroup, table: Any) -> None:
        if table.num_rows != group.rows:
            raise FileError(
                f"row group {group.number} has {table.num_rows} spectra, not {group.rows}"
            )


def _groups_of(footer: Any) -> list[Any]:
    return [footer.row_group(number) for number in range(footer.num_row_groups)]


def _sizes(group: Any) -> list[int]:
    return [group.column(number).total_compressed_size for number in range(group.num_columns)]


def _values(column: Any) -> NDArray[Any]:
    if column.null_count:
        raise FileError("a column has missing values (null)")
    values: NDArray[Any] = column.to_numpy()
    return values


def _described(schema: Any) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
