"""An archive on this machine: a folder served over http with byte ranges, latency and faults.

It runs in a process of its own, so that it does not share the interpreter's lock with its clients.
`serving(folder)` starts it and gives a `RangeServer`, which tells it what to do and what it counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

PROCESS = Path(__file__).with_name("range_process.py")


@dataclass
class Seen:
    """What the server counted since it was started or `forget` was called.

    Attributes:
        requests: Requests for content, whatever the answer.
        bytes: Bytes of bodies that were handed to the network, those of faults too.
        most: Requests that were answered at one time, at most.
        paths: Requests of each path.
        path_bytes: Bytes of each path.
        log: Of each request: path, range (as asked, or ""), user that it was made for (or "").
    """

    requests: int = 0
    bytes: int = 0
    most: int = 0
    paths: dict[str, int] = field(default_factory=dict)
    path_bytes: dict[str, int] = field(default_factory=dict)
    log: list[list[str]] = field(default_factory=list)


class RangeServer:
    """A running server, as its user sees it.

    Attributes:
        root: URL of the folder, without a slash behind.
        process: What it runs in.
    """

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.port, self.process = port, process
        self.root = f"http://127.0.0.1:{port}/files"

    def at(self, path: str) -> str:
        """Return the URL of a file, by its path in the folder."""
        return f"{self.root}/{quote(path)}"

    def fault(
        self,
        kind: str,
        paths: Iterable[str] | None = None,
        *,
        match: str = "",
        times: int = -1,
        chance: float = 1.0,
        **options: Any,
    ) -> None:
        """Add a fault; the first one that applies to a request is what happens.

        Args:
            kind: Name of a method of `range_process.Faults`: status, page, drop, stall, silence, reset, drip,
                short, altered, whole, wrong_range, no_length, encoded, new_version, redirect, login.
            paths: Paths of the files, in the folder; None means all.
            match: A regular expression that is found in the path.
            times: How many requests of each path suffer it; -1 means all.
            chance: Share of those requests, drawn with a seed.
            options: See the methods.
        """
        rule = {"kind": kind, "match": match, "times": times, "chance": chance, "options": options}
        rule["paths"] = None if paths is None else list(paths)
        self._ask("fault", rule)

    def heal(self) -> None:
        """Remove all faults."""
        self._ask("heal")

    def latency(self, seconds: float) -> None:
        """Set the time before each answer, in seconds."""
        self._ask("latency", {"seconds": seconds})

    def seen(self) -> Seen:
        """Return what was counted."""
        return Seen(**self._ask("seen"))

    def forget(self) -> None:
        """Count from 0."""
        self._ask("forget")

    def _ask(self, what: str, content: Any = None) -> Any:
        request = Request(
            f"http://127.0.0.1:{self.port}/control/{what}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextmanager
def serving(folder: str | Path, latency: float = 0.0, seed: int = 0) -> Iterator[RangeServer]:
    """Serve a folder.

    Args:
        folder: The folder. What is written there later is served too; the ETag of a file follows
            from its size and its time.
        latency: Seconds before each answer.
        seed: Of faults that happen by chance.
    """
    command = [sys.executable, str(PROCESS), str(folder), str(latency), str(seed)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        try:
            yield RangeServer(int(line), process)
        finally:
            process.terminate()
