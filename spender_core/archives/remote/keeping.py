"""The room that the cache of archive files takes: its folder, its bound, and what goes first.

    SPENDER_HOME/data/<2 hex digits>/<62 hex digits>.whole            a small file
                                    /<62 hex digits>.index            which parts of a large one are there
                                    /<62 hex digits>.<16 hex>.blocks  those parts, in a sparse file

The names are hashes of URLs, so that no URL can lead out of the folder. SPENDER_CACHE_SIZE bounds it;
what was not used for longest goes first.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from spender_core.archives.downloads import cache
from spender_core.errors import FileError, InputError, SpenderWarning

BOUND = "20GB"
"""What the cache may take where SPENDER_CACHE_SIZE is not set."""

STEPS = 64
"""The folder is looked through each time that a process wrote this part of the bound."""

LEFT = 3600.0
"""Seconds after which a file that nobody finished is removed."""

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?\s*")
_PLACE = ("SPENDER_HOME", "XDG_CACHE_HOME", "HOME")
_FOLDER = re.compile(r"[0-9a-f]{2}")
_OURS = re.compile(r"([0-9a-f]{62})\.(?:whole|index|absent|[0-9a-f]{16}\.(?:blocks|part))")


def folder() -> Path:
    """Return the folder of the user's cache of archive files."""
    return _folder(*map(os.environ.get, _PLACE))


@lru_cache(8)
def _folder(*environment: str | None) -> Path:
    return cache.home() / "data"


def bound() -> int:
    """Return the bytes that the cache may take, 0 if there is to be none.

    Raises:
        InputError: SPENDER_CACHE_SIZE is no size.
    """
    return _bytes(os.environ.get("SPENDER_CACHE_SIZE", "").strip() or BOUND)


@lru_cache(8)
def _bytes(text: str) -> int:
    size = _SIZE.fullmatch(text)
    if size is None:
        raise InputError(
            f"SPENDER_CACHE_SIZE must be a size such as 20GB or 500MB, or 0, not {text!r:.40}"
        )
    unit = " kMGT".index(size[2].replace("K", "k") or " ")
    return int(float(size[1]) * (1024 if size[3] else 1000) ** unit)


@dataclass(frozen=True)
class Used:
    """What an entry of the cache takes.

    Attributes:
        stem: Path of its files, less their suffixes.
        paths: Its files.
        size: Bytes on the disk.
        time: When it was last used, seconds since the epoch.
    """

    stem: str
    paths: tuple[str, ...]
    size: int
    time: float


