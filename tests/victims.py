"""A process that starts others to be killed: it has imported everything, so they begin at once.

Reads one line of JSON for each, {"call": "fetch", "spender", ..., "arguments": [...]}; prints its
process id as it begins, and its exit status when it has ended.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from importlib import import_module
from typing import Any, Self


class Victims:
    """Runs functions of this module in processes of their own, and kills them.

    Args:
        modules: What they need, imported once before they start.
    """

    def __init__(self, *modules: str) -> None:
        self.modules = modules

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *self.modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.process.__enter__()
        try:
            self._read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.__exit__(None, None, None)

    def _read(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def start(self, call: str, *arguments: Any) -> int:
        """Start a function, and return its process id."""
        assert self.process.stdin is not None
        request = {"call": call, "arguments": [*map(str, arguments)]}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def run(self, call: str, *arguments: Any) -> float:
        """Let a function come to its end, and return the seconds that it took."""
        begin = time.monotonic()
        self.start(call, *arguments)
        status = self._read()
        assert status == 0
        return time.monotonic() - begin

    def kill(self, after: float, call: str, *arguments: Any) -> bool:
        """Kill a function some seconds after its start; tell whether it was still running."""
        pid = self.start(call, *arguments)
        time.sleep(after)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return os.WIFSIGNALED(self._read())


def moments(count: int, longest: float) -> list[float]:
    """Return random moments up to somewhat after the end, the same in every run."""
    return sorted(random.Random(7).uniform(0, 1.1 * longest) for _ in range(count))


# -- in the process itself --------------------------------------------------------------------


def fetch(location: str, sha256: str) -> None:
    from spender_core.archives.downloads.fetch import fetch

    fetch(location, sha256)


def spender(*arguments: str) -> None:
    from spender_core.cli import main

    sys.argv = ["spender", *arguments]
    try:
        with redirect_stdout(io.StringIO()):
            main()
    except SystemExit as ended:
        if ended.code:
            raise


def prepare(*arguments: str) -> None:
    from pixel_survey import prepare

    prepare(*arguments)


CALLS: dict[str, Callable[..., None]] = {"fetch": fetch, "spender": spender, "prepare": prepare}


def serve() -> None:
    from spender_core import registry

    for name in registry.instruments():
        registry.instrument(name)
    for module in sys.argv[1:]:
        import_module(module)
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                CALLS[request["call"]](*request["arguments"])
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    serve()
