"""Where results go: checked before any work, so that none is lost at the end."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spender_core.archives.location import redacted
from spender_core.errors import FileError, InputError

_LOCAL = ("file://", "local://")


class Terminated(KeyboardInterrupt):
    """SIGTERM came, which is taken as Ctrl-C is."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` where SIGTERM comes within the block, so that what is done is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return

    def stop(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_outputs(outputs: Sequence[Path], inputs: Sequence[str], overwrite: bool = True) -> None:
    """Refuse outputs that would overwrite an input or one another, or cannot be written.

    Nothing is left behind by the check, and no folder is made.

    Args:
        outputs: Files to write.
        inputs: Paths and URLs that are read.
        overwrite: Other files may be replaced.

    Raises:
        InputError: An output is one of the inputs, or two outputs are one file, or an output
            is there and is not to be overwritten.
        FileError: It cannot be written.
    """
    for number, path in enumerate(outputs):
        for other in outputs[:number]:
            if os.path.realpath(path) == os.path.realpath(other) or _file(path) == _file(other):
                raise InputError(f"{path} and {other} are one file; give two outputs two names")
        _spare(path, inputs)
        _probe(path)
    there = [path for path in outputs if not overwrite and path.exists()]
    if there:
        raise InputError(f"{there[0]} is there already; --overwrite replaces it")


def spare_archives(outputs: Sequence[Path], roots: Sequence[Path]) -> None:
    """Refuse outputs that would replace a file in the folder of an archive.

    Raises:
        InputError: One would.
    """
    for path in outputs:
        for root in roots if path.exists() else ():
            if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
                raise InputError(
                    f"{path} is there, in the archive {root}, whose files are never replaced; give "
                    "the output another place"
                )


def _spare(path: Path, inputs: Sequence[str]) -> None:
    """Refuse an output that is one of the inputs, under whatever name."""
    there = _file(path)
    for name in inputs if isinstance(there, tuple) else ():
        if any(_file(local) == there for local in _local(name)):
            raise InputError(
                f"{path} is an input too, {redacted(name)}, which would be lost; give the "
                "output another name"
            )


def _local(name: str) -> Iterator[Path]:
    """Yield the local paths that an input may stand for."""
    yield Path(name)
    last = name.rpartition("::")[2]
    for prefix in _LOCAL:
        last = last.removeprefix(prefix)
    if last != name:
        yield Path(last)


def _file(path: Path) -> tuple[int, int] | Path:
    """Return what tells a file from every other, however it is named; its path if absent."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return path
    return found.st_dev, found.st_ino


def _probe(path: Path) -> None:
    """Make and remove a file where `path`, or the first missing folder above it, would be."""
    try:
        if path.exists() and not path.is_file():
            raise FileError(f"cannot write {path}: it is no file; give the name of a file")
        folder = path.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with tempfile.NamedTemporaryFile(
            prefix=f".{path.stem}.part-", suffix=path.suffix, dir=folder
        ):
            pass
    except FileError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"cannot write {path}: {reason}; give another place") from error
