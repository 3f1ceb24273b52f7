"""Batches of all instruments on the device, augmented, with the time that was waited for them.

Shapes: B spectra of this process, L observed pixels.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.datasets.augment import Augmentation, augment_spectra
from spender_core.datasets.reobserving import other_conditions, reobserve_spectra
from spender_core.datasets.stream import Stream
from spender_core.errors import FileError
from spender_core.interfaces import Instrument
from spender_core.interfaces.redshifts import known_redshifts
from spender_core.training.objective import Inputs


@dataclass(frozen=True)
class Place:
    """Which batch of which epoch of a stream."""

    epoch: int
    number: int


@dataclass(frozen=True)
class Fed:
    """What one step takes.

    Attributes:
        inputs: Spectra by instrument, on the device.
        places: Where in the streams they are from.
        ids: The survey's ids of this process's spectra, by instrument, on the host.
        spectra: How many there are over all processes and instruments.
        waited: Seconds that the host waited for the streams.
    """

    inputs: dict[str, Inputs]
    places: dict[str, Place]
    ids: dict[str, Any]
    spectra: int
    waited: float


@dataclass(frozen=True)
class Home:
    """Where and as what batches are needed, and by which of several processes."""

    device: torch.device
    dtype: torch.dtype
    rank: int = 0
    world: int = 1


class Feed:
    """Endless batches of some instruments, from where their streams stand.

    Args:
        streams: By the name of the instrument.
        instruments: Likewise.
        augmentations: For those of which augmented spectra are needed, how they are made.
        seed: Of the random numbers of augmentation.
        home: Where batches go.
        filled: Instruments whose augmented spectra get reconstructions in their gaps, and whether
            they are observed under the conditions of others.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        instruments: Mapping[str, Instrument],
        augmentations: Mapping[str, Augmentation],
        seed: int,
        home: Home,
        filled: Mapping[str, bool] | None = None,
    ) -> None:
        self._filled = dict(filled or {})
        self._streams = dict(streams)
        self._waves = {name: torch.tensor(instruments[name].wave) for name in streams}
        self._augmentations = augmentations
        self._seed = seed
        self._home = home
        self._iterators: dict[str, Iterator[SpectrumBatch]] = {}

    def next(self, step: int, part: int = 0) -> Fed:
        """Return the next batches.

        Args:
            step: Of the optimiser; random numbers hang on it, so that they need no state.
            part: Which of the batches whose gradients are summed up in the step.
        """
        places = {name: _place(stream) for name, stream in self._streams.items()}
        begin = time.perf_counter()
        batches = {name: self._taken(name) for name in self._streams}
        waited = time.perf_counter() - begin
        inputs, spectra = {}, 0
        for name, batch in batches.items():
            parts = self.parts(name, places[name].number)
            spectra += sum(parts)
            inputs[name] = self.moved(name, batch, parts, (self._seed, step, part))
        ids = {name: batch.ids for name, batch in batches.items()}
        return Fed(inputs, places, ids, spectra, waited)

    def parts(self, name: str, number: int) -> tuple[int, ...]:
        """Return how many spectra of a batch each process has."""
        stream, world = self._streams[name], self._home.world
        first, last = (stream.spectra * n // len(stream) for n in (number, number + 1))
        edges = [(last - first) * rank // world for rank in range(world + 1)]
        return tuple(after - before for before, after in itertools.pairwise(edges))

    def moved(
        self, name: str, batch: SpectrumBatch, parts: tuple[int, ...], key: tuple[Any, ...]
    ) -> Inputs:
        """Return a batch on the device, augmented with random numbers that hang on a key.

        Raises:
            RedshiftError: A redshift is unknown.
        """
        z_B, lsf = known_redshifts(batch), batch.lsf
        flux_BL, ivar_BL = (self._there(t, self._home.dtype) for t in (batch.flux, batch.ivar))
        z_B = self._there(z_B, z_B.dtype)
        if lsf is not None:
            pinned: Any = lsf
            if self._home.device.type == "cuda" and hasattr(lsf, "pin_memory"):
                pinned = pinned.pin_memory()
            lsf = pinned.to(self._home.device, self._home.dtype)
        augmentation = self._augmentations.get(name)
        if augmentation is None:
            return Inputs(flux_BL, ivar_BL, z_B, lsf, parts=parts)
        generator = torch.Generator(self._home.device)
        generator.manual_seed(seed_of(*key, name, self._home.rank))
        given = (flux_BL, ivar_BL, z_B, self._waves[name], generator, augmentation)
        if name in self._filled:
            under = other_conditions(ivar_BL, generator) if self._filled[name] else None
            seen = reobserve_spectra(*given, check=False, conditions_BL=under)
            return Inputs(
                flux_BL, ivar_BL, z_B, lsf, seen.flux, seen.ivar, seen.z, seen.gaps, parts=parts
            )
        flux_aug, ivar_aug, _ = augment_spectra(*given, check=False)
        return Inputs(flux_BL, ivar_BL, z_B, lsf, flux_aug, ivar_aug, parts=parts)

    def close(self) -> None:
        """Stop reading ahead; streams stand where the last batch ended."""
        for iterator in self._iterators.values():
            close: Any = getattr(iterator, "close", None)
            if close is not None:
                close()
        self._iterators.clear()

    def _taken(self, name: str) -> SpectrumBatch:
        if name not in self._iterators:
            self._iterators[name] = iter(self._streams[name])
        try:
            return next(self._iterators[name])
        except StopIteration as error:
            raise FileError(f"the spectra of {name} came to an end; look at its dataset") from error

    def _there(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Copy a tensor to the device; the host does not wait for a GPU."""
        if self._home.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._home.device, dtype, non_blocking=True)


def seed_of(*key: Any) -> int:
    """Return a seed that hangs on all of a key, on any machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _place(stream: Stream) -> Place:
    state = stream.state_dict()
    return Place(int(state["epoch"]), int(state["batch"]))
