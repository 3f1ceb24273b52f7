"""Checkpoints of a training: written whole or not at all, told from damaged ones by their hashes.

A checkpoint is a folder `step-00000100`, with a manifest that has the size and the sha256 of each
file in it. It is written under a hidden name, and gets its own when everything is on the disk:
a process killed at any moment leaves the checkpoints that there were, and none by half.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from spender_core.archives.writing import file_sha256, free_space, replacing
from spender_core.errors import CheckpointWarning, FileError

MANIFEST = "manifest.json"
BEST = "best.json"
FORMAT = 1

_NAME = re.compile(r"step-(\d{8,})")
_TORCH_WRITES = ("PytorchStreamWriter", "inline_container", "unexpected pos")
"""How torch names a file that it cannot write; it raises no OSError."""


class Checkpoints:
    """The checkpoints in a folder: the last few, and the best.

    Args:
        folder: Where they are.
        keep: How many of the last ones are kept; the best is kept beside them.
        main: Whether this process makes and removes folders; of several, one does.
        wait: Returns when all processes have called it.
        fault: Tells what else is wrong with a checkpoint whose files are as they were written.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 3,
        main: bool = True,
        wait: Callable[[], None] = lambda: None,
        fault: Callable[[Path], str | None] = lambda path: None,
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.best: int | None = None
        self._main = main
        self._wait = wait
        self._fault = fault

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step is, or would be."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Return the steps of which there is a checkpoint, sound or not, in order."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        matches = [_NAME.fullmatch(path.name) for path in found if path.is_dir()]
        return sorted(int(match[1]) for match in matches if match)

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Write a checkpoint, and remove those that are no longer kept.

        Checkpoints of later steps are removed too: they are left of a run that got further, but
        was gone on from an earlier one since they are damaged.

        Args:
            step: Steps done so far.
            write: Puts its files into the folder that it is given; called by all processes.

        Raises:
            FileError: It cannot be written. Those that were there are left as they are.
        """
        path = self.path(step)
        hidden = path.with_name(f".{path.name}.part")
        try:
            if self._main:
                self._sweep()
                hidden.mkdir(parents=True)
            self._wait()
            write(hidden)
            self._wait()
            if self._main:
                _seal(hidden, step)
                _put(hidden, path)
                self._prune(step)
        except Exception as error:
            if self._main:
                shutil.rmtree(hidden, ignore_errors=True)
            if not _is_of_disk(error):
                raise
            raise FileError(self._told(path, error)) from error
        self._wait()
        return path

    def mark_best(self, step: int, loss: float) -> None:
        """Make the checkpoint of a step the best one, which is kept.

        Raises:
            FileError: The folder cannot be written.
        """
        self.best = step
        if self._main:
            with replacing(self.folder / BEST) as temporary:
                temporary.write_text(json.dumps({"step": step, "loss": loss}) + "\n")

    def newest(self) -> Path | None:
        """Return the newest checkpoint that is sound; None if there is none at all.

        What a killed process left half done is removed, since a run that has nothing more to save
        would leave it there.

        Warns:
            CheckpointWarning: A newer one is damaged; it is named, with the reason.

        Raises:
            FileError: All of them are damaged.
        """
        if self._main:
            self._sweep()
        faults: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            reason = damage(path) or self._fault(path)
            if reason is None:
                for fault in faults if self._main else ():
                    text = f"the checkpoint {fault}; going on from the one before, {path.name}"
                    warnings.warn(text, CheckpointWarning, stacklevel=2)
                return path
            faults.append(f"{path} is damaged: {reason}")
        if faults:
            raise FileError(
                f"no checkpoint in {self.folder} can be used: {'; '.join(faults)}. Begin again in "
                "another folder, or remove this one"
            )
        return None

    def _prune(self, step: int) -> None:
        """Remove what is not kept, once the checkpoint of a step is written."""
        kept = {*[one for one in self.steps() if one <= step][-self.keep :], self.best}
        for one in self.steps():
            if one not in kept:
                _remove(self.path(one))
        with suppress(FileNotFoundError, ValueError, KeyError):
            named = json.loads((self.folder / BEST).read_text(encoding="utf-8"))["step"]
            if not self.path(named).exists():
                (self.folder / BEST).unlink()

    def _sweep(self) -> None:
        """Remove what a killed process left."""
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _told(self, path: Path, error: Exception) -> str:
        text = f"cannot write the checkpoint {path}: {error}"
        with suppress(OSError):
            folder = next(one for one in (self.folder, *self.folder.parents) if one.exists())
            text += f" ({free_space(folder) / 1e6:.1f} MB free)"
        before = [one for one in self.steps() if one != int(path.name.removeprefix("step-"))]
        if not before:
            return f"{text}. Nothing was written; give an output folder that has room"
        return (
            f"{text}. The last one, {self.path(before[-1]).name}, is whole: make room or set the "
            "permissions, and go on from it with resume"
        )


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, naming the file; None if it is sound."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"{MANIFEST} has format {manifest['format']!r}, this version reads {FORMAT}"
        if not manifest["files"]:
            return f"{MANIFEST} names no files"
        for name, entry in manifest["files"].items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                return f"{MANIFEST} names {name!r}, which is not in the checkpoint"
            size = (path / name).stat().st_size
            if size != entry["bytes"]:
                return f"{name} has {size} bytes instead of {entry['bytes']}"
            if file_sha256(path / name) != entry["sha256"]:
                return f"{name} was altered: its sha256 is not that of {MANIFEST}"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except OSError as error:
        return str(error)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"
    return None


def _seal(folder: Path, step: int) -> None:
    """Write the manifest of a finished checkpoint, and bring everything to the disk."""
    files = {}
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        _sync(path)
        entry = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        files[path.relative_to(folder).as_posix()] = entry
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": FORMAT, "step": step, "files": files}, indent=1))
    _sync(manifest)
    for inside in (*(one for one in folder.rglob("*") if one.is_dir()), folder):
        _sync(inside)


def _put(hidden: Path, path: Path) -> None:
    """Give a finished checkpoint its name; one of this name goes."""
    if path.exists():
        _remove(path)
    hidden.rename(path)
    _sync(path.parent)


def _remove(path: Path) -> None:
    """Remove a checkpoint; not even a killed process leaves half of it under its name."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    with suppress(FileNotFoundError):
        path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    if os.name == "nt":  # folders cannot be opened there, nor files synced that are read only
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_of_disk(error: Exception) -> bool:
    """Tell whether an error is that of a disk, or of its permissions."""
    if isinstance(error, OSError | SafetensorError):
        return not isinstance(error, FileError)
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TORCH_WRITES)
