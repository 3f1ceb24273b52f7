"""Claim: importing and listing are light.

`import spender_core` beside an empty interpreter, and `spender list` as a whole process,
interleaved; the floor of both is the empty interpreter.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 15
COMMANDS = {
    "empty": [sys.executable, "-c", "pass"],
    "import spender_core": [sys.executable, "-c", "import spender_core"],
    "spender list": [sys.executable, "-m", "spender_core.cli", "list"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            times[name].append(1e3 * seconds(command))
    for name, values in times.items():
        over = statistics.median(values) - statistics.median(times["empty"])
        print(
            f"{name:22s} median {statistics.median(values):6.0f} ms  "
            f"range {min(values):.0f}-{max(values):.0f}  over empty {over:+.0f} ms"
        )


if __name__ == "__main__":
    main()
