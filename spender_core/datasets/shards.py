"""Write spectra into shards, each whole or not at all, and a row group in memory at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from spender_core.archives.location import redacted
from spender_core.archives.writing import file_sha256
from spender_core.batch import SpectrumBatch
from spender_core.datasets.layout import (
    MANIFEST,
    ROW_GROUP,
    SHARD,
    SPLITS,
    LSFKind,
    Metadata,
    id_dtype,
    lsf_kind,
    parquet,
    parse_shard_name,
    schema,
    shard_name,
    split_fields,
    split_of,
)
from spender_core.datasets.manifest import Manifest, Shard
from spender_core.datasets.stores import Store
from spender_core.datasets.tables import fits_float32, to_table
from spender_core.errors import FileError, InputError
from spender_core.interfaces import Instrument


class ShardWriter:
    """Writes one shard into a temporary file, row group by row group.

    The same rows in the same order give the same bytes, however they arrive.

    Args:
        store: Where the dataset is.
        name: Of the shard, below the root.
        schema: Of the dataset.
    """

    def __init__(self, store: Store, name: str, schema: Any) -> None:
        pa, pq = parquet()
        self.rows, self._shown = 0, redacted(store.path(name))
        self._schema, self._waiting, self._number = schema, list[Any](), 0
        self._stack = ExitStack()
        try:
            self._path: Path = self._stack.enter_context(store.replacing(name))
            # pyarrow opens no path that is not UTF-8
            self._file = self._stack.enter_context(self._path.open("wb"))
            plain = [f.name for f in schema if not pa.types.is_fixed_size_list(f.type)]
            self._writer = pq.ParquetWriter(
                self._file,
                schema,
                compression="zstd",
                use_dictionary=[n for n in plain if pa.types.is_string(schema.field(n).type)],
                write_statistics=plain,
                write_page_checksum=True,
                # a seventh smaller, and decoded a fifth faster, than plain floats of mock SDSS spectra
                column_encoding={
                    f"{f.name}.list.element": "BYTE_STREAM_SPLIT"
                    for f in schema
                    if pa.types.is_fixed_size_list(f.type)
                },
            )
        except BaseException:
            if not self._stack.__exit__(*sys.exc_info()):
                raise

    def add(self, table: Any) -> None:
        """Add rows; as soon as a row group is full, it is written.

        Raises:
            FileError: It cannot be written.
        """
        self.rows += len(table)
        self._waiting.append(table)
        self._number += len(table)
        if self._number >= ROW_GROUP:
            pa, _ = parquet()
            joined = pa.concat_tables(self._waiting)
            full = len(joined) - len(joined) % ROW_GROUP
            for start in range(0, full, ROW_GROUP):
                self._write(joined.slice(start, ROW_GROUP))
            self._waiting, self._number = [joined.slice(full)], len(joined) - full

    def _write(self, table: Any) -> None:
        with self._explained():
            # in one chunk, so that pages do not depend on how the rows arrived
            self._writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP)

    def close(self) -> Shard:
        """Write what is left, put the shard in its place, and return what it is.

        Raises:
            FileError: It cannot be written.
        """
        pa, _ = parquet()
        try:
            if self._number:
                self._write(pa.concat_tables(self._waiting))
            with self._explained():
                self._writer.close()
                self._file.close()
                shard = Shard(self.rows, self._path.stat().st_size, file_sha256(self._path))
        except BaseException as error:
            self.discard(error)
            raise
        self._stack.close()
        return shard

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileError(f"cannot write {self._shown}: {error}") from error

    def discard(self, error: BaseException) -> None:
        """Leave nothing behind, because of an error."""
        self._waiting.clear()
        for part in (self._writer, self._file):
            with suppress(Exception):  # its disk may be full
                part.close()
        with suppress(type(error)):
            self._stack.__exit__(type(error), error, error.__traceback__)


class Shards:
    """The shards of a dataset, written as the rows of each split come in order.

    Args:
        store: Where the dataset is.
        schema: Of the dataset.
        manifest: What is there already; what is written is noted in it.
        sound: Which of its shards are what they should be.
    """

    def __init__(self, store: Store, schema: Any, manifest: Manifest, sound: Iterable[str]) -> None:
        self.store, self.schema, self.manifest = store, schema, manifest
        self.written: list[str] = []
        self._there = {name: manifest.shards[name].rows for name in sound}
        self._open: dict[str, ShardWriter] = {}
        self._at = dict.fromkeys(SPLITS, 0)
        self._begun = self._unnoted = False

    def has(self, split: str, first: int, last: int) -> bool:
        """Tell whether shards on the disk hold these rows of a split, from first to before last."""
        for number in range(first // SHARD, -(-last // SHARD)):
            there = self._there.get(shard_name(split, number), 0)
            if min(last, (number + 1) * SHARD) > number * SHARD + there:
                return False
        return True

    @property
    def position(self) -> dict[str, int]:
        """Rows of each split that have been passed."""
        return dict(self._at)

    def skip(self, rows: Iterable[int]) -> None:
        """Pass rows of each split that are on the disk."""
        for split, count in zip(SPLITS, rows, strict=True):
            self._at[split] += count

    def add(self, batch: SpectrumBatch, splits: Any) -> None:
        """Add spectra; those that are on the disk are passed.

        Raises:
            FileError: They cannot be written.
        """
        for split in SPLITS:
            rows = np.flatnonzero(splits == split)
            self._add(split, batch, rows)

    def _add(self, split: str, batch: SpectrumBatch, rows: Any) -> None:
        while len(rows):
            first = self._at[split]
            number, within = divmod(first, SHARD)
            name = shard_name(split, number)
            take = min(SHARD - within, len(rows))
            skip = min(max(self._there.get(name, 0) - within, 0), take)
            if skip < take:
                self._writer(name).add(to_table(batch[rows[skip:take]], self.schema))
            self._at[split] += take
            rows = rows[take:]
            if within + take == SHARD and name in self._open:
                self._settle(name)

    def _writer(self, name: str) -> ShardWriter:
        """Return the writer of a shard; one that is to grow begins with what is there."""
        if name not in self._open:
            writer = self._open[name] = ShardWriter(self.store, name, self.schema)
            if self._there.get(name):
                _, pq = parquet()
                with (
                    self.store.open(name) as opened,
                    pq.ParquetFile(opened, page_checksum_verification=True) as file,
                ):
                    for number in range(file.num_row_groups):
                        writer.add(file.read_row_group(number).cast(self.schema))
        return self._open[name]

    def _settle(self, name: str) -> None:
        if not self._begun:
            # from the first change of a shard on, nobody may take them for a whole dataset
            self.manifest.complete = False
            self.manifest.write(self.store)
            self._begun = True
        shard = self._open.pop(name).close()
        self.manifest.shards[name] = shard
        self._there[name] = shard.rows
        self.written.append(name)
        self._unnoted = True

    def note(self) -> None:
        """Note shards that are done, once all sources of their rows are in the manifest.

        Raises:
            FileError: It cannot be written.
        """
        if self._unnoted:
            self.manifest.write(self.store)
            self._unnoted = False

    def finish(self, complete: bool) -> None:
        """Put the last shards in their places, and note that.

        Raises:
            FileError: They cannot be written.
        """
        for name in list(self._open):
            self._settle(name)
        if complete:  # what killed runs have left; spender reads whatever is in the folder
            for name in self.store.names():
                if parse_shard_name(name) and name not in self.manifest.shards:
                    self.store.remove(name)
        self.manifest.complete = complete
        self.manifest.write(self.store)

    def discard(self, error: BaseException) -> None:
        """Leave no unfinished shard behind, because of an error."""
        for writer in self._open.values():
            writer.discard(error)
        self._open.clear()


def write_dataset(
    root: str,
    batches: Iterable[SpectrumBatch],
    instrument: Instrument,
    *,
    lsf: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Write spectra from memory, e.g. mocks, as a dataset.

    Spectra without ids are numbered in their order, in the last of the fields that name an object.

    Args:
        root: A folder, or a URL that fsspec can write to.
        batches: Normalised spectra, as of `instrument.read` or of mocks.
        instrument: Theirs.
        lsf: Write their line spread functions too.
        overwrite: Replace a dataset that is there.
        progress: Called with the number of spectra of each batch.

    Returns:
        Spectra in each split.

    Raises:
        InputError: A dataset is there, or spectra do not fit.
        FileError: It cannot be written.

    Example:
        >>> import tempfile
        >>> from spender_core import registry
        >>> from spender_core.datasets.mock.stream import MockSurvey
        >>> survey = MockSurvey(registry.instrument("sdss"), n=8, seed=1)
        >>> folder = tempfile.mkdtemp()
        >>> sum(write_dataset(folder, (mock.batch for mock in survey), survey.instrument).values())
        8
    """
    store = Store(root)
    with store.exclusive():
        clear(store, Metadata.of(instrument), overwrite)
        shards: Shards | None = None
        count = 0
        try:
            for batch in batches:
                kind = _checked(batch, instrument, lsf)
                if shards is None:
                    manifest = Manifest(Metadata.of(instrument, kind))
                    shards = Shards(store, schema(instrument, kind), manifest, ())
                batch = batch if batch.ids is not None else _numbered(batch, instrument, count)
                shards.add(batch, split_of(batch.ids, instrument))
                shards.note()
                count += len(batch)
                if progress is not None:
                    progress(len(batch))
            if shards is None:
                raise InputError("there are no spectra to write: no batch was given")
            shards.finish(complete=True)
        except BaseException as error:
            if shards is not None:
                shards.discard(error)
            raise
    return shards.manifest.rows


