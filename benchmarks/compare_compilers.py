"""How should a kernel for the host be compiled? The same arithmetic in four ways.

Each runs in a process of its own: the first call in a new process, again in a second process that
finds what the first has kept on disk, and then the median of many. What is computed is the transform
of 256 spectra, 9,780 to 7,781 pixels, linear grids of float64 nodes rounded to float32. The size of
what must be installed beside torch is printed where there is anything.

    python benchmarks/compare_compilers.py
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from spender_core.native import build

SETUP = """
import json, statistics, sys, time
start = time.perf_counter()
import numpy as np, torch
torch.manual_seed(0)
began = time.perf_counter()
rest = np.linspace(2000, 9824, 9780).astype("f4").astype("f8")
observed = np.linspace(3600, 9824, 7781)
x, z = torch.rand(256, 9780), 0.8 * torch.rand(256, dtype=torch.float64)
step = (rest[-1] - rest[0]) / 9779
place = (rest - rest[0]) / step - np.arange(9780)
shift, inverse = place.astype("f4"), (1 / (1 + np.diff(place))).astype("f4")
coordinate, first = observed / step, rest[0] / step
"""

NUMBA = """
import math
from numba import njit, prange

@njit(parallel=True, fastmath={"contract", "nsz", "arcp"}, cache=True)
def kernel(x, z, coordinate, first, shift, inverse, y):
    for row in prange(len(x)):
        scale = 1 / (1 + z[row])
        for i in range(len(coordinate)):
            u = coordinate[i] * scale - first
            cell = min(max(int(u), 0), x.shape[1] - 2)
            share = np.float32(u - cell)
            if share > 1 + shift[cell + 1] and cell < x.shape[1] - 2:
                cell += 1
                share -= np.float32(1)
            elif share <= shift[cell] and cell > 0:
                cell -= 1
                share += np.float32(1)
            share = (share - shift[cell]) * inverse[cell]
            y[row, i] = x[row, cell] + share * (x[row, cell + 1] - x[row, cell])

def run():
    y = torch.empty(256, 7781)
    kernel(x.numpy(), z.numpy(), coordinate, first, shift, inverse, y.numpy())
    return y
"""

COMPILE = """
tables = [torch.tensor(t) for t in (shift, inverse, coordinate)]

@torch.compile
def kernel(x, z, shift, inverse, coordinate):
    u = coordinate * (1 / (1 + z))[:, None] - first
    cell = u.long().clamp(0, x.shape[1] - 2)
    share = (u - cell).float()
    over = (share > 1 + shift[cell + 1]) & (cell < x.shape[1] - 2)
    under = (share <= shift[cell]) & (cell > 0)
    moved = cell + over.long() - under.long()
    share = (share - (moved - cell) - shift[moved]) * inverse[moved]
    return torch.lerp(x.gather(1, moved), x.gather(1, moved + 1), share)

def run():
    return kernel(x, z, *tables)
"""

OURS = """
from spender_core.ops.resampler import Resampler
resampler = Resampler(rest, observed)
def run():
    return resampler(x, z, BACKEND)[0]
"""

TIMING = """
with torch.no_grad():
    y = run()
    called = time.perf_counter()
    seconds = []
    for _ in range(30):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
exact = torch.stack([torch.from_numpy(np.interp(observed / (1 + float(r)), rest, row.numpy()))
                     for r, row in zip(z[:8], x[:8])])
inside = torch.from_numpy(observed)[None] < rest[-1] * (1 + z[:8, None])
error = float(((y[:8] - exact).abs() * inside).max())
print(json.dumps({"first": called - began, "median": statistics.median(seconds), "error": error}))
"""

WAYS = {
    "C library in the wheel": OURS.replace("BACKEND", "'compiled'"),
    "C library, any x86-64": OURS.replace("BACKEND", "'compiled'"),
    "numba": NUMBA,
    "torch.compile": COMPILE,
    "eager torch": OURS.replace("BACKEND", "'eager'"),
}


def ask(code: str, environment: dict[str, str], folder: str) -> dict[str, float]:
    path = Path(folder) / "way.py"
    path.write_text(SETUP + code + TIMING, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, path], env=os.environ | environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def megabytes(*packages: str) -> float:
    listed = [f for name in packages for f in importlib.metadata.files(name) or ()]
    files = [Path(str(f.locate())) for f in listed]
    return sum(file.stat().st_size for file in files if file.exists()) / 1e6


def main() -> None:
    print(f"numba and llvmlite: {megabytes('numba', 'llvmlite'):.0f} MB installed")
    print("way                       first call, again in a new process   median       error")
    for name, code in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            environment = {"TORCHINDUCTOR_CACHE_DIR": folder, "NUMBA_CACHE_DIR": folder}
            if name == "C library, any x86-64":
                environment |= {"SPENDER_NATIVE": plain(folder)}
            first = ask(code, environment, folder)
            again = ask(code, environment, folder)
        print(
            f"{name:26s} {first['first']:8.2f} s {again['first']:16.2f} s {1e3 * again['median']:14.2f} ms"
            f"   {again['error']:.1e}"
        )


def plain(folder: str) -> str:
    """Return a library compiled without the instructions of any processor in particular."""
    os.environ["CC"] = f"{build.compiler()[0]} -DSPENDER_PLAIN"
    return str(build.build(Path(folder)))


if __name__ == "__main__":
    main()
