"""Mock surveys as streams of batches, each of which can be drawn alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from spender_core import __version__
from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.artefacts import Artefacts
from spender_core.datasets.mock.conditions import Conditions, KnownLSF
from spender_core.datasets.mock.galaxies import PreparedPopulations, galaxies, prepare
from spender_core.datasets.mock.observing import Observed, observe
from spender_core.datasets.mock.quasars import QuasarLibrary, quasars
from spender_core.datasets.mock.sources import Sources
from spender_core.datasets.mock.stars import StarLibrary, stars
from spender_core.datasets.mock.surveys import WHAT, Survey, survey
from spender_core.datasets.mock.templates import read_populations
from spender_core.errors import InputError
from spender_core.interfaces.instrument import Instrument

MIXED = "mixed"
"""A survey of galaxies, quasars and stars, the kind changing from batch to batch."""
_TURNS = ("galaxies", "galaxies", "quasars", "galaxies", "stars")
_CONDITIONS = 64
"""Parametric conditions to draw from."""


@dataclass(frozen=True)
class Templates:
    """What objects are made from; made or read when they are first needed.

    Attributes:
        folder: Where files of templates are; None for parametric ones.
    """

    folder: Path | None = None
    _made: dict[str, PreparedPopulations | QuasarLibrary | StarLibrary] = field(
        default_factory=dict, repr=False, compare=False
    )

    def galaxies(self) -> PreparedPopulations:
        """Return stellar populations, ready to be mixed."""
        made = self._made.get("galaxies")
        if not isinstance(made, PreparedPopulations):
            folder = self.folder
            made = prepare(parametric.populations() if folder is None else read_populations(folder))
            self._made["galaxies"] = made
        return made

    def quasars(self) -> QuasarLibrary:
        """Return bases of quasars."""
        made = self._made.get("quasars")
        if not isinstance(made, QuasarLibrary):
            folder = self.folder
            made = QuasarLibrary.parametric() if folder is None else QuasarLibrary.read(folder)
            self._made["quasars"] = made
        return made

    def stars(self) -> StarLibrary:
        """Return stars."""
        made = self._made.get("stars")
        if not isinstance(made, StarLibrary):
            folder = self.folder
            made = StarLibrary.parametric() if folder is None else StarLibrary.read(folder)
            self._made["stars"] = made
        return made

    def source(self, what: str) -> str:
        """Return where the templates of a kind of object come from."""
        if what == "galaxies":
            return self.galaxies().populations.source
        return self.quasars().source if what == "quasars" else self.stars().source


class MockSurvey:
    """Batches of mock spectra of one instrument, without end or n spectra in all.

    Batch k depends on the seed, k and what was asked for, and on nothing drawn before: `batch`
    makes it alone, so that workers share a stream and a stream goes on where it was left.

    Args:
        instrument: What observes.
        what: "galaxies", "quasars", "stars", or "mixed": of 5 batches, 3 are galaxies, one
            quasars and one stars; batches of few spectra are made smaller for it.
        n: Spectra in all; None for no end.
        templates: A folder with files of templates, or None for parametric ones.
        conditions: How the instrument observes; parametric conditions if None.
        seed: Surveys of different seeds share nothing.
        size: Spectra in a batch; the last one of n may be smaller.
        z_range: Redshifts to keep of those that the survey looks at.
        snr_range: Limits of the median signal-to-noise ratio a pixel.
        artefacts: How much goes wrong; the defaults of `Artefacts` if None.
        lsf: Let spectra come with their line spread functions, as in `observe`. Files of mocks
            do not keep them.

    Raises:
        InputError: An argument is not one of those, or the folder lacks templates.

    Example:
        >>> from spender_core import Instrument
        >>> from spender_core.grid import Linear
        >>> class Mine(Instrument):
        ...     name = "mine"
        ...     grid = Linear(4000.0, 2.0, 2000)
        ...     loader = None
        >>> survey = MockSurvey(Mine(), what="stars", n=5, size=4)
        >>> [len(observed.batch) for observed in survey]
        [4, 1]
    """

    def __init__(
        self,
        instrument: Instrument,
        what: str = "galaxies",
        *,
        n: int | None = None,
        templates: str | Path | Templates | None = None,
        conditions: Conditions | None = None,
        seed: int = 0,
        size: int = 64,
        z_range: tuple[float, float] | None = None,
        snr_range: tuple[float, float] | None = None,
        artefacts: Artefacts | None = None,
        lsf: KnownLSF = False,
    ) -> None:
        if what not in (*WHAT, MIXED):
            raise InputError(f"what must be one of {', '.join((*WHAT, MIXED))}, not {what!r}")
        if size < 1 or (n is not None and n < 1) or seed < 0:
            raise InputError(
                f"size and n must be 1 or more, seed 0 or more; got {size}, {n}, {seed}"
            )
        if what == MIXED and n is not None:  # a turn of all kinds, however few there are
            size = min(size, -(-n // len(_TURNS)))
        self.instrument, self.what, self.n = instrument, what, n
        self.seed, self.size, self.lsf = seed, size, lsf
        self.artefacts = Artefacts() if artefacts is None else artefacts
        if not isinstance(templates, Templates):
            templates = Templates(None if templates is None else Path(templates))
        self.templates = templates
        self.kinds = tuple(dict.fromkeys(_TURNS)) if what == MIXED else (what,)
        self.surveys: dict[str, Survey] = {
            kind: survey(instrument.name, kind).within(
                z_range if kind != "stars" or what == "stars" else None, snr_range
            )
            for kind in self.kinds
        }
        self.sources = {kind: templates.source(kind) for kind in self.kinds}
        self.described = "parametric" if conditions is None else f"{len(conditions)} from files"
        if conditions is None:
            conditions = Conditions.parametric(instrument, _CONDITIONS, _generator(seed, -1))
        self.conditions = conditions

    def __len__(self) -> int:
        """Return the number of batches.

        Raises:
            TypeError: It has no end.
        """
        if self.n is None:
            raise TypeError("this survey has no end; give MockSurvey a number n")
        return -(-self.n // self.size)

    def __iter__(self) -> Iterator[Observed]:
        number = 0
        while self.n is None or number < len(self):
            yield self.batch(number)
            number += 1

    def kind(self, number: int) -> str:
        """Return what batch `number` holds, one of `surveys.WHAT`."""
        return _TURNS[number % len(_TURNS)] if self.what == MIXED else self.what

    def batch(self, number: int) -> Observed:
        """Draw batch `number`, from 0, alone.

        Raises:
            InputError: There is no such batch.
        """
        if number < 0 or (self.n is not None and number >= len(self)):
            last = "" if self.n is None else f" to {len(self) - 1}"
            raise InputError(f"there is no batch {number}; they count from 0{last}")
        count = self.size if self.n is None else min(self.size, self.n - number * self.size)
        generator = _generator(self.seed, number)
        kind = self.kind(number)
        z, snr = self.surveys[kind].draw(count, generator)
        sources = self._sources(kind, z, generator)
        return observe(
            sources, self.instrument, self.conditions, generator, snr=snr,
            artefacts=self.artefacts, lsf=self.lsf,
        )  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        """Return what the survey was made with, for files to tell.

        To make it again takes the same templates, and versions of spender and torch, too.
        """
        return {
            "spender": __version__,
            "instrument": self.instrument.name,
            "grid_sha256": self.instrument.grid.sha256,
            "what": self.what,
            "n": self.n,
            "seed": self.seed,
            "size": self.size,
            "templates": self.sources,
            "conditions": self.described,
            "conditions_sha256": _sha256(self.conditions),
            "artefacts": asdict(self.artefacts),
            "z_range": [list(one.z_range) for one in self.surveys.values()],
            "snr_range": [list(one.snr_range) for one in self.surveys.values()],
        }

    def _sources(self, kind: str, z: torch.Tensor, generator: torch.Generator) -> Sources:
        if kind == "galaxies":
            return galaxies(len(z), self.templates.galaxies(), generator).at(z)
        if kind == "quasars":
            return quasars(z, self.templates.quasars(), generator)
        return stars(len(z), self.templates.stars(), generator).at(z)


def _generator(seed: int, number: int) -> torch.Generator:
    """Return a generator of a stream of its own for each pair, whatever pairs there are."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def _sha256(conditions: Conditions) -> str:
    """Return the hash of all values of some conditions."""
    digest = hashlib.sha256(repr(conditions.seams).encode())
    for name in ("variance", "photons", "residual", "good", "lsf"):
        values = getattr(conditions, name).contiguous().numpy()
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
