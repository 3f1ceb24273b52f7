"""The one family of errors of this package.

Every message says what was given, what is allowed, and what to do next. Catching
`SpenderError` catches all of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


class DuplicateNameError(SpenderError):
    """Two installed plugins offer something of the same name."""

    def __init__(self, kind: str, name: str, owners: Iterable[str]) -> None:
        super().__init__(
            f"{kind} {name!r} is offered by more than one plugin: {', '.join(sorted(owners))}. "
            "Uninstall all but one of them; `spender plugins` shows what each one offers."
        )
