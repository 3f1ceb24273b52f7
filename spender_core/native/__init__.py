"""Compiled kernels, for spectra in the memory of the host.

They are optional: `library()` is None where no compiler made them, and all that uses them has a
path of torch's own. The environment variable SPENDER_NATIVE switches them off with "0", and
names the library to load with a path.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch

from spender_core.native.build import HERE, LIBRARY

VERSION = 1
"""Of the functions' arguments; a library that was built for another one is not used."""
_SHARE = 1 << 17
"""Pixels that a thread takes at a time: some 0.1 ms of work, so that sharing costs little."""


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where they are missing, switched off or outdated."""
    wanted = os.environ.get("SPENDER_NATIVE") or str(HERE / LIBRARY)
    if wanted == "0":
        return None
    try:
        found = ctypes.CDLL(wanted)
        found.spender_version.restype = ctypes.c_int
        return found if found.spender_version() == VERSION else None
    except (OSError, AttributeError):
        return None


_forked = False


@cache
def _team() -> Callable[..., None] | None:
    """Return how OpenMP runs a function on a team of threads, that of the library torch has loaded.

    Its threads wait for work for some time after each part of torch's, so that others would
    have to share the processor with them; and they begin at once. `GOMP_parallel` belongs to the
    binary interface that compiled programs rely on; LLVM's and Intel's libraries have it too.
    """
    try:
        return ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="spender")


def _after_fork() -> None:
    """Neither threads nor OpenMP's teams survive a fork, as of a DataLoader's workers."""
    global _forked
    _forked = True
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def share_rows(work: Callable[[int, int], object], rows: int, pixels: int) -> None:
    """Call work(first, last) for all rows, shared among as many threads as torch uses.

    Args:
        work: Works on rows [first, last); releases the lock of the interpreter, as ctypes does.
        rows: Number of rows.
        pixels: Pixels in a row, by which the size of shares is chosen.
    """
    size = max(1, min(rows, _SHARE // max(pixels, 1)))
    shares = -(-rows // size)
    threads = min(torch.get_num_threads(), shares)
    if threads < 2:
        work(0, rows)
        return
    turn = itertools.count()
    errors: list[BaseException] = []

    def take(_: object = None) -> None:
        try:
            while (share := next(turn)) < shares and not errors:
                work(share * size, min(rows, (share + 1) * size))
        except (
            BaseException
        ) as error:  # also a key that interrupts: raised below, once all have ended
            errors.append(error)

    team = None if _forked else _team()
    if team is not None:
        team(_TAKE(take), None, ctypes.c_uint(threads), ctypes.c_uint(0))
    else:
        helping = [_pool(threads - 1).submit(take) for _ in range(threads - 1)]
        take()
        wait(helping)
    if errors:
        raise errors[0]


_TAKE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    """Return the address of a contiguous tensor in the memory of the host."""
    return ctypes.c_void_p(tensor.data_ptr())
