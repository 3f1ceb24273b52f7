"""Loads files in a process of its own, and tells how much memory and time each one took."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    """What loading a file took: bytes of memory at most, seconds, and its refusal if any."""

    grown: int
    seconds: float
    error: str


def outcomes(instrument: str, sound: Path, files: Sequence[Path]) -> list[Outcome]:
    """Load files for an instrument, after a sound one, so that everything is imported."""
    command = [sys.executable, __file__, instrument, *map(str, (sound, *files))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [Outcome(*json.loads(line)) for line in done.stdout.splitlines()]


def resident(field: str) -> int:
    """Return a count of bytes that the kernel keeps of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def loaded(file: str, instrument: str) -> tuple[int, float, str]:
    from spender_core import registry
    from spender_core.errors import SpenderError

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, started, message = resident("VmRSS"), time.monotonic(), ""
    try:
        registry.load(file, instrument=instrument)
    except SpenderError as error:
        message = f"{type(error).__name__}: {error}"
    return resident("VmHWM") - before, time.monotonic() - started, message


if __name__ == "__main__":
    loaded(sys.argv[2], sys.argv[1])
    for name in sys.argv[3:]:
        print(json.dumps(loaded(name, sys.argv[1])))
