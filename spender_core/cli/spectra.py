"""What `encode` and `plot` share: read a file, and find the right model for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spender_core import registry
from spender_core.archives.location import redacted
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import InputError, SpenderError, UnknownNameError
from spender_core.interfaces import Instrument, Model


@dataclass
class Models:
    """Loads each model once: the one asked for, or the one embedded for an instrument.

    One that cannot be loaded is not tried again; its error is raised each time.
    """

    wanted: str | None
    device: Any = "cpu"
    _loaded: dict[str, Model | SpenderError] = field(default_factory=dict)

    def check(self) -> None:
        """Load the model that was asked for, if one was, before any file is read."""
        if self.wanted is not None:
            self._named(self.wanted)

    def for_instrument(self, instrument: Instrument) -> Model:
        """Return the model.

        Raises:
            InputError: It is a flow, or does not serve the instrument.
            UnknownNameError: None is embedded, and none was asked for.
            SpenderError: It cannot be loaded.
        """
        model = self._named(self.wanted or _embedded(instrument.name))
        if instrument.name not in model.instruments:
            served = ", ".join(model.instruments)
            raise InputError(
                f"model {redacted(self.wanted or '')!r} serves {served}, not {instrument.name}"
            )
        return model

    def use_lsf(self, instrument: Instrument) -> bool:
        """Tell whether the model needs the line spread functions of spectra.

        False too where it cannot be loaded, which `for_instrument` raises in its turn.
        """
        try:
            return self.for_instrument(instrument).uses_lsf
        except SpenderError:
            return False

    def _named(self, name: str) -> Model:
        if name not in self._loaded:
            try:
                _, model = registry.load(name, device=self.device)
                if not isinstance(model, Model):
                    raise InputError(
                        f"{redacted(name)!r} is a flow of latents, which encodes no spectra"
                    )
                self._loaded[name] = model
            except SpenderError as error:
                self._loaded[name] = error
        found = self._loaded[name]
        if isinstance(found, SpenderError):
            raise found
        return found


def _embedded(instrument: str) -> str:
    card = registry.embedded(instrument)
    if card is None:
        raise UnknownNameError(
            "embedded model for instrument", instrument, registry.list(), "Use --model."
        )
    return card.name


@dataclass(frozen=True)
class Read:
    """The spectra of a file: all of them, the usable rows, and why others are not."""

    batch: SpectrumBatch
    rows: list[int]
    rejected: list[tuple[str, str]]


def read(instrument: Instrument, url: str, everything: bool, lsf: bool = False) -> Read:
    """Read a file and tell usable spectra from others, which have a cause each."""
    batch = instrument.read(url, quality=False, lsf=lsf)
    rejects = Flag.EMPTY if everything else instrument.rejects
    rows = ((batch.flags & int(rejects)) == 0).nonzero()[:, 0].tolist()
    rejected = [
        (batch.label(row), ", ".join(batch.causes(row, rejects)))
        for row in sorted(set(range(len(batch))) - set(rows))
    ]
    return Read(batch, rows, rejected)
