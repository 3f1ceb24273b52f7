"""Compile the kernels to a shared library, with whatever C compiler there is.

Used when a wheel is built, and when the project is installed in place; needs nothing but the
standard library. The library depends neither on Python nor on torch, so that one of them serves
all versions of both.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = (
    "resample.c",
    "uniform_avx512.c",
    "lsf.c",
    "noise.c",
    "rice.c",
    "coadd.c",
    "normalize.c",
)
LIBRARY = {"win32": "_native.dll", "darwin": "_native.dylib"}.get(sys.platform, "_native.so")
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden")


def compiler() -> list[str]:
    """Return the command of the C compiler: of the environment variable CC, or the first found.

    Raises:
        FileNotFoundError: There is none.
    """
    wanted = shlex.split(os.environ.get("CC", ""))
    for command in [wanted] if wanted else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            return command
    raise FileNotFoundError("no C compiler found: neither cc nor gcc nor clang; set CC")


def digest() -> str:
    """Return a hash of the sources, which the library holds, so that an old one is told."""
    made = hashlib.blake2b(digest_size=16)
    for path in sorted([*HERE.glob("*.c"), *HERE.glob("*.h")]):
        made.update(path.name.encode() + b"\0" + path.read_bytes())
    return made.hexdigest()


def build(folder: Path = HERE) -> Path:
    """Compile the library into a folder, whole or not at all, and return its path.

    Raises:
        FileNotFoundError: There is no C compiler.
        RuntimeError: It failed; the message holds what it said.
    """
    target = folder / LIBRARY
    shared = ["-dynamiclib"] if sys.platform == "darwin" else ["-shared"]
    position = [] if sys.platform == "win32" else ["-fPIC"]
    # beside the target, so that it is replaced whole
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        made = Path(scratch) / LIBRARY
        sources = [str(HERE / name) for name in SOURCES]
        flags = [*FLAGS, f'-DSPENDER_SOURCES="{digest()}"', *position, *shared]
        command = [*compiler(), *flags, *sources, "-o", str(made)]
        # a compiler that knows no clones of functions makes them once, for any processor
        for variant in (command, [*command, "-DSPENDER_PLAIN"]):
            done = subprocess.run(variant, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
        else:
            raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr}")
        made.replace(target)
    return target


if __name__ == "__main__":
    print(build())
