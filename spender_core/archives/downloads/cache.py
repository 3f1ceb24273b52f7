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
import re
import shlex
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spender_core.archives.location import Location, is_file_name
from spender_core.archives.writing import file_sha256, replacing
from spender_core.errors import FileError, InputError, OfflineError
from spender_core.records import printable

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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not is_file_name(self.file):
            raise ValueError("no name of a file in the cache")
        if any(printable(str(value)) != str(value) for value in self.model_dump().values()):
            raise ValueError("text that cannot be shown")
        return self


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
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise FileError(
                f"{path} is damaged; `spender cache prune` removes it, and then the model can be "
                "pulled again"
            ) from error

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
        return _folder(os.environ["SPENDER_HOME"])
    return _folder(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "spender"


def shared() -> list[Path]:
    """Return the folders of SPENDER_SHARED_CACHE, which are read and never written."""
    text = os.environ.get("SPENDER_SHARED_CACHE", "")
    return [_folder(folder) for folder in text.split(os.pathsep) if folder]


def _folder(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise InputError(f"there is no home for {text!r:.80}: {error}; give a full path") from error


def entry(location: Location, root: Path | None = None) -> Entry:
    """Return where a location has its place in a cache, the user's own by default."""
    key = hashlib.sha256(location.text.encode()).hexdigest()[:16]
    return Entry((root or home()) / "models" / key, location.file)


def expected(location: Location, sha256: str) -> tuple[str, bool]:
    """Return the hash that a file must have, as far as it is known, and if a record says it.

    It is the one given, whole or its first digits, or the whole one of an earlier download,
    unless that contradicts the one given.
    """
    own = home()
    for root in (own, *shared()):
        try:
            record = entry(location, root).record()
        except FileError:
            if root == own:
                raise
            continue
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
            result.damaged.append(f"{path} cannot be read: {error.strerror or error}")
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
        f"SPENDER_HOME={shlex.quote(str(home()))} spender pull {shlex.quote(name)}"
    )


class Hold:
    """The right to download a file, which other processes wait for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def alive(self) -> None:
        """Tell those who wait that something goes on."""
        with suppress(OSError):
            os.utime(self._folder)


@contextmanager
def locked(one: Entry, patience: float) -> Iterator[Hold]:
    """Keep other processes from downloading the same file.

    Waits for one that does, as long as it shows signs of life.

    Raises:
        FileError: The folder cannot be written, or another process holds the lock and has shown
            no sign of life for twice `patience` seconds.
    """
    try:
        one.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(one.folder / _LOCK)
        _acquire(lock, one, 2 * patience)
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"cannot write to the cache, {one.folder}: {error.strerror or error}. Set SPENDER_HOME "
            "to a folder of yours"
        ) from error
    try:
        yield Hold(one.folder)
    finally:
        lock.release()


def _acquire(lock: FileLock, one: Entry, patience: float) -> None:
    seen, since = _signs(one), time.monotonic()
    while True:
        with suppress(Timeout):
            lock.acquire(timeout=min(1.0, patience))
            return
        now = _signs(one)
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > patience:
            raise FileError(
                f"another process is downloading {one.path} and has not gone on for "
                f"{patience:.0f} s; stop it, and try again"
            )


def _signs(one: Entry) -> list[tuple[int, int]]:
    """Return what changes while a download goes on.

    Not the lock: filelock before 4 truncates it, and sets its time, whenever somebody tries it.
    """
    found = []
    for path in (one.part, one.folder):
        with suppress(OSError):
            status = path.stat()
            found.append((status.st_size, status.st_mtime_ns))
    return found


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
        trouble: Why the folder or its record cannot be read; "" if they can.
    """

    entry: Entry
    root: Path
    record: Record | None
    size: int = 0
    leftover: int = 0
    trouble: str = ""

    def damage(self) -> str:
        """Return what is wrong with the file, by its hash; "" if nothing is known to be."""
        if self.record is None:
            return ""
        try:
            found = file_sha256(self.entry.path)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        if found != self.record.sha256:
            return f"has sha256 {found}, expected {self.record.sha256}"
        return ""


def kept(root: Path | None = None) -> list[Kept]:
    """Return everything that a cache holds, the user's own by default, by file name.

    Folders that are not of its making are left out.
    """
    root = root or home()
    try:
        folders = [path for path in (root / "models").iterdir() if _is_entry(path)]
    except OSError:
        return []
    found = [_kept(root, folder) for folder in folders]
    there = [one for one in found if one.record or one.size or one.leftover or one.trouble]
    return sorted(there, key=lambda one: one.entry.file)


def _is_entry(folder: Path) -> bool:
    named = re.fullmatch(r"[0-9a-f]{16}", folder.name) is not None
    return named and folder.is_dir() and not folder.is_symlink()


def _kept(root: Path, folder: Path) -> Kept:
    try:
        files = {path.name: path.lstat() for path in folder.iterdir()}
    except OSError as error:
        return Kept(Entry(folder, "?"), root, None, trouble=f"cannot be read: {error.strerror}")
    sizes = {name: found.st_size for name, found in files.items() if stat.S_ISREG(found.st_mode)}
    record, trouble = None, ""
    try:
        record = Entry(folder, "").record()
    except FileError as error:
        trouble = str(error)
    parts = [name[1:].removesuffix(".part") for name in sizes if name.endswith(".part")]
    whole = [name for name in sizes if is_file_name(name)]
    names = [record.file] if record else [*whole, *filter(is_file_name, parts)]
    one = Entry(folder, names[0] if names else "?")
    leftover = sum(size for name, size in sizes.items() if _is_leftover(name, one))
    return Kept(one, root, record, sizes.get(one.file, 0), leftover, trouble)


def _is_leftover(name: str, one: Entry) -> bool:
    return name in (one.part.name, f"{one.part.name}.json") or name.startswith(".record.part-")


def clear(held: Kept, whole: bool, forget: bool = False) -> int:
    """Remove what interrupted downloads left of a file, and if asked the file and its record.

    A record that is damaged goes too. Files that are not of the cache's making stay, and
    nothing is done while a process is downloading the file.

    Returns:
        The bytes that were freed.

    Raises:
        FileError: Something cannot be removed.
    """
    one, freed = held.entry, 0
    lock = FileLock(one.folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return 0
    except OSError as error:
        raise FileError(f"cannot write to the cache, {one.folder}: {error.strerror}") from error
    try:
        for path in sorted(one.folder.iterdir()):
            weights = whole and path.name == one.file
            record = path.name == _RECORD and (forget or (held.record is None and held.trouble))
            ours = weights or record or _is_leftover(path.name, one)
            if ours and stat.S_ISREG(path.lstat().st_mode):
                freed += path.lstat().st_size
                path.unlink()
    except OSError as error:
        raise FileError(f"cannot clear {one.folder}: {error.strerror}") from error
    finally:
        lock.release()
    return freed
