"""Claim: the transform costs the same per spectrum from 64 to 16,384 of them, in time and memory.

Each size runs in a process of its own, which tells its peak of memory beyond what it held before,
beside that of the inputs and outputs; spender 0.3 in another one as far as it fits. The first call
of a new process is timed too.
"""

from __future__ import annotations

import json
import subprocess
import sys

PIXELS = 9780, 7781
SIZES = 64, 256, 1024, 4096, 16384
PEER_MOST = 4096  # spender 0.3 needs some 10 times the memory of its output

CODE = """
import json, resource, statistics, sys, time, torch
kind, size, rest, observed = sys.argv[1], *map(int, sys.argv[2:])
from spender_core.grid import Linear
wave_rest, grid = torch.linspace(2000.0, 9824.0, rest), Linear(3600.0, 0.8, observed)
torch.manual_seed(0)
x = torch.rand(size, rest)
def z(): return 0.8 * torch.rand(size, dtype=torch.float64)
start = time.perf_counter()
if kind == "peer":
    from spender import SpectrumDecoder
    from spender.data.desi import DESI
    decoder, desi = SpectrumDecoder(wave_rest, n_latent=2, n_hidden=(2, 2, 2)), DESI()
    transform = lambda z: decoder.transform(x, desi, z=z)
else:
    from spender_core.ops.resampler import Resampler
    resampler = Resampler(wave_rest.double(), grid.wave)
    backend = None if kind == "ours" else kind
    transform = lambda z: resampler(x, z, backend)[0]
with torch.no_grad():
    y = transform(z()[:1].expand(size))
    del y
    first = time.perf_counter() - start
    # the most that is used from here on
    open("/proc/self/clear_refs", "w").write("5")
    seconds = []
    for _ in range(5):
        redshifts = z()
        y = None
        begin = time.perf_counter()
        y = transform(redshifts)
        seconds.append(time.perf_counter() - begin)
    peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
held = 4 * size * rest // 1024
print(json.dumps({"first": first, "median": statistics.median(seconds), "peak": peak, "held": held, "output": 5 * size * observed // 1024}))
"""


def ask(kind: str, size: int) -> dict[str, float]:
    command = [sys.executable, "-c", CODE, kind, str(size), *map(str, PIXELS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    print(
        "kind          size   first call   microseconds a spectrum   MB beyond inputs and outputs"
    )
    for size in SIZES:
        for kind in ("ours", "eager", "peer"):
            if kind == "peer" and size > PEER_MOST:
                continue
            found = ask(kind, size)
            empty = ask(kind, 1)
            extra = (found["peak"] - empty["peak"]) - (found["held"] + found["output"])
            print(
                f"{kind:10s} {size:7d} {found['first']:10.3f} s {1e6 * found['median'] / size:18.2f} "
                f"{extra / 1024:24.1f}"
            )


if __name__ == "__main__":
    main()
