"""What a catalogue is made of: files, ids or a dataset, cut into partitions that never change.

The same sources give the same partitions, in whatever order they are given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core import registry
from spender_core.archives.location import is_remote, normal, redacted
from spender_core.cataloguing.measuring import measures_redshifts
from spender_core.cataloguing.plan import Group, How, Plan, Weights
from spender_core.cataloguing.worker import tools_of
from spender_core.datasets.layout import MANIFEST, SPLITS
from spender_core.datasets.reading import Dataset
from spender_core.datasets.sourcing import key_of
from spender_core.errors import FileError, InputError, SpenderError, UnknownNameError
from spender_core.interfaces import Instrument
from spender_core.interfaces.asked import listed
from spender_core.interfaces.loader import Source
from spender_core.interfaces.locating import located

FILES, LARGE_FILES, IDS, ROWS = 2048, 4, 2048, 4096
"""Of a partition: files of one spectrum, files of many spectra, ids, and rows of a dataset."""

TRIED = 16
"""Files that are tried to find out the instrument."""


def how(
    instrument: str,
    model: str | None = None,
    *,
    flow: str | None = None,
    everything: bool = False,
    refine: int = 0,
    redshift: bool = False,
    root: str | None = None,
    release: str | None = None,
) -> How:
    """Return what to measure, with models by name, path or URL brought into the cache.

    Args:
        instrument: Name of the instrument.
        model: Encoder and decoder; the embedded one of the instrument if None.
        flow: Density of the model's latents, for the column logP.
        everything: Keep spectra that fail the survey's quality cuts.
        refine: Steps from the encoder's latents to those that fit best, where z is known.
        redshift: Measure redshifts.
        root: For ids: a copy of the archive.
        release: For ids: the data release.

    Raises:
        UnknownNameError: There is no such instrument or model, or none is embedded.
        SpenderError: The model does not serve the instrument, or as `registry.load`.
    """
    grid = registry.instrument(instrument).grid.sha256
    if model is None:
        card = registry.embedded(instrument)
        if card is None:
            raise UnknownNameError(
                "embedded model for instrument", instrument, registry.list(), "Use --model."
            )
        model = card.name
    made = How(
        instrument, grid, Weights.of(model), None if flow is None else Weights.of(flow),
        everything, refine, redshift, root, release,
    )  # fmt: skip
    tools = tools_of(made, "cpu")  # refuses what does not fit together
    if redshift and not measures_redshifts(tools.model):
        raise InputError(f"the model {made.model.name!r} measures no redshifts; leave them out")
    return made


def is_dataset(source: str) -> bool:
    """Tell whether a source is the root of a dataset: a folder that has one, or a URL ending in /."""
    if is_remote(source):
        return source.endswith("/") or source.startswith("hf://datasets/")
    folder = Path(normal(source))
    return (folder / MANIFEST).is_file() or (folder / "data").is_dir()


def of_files(how: How, files: Sequence[str], size: int | None = None) -> Plan:
    """Plan a catalogue of files.

    Args:
        how: What to measure.
        files: Paths and URLs; one that is given twice counts once.
        size: Files of a partition.

    Raises:
        InputError: There are none, or one is a folder.
    """
    if not files:
        raise InputError("no files were given, so there is nothing to measure")
    places = {key_of(one): one for one in map(_absolute, files)}
    folder = next((one for one in places.values() if not is_remote(one) and Path(one).is_dir()), "")
    if folder:
        raise InputError(
            f"{folder} is a folder, and no dataset of spender prepare; give the files in it"
        )
    loader = registry.instrument(how.instrument).loader
    size = size or (FILES if loader is not None and loader.whole else LARGE_FILES)
    # sorted, since shells, find and servers list the same files in other orders
    found = [places[key] for key in sorted(places, key=os.fsencode)]
    parts = [tuple(found[first : first + size]) for first in range(0, len(found), size)]
    return Plan(how, "files", parts, [len(part) for part in parts])


def of_ids(how: How, ids: Any, size: int | None = None) -> Plan:
    """Plan a catalogue of ids of a survey; those of one file come into one partition.

    Args:
        how: What to measure, from which copy of the archive.
        ids: A table or structured array of ids, as `Instrument.query` returns; one that is given
            twice counts once.
        size: Ids of a partition.

    Raises:
        InputError: There are none, or none of them is one of the survey.
    """
    instrument = registry.instrument(how.instrument)
    if instrument.loader is None:
        raise InputError(f"{instrument.name} reads no files, so its spectra cannot be found by ids")
    rows = _rows(listed(ids, instrument.loader))
    if how.root is not None:
        how = replace(how, root=_absolute(how.root))
    places = located(instrument.name, instrument.loader, list(rows), how.root, how.release)
    files = [one.urls[0] if isinstance(one, Source) else "" for one in places]
    rank = {file: number for number, file in enumerate(sorted(set(files)))}
    order = np.argsort(np.array([rank[file] for file in files]), kind="stable")
    parts = [
        rows[order[first:last]]
        for first, last in _whole_files([files[row] for row in order], size or IDS)
    ]
    return Plan(how, "ids", parts, [len(part) for part in parts])


def of_dataset(how: How, root: str, size: int | None = None) -> Plan:
    """Plan a catalogue of all splits of a dataset.

    Args:
        how: What to measure.
        root: Of the dataset, a folder or URL.
        size: Spectra of a partition, rounded to row groups.

    Raises as `Dataset`.
    """
    dataset = Dataset(_absolute(root), registry.instrument(how.instrument))
    groups = [
        Group(split, one.shard, one.number, one.rows)
        for split in SPLITS
        for one in dataset.groups(split)
    ]
    parts: list[tuple[Group, ...]] = []
    waiting: list[Group] = []
    for group in groups:
        waiting.append(group)
        if sum(one.rows for one in waiting) >= (size or ROWS):
            parts.append(tuple(waiting))
            waiting = []
    if waiting:
        parts.append(tuple(waiting))
    how = replace(how, dataset=dataset.root, fingerprint=dataset.fingerprint)
    return Plan(how, "dataset", parts, [sum(one.rows for one in part) for part in parts])


def instrument_of_dataset(root: str) -> str:
    """Return the name of the instrument that a dataset says it is of.

    Raises:
        InputError: It does not say.
    """
    about = Dataset(_absolute(root)).about
    if about is None:
        raise InputError(
            f"{redacted(root)} does not say its instrument; give it: --instrument NAME"
        )
    return about.instrument


def recognised(files: Sequence[str]) -> Instrument:
    """Return the instrument of the first of some files, evenly spread, that can be read.

    Raises:
        FileError: None of them tells it.
    """
    troubles: list[SpenderError] = []
    for row in dict.fromkeys(np.linspace(0, len(files) - 1, min(TRIED, len(files))).astype(int)):
        try:
            return registry.recognise(_absolute(files[row]))
        except SpenderError as error:
            troubles.append(error)
    raise FileError(
        f"none of {len(troubles)} of the files tells the instrument: {troubles[0]}. Give it: "
        "--instrument NAME"
    ) from troubles[0]


def _absolute(path: str) -> str:
    """Return a path that holds in any folder, as workers may be in another one; a URL as it is."""
    if is_remote(path) or path.startswith("hf:"):
        return path
    if not path:
        raise InputError("no path was given: it is empty; give the path or URL of a file")
    return os.path.normpath(Path(normal(path)).absolute())


def _rows(entries: Sequence[Any]) -> NDArray[np.void]:
    """Return the rows of a table of ids in order, each once."""
    if not all(isinstance(entry, np.void) and entry.dtype.names for entry in entries):
        raise InputError(
            f"{entries[0]!r:.60} is no row of a table; give ids as a table or a structured array, as "
            "`query` returns them"
        )
    rows: NDArray[np.void] = np.unique(np.array(entries, dtype=entries[0].dtype))
    return rows


def _whole_files(files: Sequence[str], size: int) -> Iterator[tuple[int, int]]:
    """Yield the ends of runs of at least `size` ids, none of which ends within a file."""
    first = 0
    for row in range(1, len(files) + 1):
        if row == len(files) or (row - first >= size and files[row] != files[row - 1]):
            yield first, row
            first = row