class _Room:
    """How much this process may still write before it looks at the folder again."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process = -1
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a process that was forked, or in another folder."""
        self.process = os.getpid()
        self.place: Path | None = None
        self.total: int | None = None
        self.written = 0
        self.trouble = ""
        self.told = False
        self.reused = 0
        self.open: Counter[str] = Counter()

    def renew(self) -> None:
        """Forget what another process or another folder left."""
        here = folder()
        if self.process != os.getpid():
            self.lock = threading.Lock()
            self.forget()
        if self.place != here:
            self.place, self.total, self.trouble, self.told = here, None, "", False
            # many short processes look through the folder as often as one long one
            self.written = int(random.random() * (bound() // STEPS))


_room = _Room()


def admits(size: int) -> bool:
    """Tell whether so many bytes may be written now, having made room if need be."""
    _room.renew()
    most = bound()
    if _room.trouble or size > most // 2:
        return False
    with _room.lock:
        _room.written += size
        step = most // STEPS
        if _room.written > step or (_room.total or 0) + size > most - 2 * step:
            _room.written = 0
            _room.total = _evict(most - 2 * step - size)
        if (_room.total or 0) + size > most - step:
            return False
        if _room.total is not None:
            _room.total += size
        return True


def give_up(error: OSError) -> None:
    """Write no more in this process, since it cannot be done; `tell` says why."""
    _room.renew()
    if not _room.trouble:
        _room.trouble = f"{error.strerror or error}"


def tell() -> None:
    """Warn, once, that nothing can be written to the cache."""
    _room.renew()
    if _room.trouble and not _room.told:
        _room.told = True
        warnings.warn(
            f"cannot write to the cache {folder()}: {_room.trouble}. Reading goes on without it; set "
            "SPENDER_HOME to a folder with space, or SPENDER_CACHE_SIZE=0 for no cache",
            SpenderWarning,
            stacklevel=2,
        )


def note_reuse(size: int) -> None:
    """Count bytes that came from the cache."""
    _room.renew()
    with _room.lock:
        _room.reused += size


def reused() -> int:
    """Return the bytes that this process has read from the cache in place of the network."""
    return _room.reused if _room.process == os.getpid() else 0


@contextmanager
def in_use(stem: str) -> Iterator[None]:
    """Keep an entry from being evicted by this process."""
    _room.renew()
    with _room.lock:
        _room.open[stem] += 1
    try:
        yield
    finally:
        with _room.lock:
            _room.open[stem] -= 1
            if _room.open[stem] <= 0:
                del _room.open[stem]


def used(root: Path | None = None) -> list[Used]:
    """Return the entries of the cache, those that were not used for longest first."""
    files: dict[str, list[tuple[str, os.stat_result]]] = defaultdict(list)
    for path in _files(root or folder()):
        with suppress(OSError):
            files[path.path.rpartition(os.sep)[0] + os.sep + path.name.partition(".")[0]].append(
                (path.path, path.stat())
            )
    found = [
        Used(
            stem,
            tuple(path for path, _ in parts),
            sum(_allocated(status) for _, status in parts),
            max(status.st_mtime for _, status in parts),
        )
        for stem, parts in files.items()
    ]
    return sorted(found, key=lambda one: one.time)


def _files(root: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files that are of the cache's making."""
    with suppress(OSError), os.scandir(root) as folders:
        for one in folders:
            if not _FOLDER.fullmatch(one.name) or not one.is_dir(follow_symlinks=False):
                continue
            with suppress(OSError), os.scandir(one.path) as files:
                for path in files:
                    if _OURS.fullmatch(path.name) and path.is_file(follow_symlinks=False):
                        yield path


def _allocated(status: os.stat_result) -> int:
    """Return what a file takes on the disk, which is little where it has holes."""
    return min(getattr(status, "st_blocks", 1 << 62) * 512, status.st_size + 4096)


def _evict(most: int) -> int:
    """Remove entries until the rest takes at most so many bytes; return what it takes.

    Of two processes that would do so at once, one does.
    """
    entries = used()
    total = sum(one.size for one in entries)
    try:
        with FileLock(folder() / ".lock", timeout=0):
            for one in entries:
                total -= _remove_leftovers(one)
                if total > most and not _room.open[one.stem]:
                    total -= _remove(one.paths, one.size)
    except (Timeout, OSError):
        return total
    return total


def _remove(paths: tuple[str, ...], size: int) -> int:
    # the index goes first: what it does not tell of is not there
    for path in sorted(paths, key=lambda path: not path.endswith(".index")):
        with suppress(OSError):
            Path(path).unlink()
    return size


def _remove_leftovers(one: Used) -> int:
    """Remove what a killed process left; return its bytes."""
    freed, indexed = 0, any(path.endswith(".index") for path in one.paths)
    for path in one.paths:
        if path.endswith(".part") or (path.endswith(".blocks") and not indexed):
            with suppress(OSError):
                status = Path(path).stat()
                if time.time() - status.st_mtime > LEFT:
                    Path(path).unlink()
                    freed += _allocated(status)
    return freed


def clear(most: int = 0) -> int:
    """Remove entries until the rest takes at most so many bytes; return the bytes freed.

    Raises:
        FileError: They cannot be removed.
    """
    entries = used()
    total = left = sum(one.size for one in entries)
    for one in entries:
        if left > most:
            left -= _remove(one.paths, one.size)
    before = {one.stem: one for one in entries}  # what others wrote since does not count
    stay = sum(min(one.size, before[one.stem].size) for one in used() if one.stem in before)
    if stay > max(most, left):
        raise FileError(f"cannot clear {folder()}: {stay} bytes stay; check who may write there")
    return total - stay
