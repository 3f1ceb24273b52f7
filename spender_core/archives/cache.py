"""The cache of downloaded files: the user's own folder, and shared ones below it.

    SPENDER_HOME/models/<16 hex digits of the location>/<file>
                                                       /record.json   where it came from, its hash
                                                       /.<file>.part  what is there of it so far

The user's own is SPENDER_HOME, or ~/.cache/spender; SPENDER_SHARED_CACHE lists others, which are
read and never written. A file is only ever used if its hash is the one that is expected. The
hash of the first download stays in its record, and every later one must have it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spender_core.archives.location import Location
from spender_core.archives.writing import file_sha256, replacing
from spender_core.errors import FileError, OfflineError

_RECORD = "record.json"
_LOCK = ".lock"


class Record(BaseModel):
    """What is remembered of a download, beside the file and after it is gone."""

    model_config = ConfigDict(frozen=True)

    location: str
    file: str
    sha256: str = Field(pattern=r"[0-9a-f]{64}")
    size: int
    url: str = ""
    """The address that served it, without secrets."""
    revision: str = ""
    commit: str = ""
    """The commit of the Hugging Face repository that `revision` was at that time."""
    time: str = ""


@dataclass(frozen=True)
class Entry:
    """The folder of one downloaded file."""

    folder: Path
    file: str

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.folder / self.file

    @property
    def part(self) -> Path:
        """What is there of it during a download, or after an interrupted one."""
        return self.folder / f".{self.file}.part"

    def record(self) -> Record | None:
        """Return what is remembered of it, if anything is.

        Raises:
            FileError: The record cannot be read.
        """
        path = self.folder / _RECORD
        try:
            return Record.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValidationError) as error:
            raise FileError(f"{path} is damaged; remove it, and pull the model again") from error

    def remember(self, record: Record) -> None:
        """Write the record, whole or not at all."""
        with replacing(self.folder / _RECORD) as temporary:
            temporary.write_text(json.dumps(record.model_dump(), indent=2), encoding="utf-8")


@dataclass
class Lookup:
    """The outcome of a search: the file if there is one, and what was found wrong elsewhere."""

    path: Path | None = None
    sha256: str = ""
    looked: list[Path] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def home() -> Path:
    """Return the folder of the cache: SPENDER_HOME, or ~/.cache/spender."""
    if os.environ.get("SPENDER_HOME"):
        return Path(os.environ["SPENDER_HOME"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spender"


def shared() -> list[Path]:
    """Return the folders of SPENDER_SHARED_CACHE, which are read and never written."""
    text = os.environ.get("SPENDER_SHARED_CACHE", "")
    return [Path(folder).expanduser() for folder in text.split(os.pathsep) if folder]


def entry(location: Location, root: Path | None = None) -> Entry:
    """Return where a location has its place in a cache, the user's own by default."""
    key = hashlib.sha256(location.text.encode()).hexdigest()[:16]
    return Entry((root or home()) / "models" / key, location.file)


def expected(location: Location, sha256: str) -> tuple[str, bool]:
    """Return the hash that a file must have, as far as it is known, and if a record says it.

    It is the one given, whole or its first digits, or the whole one of an earlier download,
    unless that contradicts the one given.
    """
    for root in (home(), *shared()):
        record = entry(location, root).record()
        if record is not None and record.sha256.startswith(sha256):
            return record.sha256, record.sha256 != sha256
    return sha256, False


