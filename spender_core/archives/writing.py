"""Write files whole or not at all, and tell them by their hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spender_core.errors import FileError, SpenderError

if sys.platform != "win32":
    import fcntl


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file beside `path`, which takes its place if all goes well.

    The temporary file has the suffix of `path`. It is on the disk before it takes the place,
    so that no crash leaves half a file under the name. If the block raises, it is removed and
    `path` is left as it was; what a killed process left is removed by the next one that
    writes the same file.

    Raises:
        FileError: The folder or the file cannot be written.
    """
    path = Path(path)
    temporary: Path | None = None
    handle = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=path.suffix, dir=path.parent)
        temporary = Path(name)
        _lock(handle)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        settle(temporary, path)
    except SpenderError:
        raise
    except OSError as error:
        raise FileError(f"cannot write {path}: {error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle >= 0:
            os.close(handle)


def settle(temporary: Path, path: Path) -> None:
    """Put a finished file in its place, once it is on the disk."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    with suppress(OSError):  # some systems cannot open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file, 64 hex digits.

    Raises:
        OSError: It cannot be read; a FileError if it is a folder or a device, which might
            never end.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileError(f"{path} is no regular file")
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_waiting(path: str, flags: int) -> int:
    """Open a file, and do not wait for whoever may write to a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def free_space(folder: str | os.PathLike[str]) -> int:
    """Return the bytes that may still be written to the disk of a folder."""
    return shutil.disk_usage(folder).free


def _prefix(path: Path) -> str:
    return f".{path.stem}.part-"


def _lock(handle: int) -> bool:
    """Hold a lock on an open file, as long as it is open; tell whether it was free."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sweep(path: Path) -> None:
    """Remove temporary files of `path` whose process is gone."""
    if sys.platform == "win32":  # a file in use cannot be removed there, nor told from others
        return
    for old in path.parent.glob(f"{_escaped(_prefix(path))}*{_escaped(path.suffix)}"):
        with suppress(OSError), open(old, "rb") as file:
            if _lock(file.fileno()):
                old.unlink()


def _escaped(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _umask() -> int:
    """Return the process's umask, which a temporary file ignores."""
    current = os.umask(0)
    os.umask(current)
    return current
