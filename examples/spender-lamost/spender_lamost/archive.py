"""Where spectra are: on the survey's server, on a mirror of it, or in a folder.

An id is one of
- OBSID, the number that LAMOST gives each observation of a target through a fibre, and by which
  the survey's server knows it;
- (LMJD, PLANID, SPID, FIBERID), of which the names of files are made: of copies of the archive.

Roots, releases and paths are data: `releases.toml`, and what the user's own file adds to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from spender_core.archives import configuration
from spender_core.archives.location import join
from spender_core.archives.releases import Archive
from spender_core.errors import InputError
from spender_core.interfaces import Source

NAME = ("lmjd", "planid", "spid", "fiberid")


def archive() -> Archive:
    """Return LAMOST's archive, with the user's own releases."""
    return configuration.archive("lamost", resources.files("spender_lamost") / "releases.toml")


def sources(ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
    """Return where the file of each id may be.

    Args:
        ids: OBSIDs, or tuples (OBSID,) or (LMJD, PLANID, SPID, FIBERID).
        root: A folder, or the URL of a server; None for `SPENDER_ROOT_LAMOST`, the user's own
            file, or the survey's server.
        release: A release of `releases.toml` or the user's file; None for the default.

    Raises:
        InputError: The release is unknown, or an id is not of LAMOST.
    """
    lamost = archive()
    _, found = lamost.release(release, "lrs")
    top = lamost.root(root, found)
    return [
        Source(
            tuple(
                join(top, path)
                for collection in found.collections["lrs"]
                for path in lamost.paths(collection, kind, fields)
            )
        )
        for kind, fields in map(_fields, ids)
    ]


def _fields(one: Any) -> tuple[str, Mapping[str, str | int]]:
    """Return which kind of path an id leads to, and what fills it."""
    plain = one.item() if hasattr(one, "item") else one  # numpy's numbers and rows
    values = tuple(plain) if isinstance(plain, tuple | list) else (plain,)
    try:
        if len(values) == 1:
            return "obsid", {"obsid": int(values[0])}
        numbers = {name: int(values[NAME.index(name)]) for name in ("lmjd", "spid", "fiberid")}
        if len(values) == len(NAME):
            return "name", {**numbers, "planid": str(values[1])}
    except (TypeError, ValueError, IndexError):
        pass
    raise InputError(
        f"{one!r:.80} is no id of LAMOST: give OBSID, or (LMJD, PLANID, SPID, FIBERID), in which "
        "only PLANID is text"
    )