def find(location: Location, sha256: str) -> Lookup:
    """Look for a file in the user's own cache and in the shared ones, and check its hash."""
    result = Lookup()
    wanted, _ = expected(location, sha256)
    for root in (home(), *shared()):
        path = entry(location, root).path
        result.looked.append(path)
        try:
            found = file_sha256(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            result.damaged.append(f"{path} cannot be read: {error.strerror}")
            continue
        if found.startswith(wanted):
            result.path, result.sha256 = path, found
            return result
        result.damaged.append(f"{path} has sha256 {found}, expected {wanted}")
    return result


def miss(name: str, found: Lookup, cause: str) -> OfflineError:
    """Return the error that says what is not there, where it was looked for, and what to do."""
    looked = ", ".join(map(str, found.looked))
    damaged = "".join(f" {text}." for text in found.damaged)
    return OfflineError(
        f"{name} is not in the cache, and cannot be downloaded: {cause}. Looked at: {looked}."
        f"{damaged} On a machine with a network that shares this disk, run "
        f"SPENDER_HOME={home()} spender pull {name}"
    )


@contextmanager
def locked(one: Entry, patience: float) -> Iterator[None]:
    """Keep other processes from downloading the same file.

    Waits for one that does, as long as its download grows.

    Raises:
        FileError: The folder cannot be written, or another process holds the lock and has made
            no progress for `patience` seconds.
    """
    try:
        one.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(one.folder / _LOCK)
        _acquire(lock, one, patience)
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"cannot write to the cache, {one.folder}: {error.strerror or error}. Set SPENDER_HOME "
            "to a folder of yours"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, one: Entry, patience: float) -> None:
    size, since = -1, time.monotonic()
    while True:
        with suppress(Timeout):
            lock.acquire(timeout=min(1.0, patience))
            return
        now = one.part.stat().st_size if one.part.exists() else 0
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > patience:
            raise FileError(
                f"another process is downloading {one.path} and has not gone on for "
                f"{patience:.0f} s; stop it, or remove {one.folder / _LOCK}"
            )


# -- looking after it ------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """What the cache holds of one location.

    Attributes:
        entry: Its folder.
        root: The cache that it is in.
        record: What is remembered of it, if it can be read.
        size: Bytes of the file; 0 if it is not there.
        leftover: Bytes of interrupted downloads.
    """

    entry: Entry
    root: Path
    record: Record | None
    size: int
    leftover: int

    def damage(self) -> str:
        """Return what is wrong with the file, by its hash; "" if nothing is."""
        if self.record is None:
            return "no record of its hash"
        try:
            found = file_sha256(self.entry.path)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        if found != self.record.sha256:
            return f"has sha256 {found}, expected {self.record.sha256}"
        return ""


def kept(root: Path | None = None) -> list[Kept]:
    """Return everything that a cache holds, the user's own by default, by file name."""
    root = root or home()
    try:
        folders = [path for path in (root / "models").iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted((_kept(root, folder) for folder in folders), key=lambda one: one.entry.file)


def _kept(root: Path, folder: Path) -> Kept:
    files = [path for path in folder.iterdir() if path.is_file()]
    whole = [path for path in files if not path.name.startswith(".") and path.name != _RECORD]
    try:
        record = Entry(folder, "").record()
    except FileError:
        record = None
    name = record.file if record else whole[0].name if whole else ""
    if not name:
        parts = [path.name for path in files if path.name.endswith(".part")]
        name = parts[0][1:].removesuffix(".part") if parts else "?"
    leftovers = [path for path in files if path.name.startswith(".") and path.name != _LOCK]
    one = Entry(folder, name)
    size = one.path.stat().st_size if one.path.is_file() else 0
    return Kept(one, root, record, size, sum(path.stat().st_size for path in leftovers))


def clear(one: Kept, whole: bool, forget: bool = False) -> int:
    """Remove what interrupted downloads left of a file, and if asked the file and its record.

    Nothing is done while a process is downloading it.

    Returns:
        The bytes that were freed.

    Raises:
        FileError: It cannot be removed.
    """
    folder, freed = one.entry.folder, 0
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return 0
    except OSError as error:
        raise FileError(f"cannot write to the cache, {folder}: {error.strerror}") from error
    try:
        for path in sorted(folder.iterdir()):
            leftover = path.name.startswith(".") and path.name != _LOCK
            record = path.name == _RECORD
            if leftover or (whole and path.name != _LOCK and (forget or not record)):
                freed += path.stat().st_size
                path.unlink()
        if forget:
            (folder / _LOCK).unlink(missing_ok=True)
            folder.rmdir()
    except OSError as error:
        raise FileError(f"cannot remove {folder}: {error.strerror}") from error
    finally:
        lock.release()
    return freed
