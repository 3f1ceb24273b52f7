"""The one family of errors of this package.

Every message says what was given, what is allowed, and what to do next. Catching
`SpenderError` catches all of them. Warnings are of the family `SpenderWarning`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.table import Table


class SpenderError(Exception):
    """Base class of every error that spender raises for a caller to read."""


class InputError(SpenderError, ValueError):
    """An argument or an array has the wrong shape, type or values."""


class GridError(InputError):
    """A wavelength grid is malformed, or does not match the one that is expected."""


class RedshiftError(InputError):
    """A redshift is needed and unknown, or outside of what is possible."""


class FileError(SpenderError, OSError):
    """A file is missing, cannot be opened, or does not hold what it should."""


class DamagedFileError(FileError):
    """A file does not hold what it should. Its name is added where it is read."""


class MissingFileError(FileError):
    """A file does not exist where it was looked for."""


class NoSpectraError(SpenderError):
    """Reading gave no spectrum that may be used; the message lists the causes."""


class WeightsError(SpenderError):
    """Model weights do not fit: a tensor, a hash, a grid or a format version."""


class OfflineError(SpenderError):
    """Something must be downloaded, and the network is switched off or unreachable."""


class PluginError(SpenderError):
    """A plugin breaks the contract of the hooks."""


class UnknownNameError(SpenderError, LookupError):
    """No installed plugin offers a model, instrument or architecture of this name."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        text = f"no {kind} named {name!r}."
        if near:
            text += f" Did you mean {' or '.join(map(repr, near))}?"
        text += f" Known: {', '.join(known) or 'none; install a plugin, e.g. spender-sdss'}."
        super().__init__(f"{text} {hint}".strip())


class NonFiniteError(SpenderError):
    """Training met a loss or a gradient that is NaN or infinite; the message names the spectra."""


class DuplicateNameError(SpenderError):
    """Two installed plugins offer something of the same name."""

    def __init__(self, kind: str, name: str, owners: Iterable[str]) -> None:
        super().__init__(
            f"{kind} {name!r} is offered by more than one plugin: {', '.join(sorted(owners))}. "
            "Uninstall all but one of them; `spender plugins` shows what each one offers."
        )


class SpenderWarning(UserWarning):
    """Base class of every warning that spender gives."""


class PartialReadWarning(SpenderWarning):
    """Some of the sources could not be read; `failures` of what was read lists them."""


class CheckpointWarning(SpenderWarning):
    """A checkpoint of a training is damaged, or is gone on from under other circumstances."""


class RedshiftRangeWarning(SpenderWarning):
    """A redshift is outside of the range that the model was made for."""


@dataclass(frozen=True)
class Failure:
    """A source that could not be read.

    Attributes:
        source: The path, URL (without its secrets) or id, as it was asked for.
        error: Name of the class of the error.
        message: What went wrong.
    """

    source: str
    error: str
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.error}: {self.message}"


class Failures(tuple[Failure, ...]):
    """The sources that could not be read, in order: a table, one line each when printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        kinds = Counter(failure.error for failure in self)
        listing = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        return f"Failures({len(self)}{': ' if self else ''}{listing})"

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def table(self) -> Table:
        """Return an astropy Table with the columns source, error and message."""
        from astropy.table import Table

        names = ("source", "error", "message")
        columns = [[getattr(failure, name) for failure in self] for name in names]
        return Table(columns, names=names, dtype=("U", "U", "U"))
