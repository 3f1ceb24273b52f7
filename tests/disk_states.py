"""What a program does, looked at between its lines: states of a folder, and interruptions."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any


@contextmanager
def traced(modules: tuple[str, ...], see: Callable[[], None]) -> Iterator[None]:
    """Call a function before each line of some modules, in this thread."""

    def look(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(modules):
            return None
        if event == "line":
            see()
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)


def states(
    root: Path, copies: Path, modules: tuple[str, ...], call: Callable[[], Any]
) -> list[Path]:
    """Return copies of each state that a folder is in while something is called: what kills leave."""
    found: list[Path] = []
    last: list[Any] = [None]

    def see() -> None:
        files = sorted(path for path in root.rglob("*") if path.is_file())
        now = [(path, path.stat().st_mtime_ns, path.stat().st_ino) for path in files]
        if now != last[0] and root.exists():
            last[0] = now
            found.append(copies / str(len(found)))
            shutil.copytree(root, found[-1])

    with traced(modules, see):
        call()
    return found


def interrupted_at(line: int, modules: tuple[str, ...], call: Callable[[], Any]) -> bool:
    """Call something and press Ctrl-C before the nth line of some modules; tell if it came to that."""
    count = 0

    def see() -> None:
        nonlocal count
        count += 1
        if count == line:
            raise KeyboardInterrupt

    with traced(modules, see):
        try:
            call()
        except KeyboardInterrupt:
            return True
    return False
