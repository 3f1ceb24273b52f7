"""Claim: a cached model loads in the same time with the network cut off as with it.

Loads a model that was downloaded before, each time in a new process, in turn with the network
and in a network namespace that has none (`unshare --net`, Linux). The floor is the time to
read and hash the file alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from spender_core import registry
from spender_core.archives.downloads import cache
from spender_core.archives.location import parse
from spender_core.archives.writing import file_sha256

RUNS = 9
LOCATION = "hf:owner/repository/desi_demo.safetensors"
CUT_OFF = ["unshare", "--user", "--map-root-user", "--net"]
SCRIPT = """
import sys, time
from spender_core import registry
registry.load("sdss_demo")  # imports
begin = time.perf_counter()
registry.load(sys.argv[1])
print(time.perf_counter() - begin)
"""


def load(prefix: list[str]) -> float:
    command = [*prefix, sys.executable, "-c", SCRIPT, LOCATION]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    if subprocess.run([*CUT_OFF, "true"], capture_output=True).returncode:
        sys.exit("needs user namespaces")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPENDER_HOME"] = folder
        one = cache.entry(parse(LOCATION))
        one.folder.mkdir(parents=True)
        one.path.write_bytes(Path(registry.pull("desi_demo")).read_bytes())
        load([])
        times = [(load([]), load(CUT_OFF)) for _ in range(RUNS)]
        begin = time.perf_counter()
        file_sha256(one.path)
        floor = time.perf_counter() - begin
        size = one.path.stat().st_size
    online, offline = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    ratios = sorted(off / on for on, off in times)
    print(f"file {size / 1e6:.1f} MB, read and hashed in {1e3 * floor:.1f} ms")
    print(f"with the network {online:.1f} ms, without {offline:.1f} ms")
    print(f"ratio {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
