"""The plan of a catalogue: what is measured of which spectra, by what, and in which partitions.

The hash of a plan is in every file of the catalogue, so that none is taken for one of another plan.
Nothing in it depends on when, where or on how many workers it is carried out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core import __version__, registry
from spender_core.archives.location import is_remote, normal, redacted
from spender_core.archives.writing import file_sha256
from spender_core.datasets.sourcing import digest_of, key_of, name_of
from spender_core.errors import InputError

FORMAT = 1
"""Version of the layout of a catalogue."""


@dataclass(frozen=True)
class Group:
    """Rows of a dataset: a row group of one of its shards."""

    split: str
    shard: str
    number: int
    rows: int

    def __str__(self) -> str:
        return f"{self.shard}, row group {self.number}"


Sources = Sequence[str] | NDArray[np.void] | Sequence[Group]
"""Paths and URLs; ids of a survey; or row groups of a dataset."""


@dataclass(frozen=True)
class Weights:
    """A model, as workers load it and as the catalogue tells it.

    Attributes:
        source: What `registry.load` takes; a path is absolute.
        name: Name on its card.
        sha256: Of its file.
    """

    source: str
    name: str
    sha256: str

    @classmethod
    def of(cls, source: str) -> Weights:
        """Return the weights of a model, brought into the cache.

        Raises as `registry.load`.
        """
        path = registry.pull(source)
        if registry.is_file(source):
            if not is_remote(source) and not source.startswith("hf:"):
                source = str(Path(normal(source)).absolute())
            name = path.name if path.suffix == ".pt" else registry.info(source).name
        else:
            name = registry.info(source).name
        return cls(source, name, file_sha256(path))

    @property
    def told(self) -> dict[str, str]:
        """What the catalogue says of them."""
        return {"name": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class How:
    """What is measured, and by what; the same for all partitions.

    Attributes:
        instrument: Name of the instrument.
        grid: Hash of its grid.
        model: Encoder and decoder.
        flow: Density of the model's latents, if it is wanted.
        everything: Keep spectra that fail the survey's quality cuts.
        refine: Steps from the encoder's latents to those that fit best.
        redshift: Measure redshifts.
        root: For ids: a copy of the archive.
        release: For ids: the data release.
        dataset: Root of the dataset that row groups are of.
        fingerprint: Its `Dataset.fingerprint`.
    """

    instrument: str
    grid: str
    model: Weights
    flow: Weights | None = None
    everything: bool = False
    refine: int = 0
    redshift: bool = False
    root: str | None = None
    release: str | None = None
    dataset: str | None = None
    fingerprint: str | None = None

    @property
    def told(self) -> dict[str, Any]:
        """What the catalogue says of it: no secrets, and nothing that may change unnoticed."""
        return {
            "instrument": self.instrument,
            "grid": self.grid,
            "model": self.model.told,
            "flow": None if self.flow is None else self.flow.told,
            "options": {
                "all": self.everything,
                "refine": self.refine,
                "redshift": self.redshift,
                "root": None if self.root is None else redacted(self.root),
                "release": self.release,
            },
        }


@dataclass(frozen=True)
class Task:
    """A partition, as a worker gets it.

    Attributes:
        number: Of the partition, from 0.
        plan: Hash of the plan.
        folder: The catalogue, absolute.
        how: What to measure.
        sources: Of which spectra.
        device: Of torch; a GPU without a number is chosen by the worker.
        again: Read anew sources that could not be read.
    """

    number: int
    plan: str
    folder: str
    how: How
    sources: Sources
    device: str = "cpu"
    again: bool = False

    @property
    def told(self) -> dict[str, Any]:
        """Number, ends and digest of the sources."""
        return _told(self.sources)

    def __str__(self) -> str:
        first, last = name_of(self.sources[0]), name_of(self.sources[-1])
        return f"{len(self.sources)} source(s), {first} to {last}"


@dataclass(frozen=True)
class Plan:
    """What is measured of which spectra.

    Attributes:
        how: What is measured, and by what.
        kind: What the sources are: "files", "ids" or "dataset".
        parts: The sources of each partition.
        expected: Spectra in each partition, as far as they are known beforehand, else sources.
    """

    how: How
    kind: str
    parts: Sequence[Sources]
    expected: Sequence[int]

    @cached_property
    def hash(self) -> str:
        """What tells the plan from others, 32 hex digits."""
        return plan_hash(self.told)

    @cached_property
    def told(self) -> dict[str, Any]:
        """What the catalogue says of the plan, for JSON."""
        return {
            "format": FORMAT,
            **self.how.told,
            "sources": {
                "kind": self.kind,
                "number": sum(map(len, self.parts)),
                "dataset": None if self.how.dataset is None else redacted(self.how.dataset),
                "fingerprint": self.how.fingerprint,
            },
            "partitions": [_told(part) for part in self.parts],
        }

    def task(self, number: int, folder: Path, device: str, again: bool) -> Task:
        """Return the task of a partition."""
        there = str(folder.absolute())
        return Task(number, self.hash, there, self.how, self.parts[number], device, again)


def plan_hash(told: dict[str, Any]) -> str:
    """Return the hash of what a plan says, 32 hex digits; places and names do not count."""
    counted = json.loads(json.dumps(told))
    for part in counted["partitions"]:
        del part["first"], part["last"]
    del counted["sources"]["dataset"]
    for weights in (counted["model"], counted["flow"]):
        if weights is not None:
            del weights["name"]
    text = json.dumps(counted, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def versions() -> dict[str, str]:
    """Return the versions of what measures: this package, the plugins, and torch."""
    import torch

    found = {"spender-core": __version__, "torch": torch.__version__}
    return found | {one.distribution: one.version for one in registry.plugins() if one.distribution}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return in words what two plans, as they are told, differ in."""
    flat = [dict(_flat(plan)) for plan in (old, new)]
    names = [name for name in flat[1] if flat[0].get(name) != flat[1][name]]
    found = [f"{n} {flat[0].get(n)!s:.80}, now {flat[1].get(n)!s:.80}" for n in names]
    if not found and old.get("partitions") != new.get("partitions"):
        found.append("other sources, or other partitions of them")
    return found


def _flat(told: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in told.items():
        if isinstance(value, dict):
            found += _flat(value, f"{above}{name} ")
        elif not isinstance(value, list):
            found.append((above + name, value))
    return found


def _told(sources: Sources) -> dict[str, Any]:
    if not len(sources):
        raise InputError("a partition without sources: there is nothing to measure")
    return {
        "sources": len(sources),
        "first": name_of(sources[0]),
        "last": name_of(sources[-1]),
        "digest": digest_of([key_of(source) for source in sources]),
    }