def clear(store: Store, about: Metadata, overwrite: bool) -> None:
    """Make room for a new dataset, of what `about` says.

    Raises:
        InputError: There is one, and it is not to be overwritten.
    """
    there = [name for name in store.names() if parse_shard_name(name)]
    if there and not overwrite:
        raise InputError(
            f"{store.shown} holds a dataset already ({there[0]}, ...); give another root, or "
            "overwrite it (overwrite=True, --overwrite)"
        )
    if there:
        # killed on the way, this leaves a dataset that is not complete, not one of spender's
        Manifest(about).write(store)
    for name in (*there, MANIFEST):
        store.remove(name)


def _checked(batch: SpectrumBatch, instrument: Instrument, lsf: bool) -> LSFKind:
    """Return how the LSF of a batch is stored, once the batch is known to fit."""
    if batch.instrument not in (None, instrument.name):
        raise InputError(f"{batch!r} is not of {instrument.name}, which the dataset is of")
    fits = fits_float32(batch)
    if not fits.all():
        wrong = np.flatnonzero(~fits)
        names = wrong if batch.ids is None else batch.ids[wrong]
        raise InputError(
            f"{len(wrong)} spectra have values that float32 cannot hold, such as norms below 1e-45 "
            f"or numbers above 3e38: {', '.join(map(str, names[:3].tolist()))}; leave them out"
        )
    if lsf and batch.lsf is None:
        raise InputError("the spectra have no line spread functions to write; leave out lsf=True")
    return lsf_kind(batch.lsf) if lsf else None


def _numbered(batch: SpectrumBatch, instrument: Instrument, first: int) -> SpectrumBatch:
    """Return spectra with ids that count them."""
    dtype, last = id_dtype(instrument), split_fields(instrument)[-1]
    ids = np.zeros(len(batch), dtype=dtype)
    for name in dtype.names or ():
        if dtype[name].kind == "i":
            ids[name] = -1
    ids[last] = np.arange(first, first + len(batch)).astype(dtype[last])
    return batch.replace(ids=ids)
