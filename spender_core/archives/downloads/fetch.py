"""Fetch files of models into the cache, from the first server that has the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from spender_core.archives.downloads import cache
from spender_core.archives.location import Location, Wanted, offline, parse
from spender_core.errors import FileError, InputError


def fetch(location: str, sha256: str = "", name: str = "", elsewhere: Sequence[str] = ()) -> Path:
    """Return the local path of a file, downloading it if it is not in the cache.

    It is tried at its location, then at each of `elsewhere`, then on the user's mirrors
    (SPENDER_MIRRORS). Processes that want the same file wait for the first of them.

    Args:
        location: `hf:owner/repository[@revision]/file`, or a URL; `#sha256=` may follow.
        sha256: Its hash, or the leading hex digits that are known; "" if none is, and the
            first download tells it.
        name: What a user calls it, for messages.
        elsewhere: URLs of the same file.

    Raises:
        InputError: The location is malformed, or its file name could lead out of the cache.
        OfflineError: It is not in the cache, and SPENDER_OFFLINE is set or no server gives it.
        MissingFileError: No server has it.
        WeightsError: The hash differs; nothing is kept.
        FileError: The cache cannot be written.
    """
    place = parse(location)
    known = sha256.lower() or place.sha256
    if place.sha256 and not (known.startswith(place.sha256) or place.sha256.startswith(known)):
        raise InputError(f"{place.shown} says sha256 {place.sha256}, its card {known}")
    wanted = Wanted(place, max(known, place.sha256, key=len), name or place.shown, tuple(elsewhere))
    found = cache.find(place, wanted.sha256)
    if found.path is not None:
        _hold_to(place, found)
        return found.path
    if offline():
        raise cache.miss(wanted.name, found, "SPENDER_OFFLINE is set")
    one = cache.entry(place)
    from spender_core.archives.downloads import servers, transport

    with cache.locked(one, transport.patience()) as hold:
        found = cache.find(place, wanted.sha256)  # another process may have brought it
        return found.path or servers.bring(wanted, one, found, hold)


def _hold_to(place: Location, found: cache.Lookup) -> None:
    """Remember the hash of a file that came to the cache without a record, e.g. by hand."""
    one = cache.entry(place)
    if found.path != one.path or one.record() is not None:
        return
    size = one.path.stat().st_size
    record = cache.Record(location=place.shown, file=place.file, sha256=found.sha256, size=size)
    with suppress(FileError):  # the cache may be read-only
        one.remember(record)
