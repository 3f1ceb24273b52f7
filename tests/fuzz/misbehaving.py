"""Targets that do what none may do, to prove that the campaign notices."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzz.guard import HARMLESS
from fuzz.mutate_pt import CANARY

Stage = tuple[str, bool, Callable[[], Any]]


def _allocate() -> None:
    assert len(b"x" * int("60000000")) > 0


def _break() -> None:
    raise KeyError("NAXIS1")


def _swallow() -> None:
    try:
        os.system("true")
    except Exception:
        return


def _leave() -> None:
    # as a child that no audit sees would do: in the folder of the case
    Path(CANARY).touch()


def _greedy() -> None:
    bytearray(2**40)


ACTIONS: dict[str, Callable[[], Any]] = {
    "sound": lambda: None,
    "allocates": _allocate,
    "breaks": _break,
    "runs": lambda: os.system("true"),
    "swallows": _swallow,
    "spawns": lambda: subprocess.run(["true"], check=True),
    "connects": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
    "writes": lambda: Path("/tmp/spender-outside").write_text("x"),
    "removes": lambda: Path("/tmp/spender-absent").unlink(),
    "harmless": lambda: Path(HARMLESS[0]).write_text("x"),
    "leaves": _leave,
    "greedy": _greedy,
    "crashes": os.abort,
    "sleeps": lambda: time.sleep(1.3),
    "hangs": lambda: time.sleep(60),
}


def stages(kind: str, path: Path) -> Iterator[Stage]:
    """Yield the one thing that a kind does."""
    yield kind, True, ACTIONS[kind]
