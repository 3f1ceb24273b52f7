"""What a case must not do, and how that is noticed: memory, time, code that runs."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SLOW = 5.0
"""Seconds that a case may take."""
TIMES_FILE = 4
"""How many times the size of its files a case may take of memory, beyond its constant."""
CONSTANT = 2_000_000
"""Bytes that a case may take whatever its size: spectra on the grid of their instrument, the
layers of a network, pages of a library read for the first time. Sound files of a few kilobytes
took 0.1 MB (safetensors), 0.2 MB (pt) and 0.3 MB (fits), a DESI coadd of 138 kB 1.1 MB."""
CEILING = 4 * 2**30
"""Bytes beyond which no case can allocate, so that it fails and not the machine."""

RUNS = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
    *("subprocess.Popen", "os.startfile", "os.kill", "os.putenv", "ctypes.dlopen"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "webbrowser.open"),
)
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod")
CHANGES += (
    "os.chown",
    "os.truncate",
    "os.utime",
    "shutil.rmtree",
    "shutil.move",
    "shutil.copyfile",
)
CHANGES += ("os.chdir", "os.setxattr")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
HARMLESS = ("/dev/null", "/proc/self/clear_refs")


def allowed(size: int) -> int:
    """Return the bytes of memory that a case of this size may take."""
    return TIMES_FILE * size + CONSTANT


class Blocked(Exception):
    """Raised in place of what a case must not do."""


class Watch:
    """Audits what this process does while `on`; what is not allowed is noted, and prevented.

    Args:
        folder: Where a case may write, and read where it may not read everywhere.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder)
        self.on = False
        self.confined = False
        self.seen: list[str] = []
        self.imported: set[str] = set()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "import":
            self.imported.add(str(args[0]))
        elif event in RUNS:
            self._forbid(event, args)
        elif event in CHANGES:
            for path in args[:2] if event in ("os.rename", "os.link") else args[:1]:
                self._check(event, path)
        elif event == "open":
            path, _, flags = args
            writing = isinstance(flags, int) and flags & WRITING
            if not isinstance(path, int) and (writing or self.confined):
                self._check("open for writing" if writing else "look outside", path)

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        text = os.path.realpath(os.fsdecode(path))
        inside = text.startswith((f"{self.folder}/", *HARMLESS)) or text == self.folder
        source = text.startswith((sys.prefix, sys.base_prefix)) or text.endswith((".py", ".pyc"))
        if not inside and not (event == "look outside" and source):
            self._forbid(event, (text,))

    def _forbid(self, event: str, args: tuple[Any, ...]) -> None:
        self.on = False
        where = [frame for frame in traceback.extract_stack() if frame.filename != __file__][-1]
        self.on = True
        told = f"{event} {args!r:.150} at {where.filename.rpartition('/')[2]}:{where.lineno}"
        self.seen.append(told)
        raise Blocked(told)

    @contextlib.contextmanager
    def watching(self, confined: bool) -> Iterator[None]:
        """Watch the block; `confined` forbids to read outside of the folder too."""
        self.seen, self.confined, self.on = [], confined, True
        try:
            yield
        finally:
            self.on = False


class Memory:
    """The growth of this process, in bytes, from `start` to the highest point after it."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)
        self._before = 0

    def start(self) -> None:
        """Give back what is free, and begin anew."""
        gc.collect()
        self._trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")

    def growth(self) -> int:
        """Return the bytes by which the process grew at most."""
        return max(0, _status("VmHWM") - self._before)


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    raise LookupError(name)


def limit(beyond: int = CEILING) -> None:
    """Let no allocation take this process further than `beyond` from where it is."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + beyond,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise a `TimeoutError` in the block where it takes longer, unless it is deep in C."""

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def frames(error: BaseException) -> tuple[str, str]:
    """Return the deepest frame of spender, and the deepest of all, as file:line function."""
    found = traceback.extract_tb(error.__traceback__)
    told = [f"{_short(f.filename)}:{f.lineno} {f.name}" for f in found]
    ours = [text for text, f in zip(told, found, strict=True) if "/spender_" in f.filename]
    return (ours or told or ["?"])[-1], (told or ["?"])[-1]


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-3:])


def exhausted(error: BaseException | None) -> bool:
    """Tell whether an error, or what caused it, says that memory could not be had."""
    while error is not None:
        text = str(error)
        if isinstance(error, MemoryError) or "can't allocate memory" in text:
            return True
        error = error.__cause__ or error.__context__
    return False
