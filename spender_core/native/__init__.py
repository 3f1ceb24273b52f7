"""Compiled kernels, for spectra in the memory of the host.

They are optional: `library()` is None where no compiler made them, and all that uses them has a
path of torch's own. The environment variable SPENDER_NATIVE switches them off with "0", and
names the library to load with a path.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

from spender_core.native.build import HERE, LIBRARY, digest

_SHARE = 1 << 17
"""Pixels that a thread takes at a time: some 0.1 ms of work, so that sharing costs little."""


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where they are missing, switched off or outdated.

    Warns:
        RuntimeWarning: They were compiled from other sources than those beside them.
    """
    wanted = os.environ.get("SPENDER_NATIVE") or str(HERE / LIBRARY)
    if wanted == "0":
        return None
    try:
        found = ctypes.CDLL(wanted)
        found.spender_sources.restype = ctypes.c_char_p
        made_of = found.spender_sources().decode()
    except (OSError, AttributeError):
        return None
    if made_of != digest():
        message = (
            f"{wanted} was compiled from other sources and is not used; install spender-core again"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return None
    return found


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


class _Shares:
    """Shares of some work, taken in turn by any number of threads; each by one of them."""

    def __init__(self, work: Callable[[int], object], count: int) -> None:
        self.work, self.count = work, count
        self.errors: list[BaseException] = []
        self.seen: set[int] = set()
        self._turn, self._finished = itertools.count(), bytearray(count)
        self._helping, self._closed, self._idle = 0, False, threading.Condition()

    def take(self, _: object = None) -> None:
        """Work until nothing is left, or something failed; errors are kept, not raised."""
        try:
            self.seen.add(threading.get_ident())
            while not self.errors and (share := next(self._turn)) < self.count:
                self.work(share)
                self._finished[share] = 1
        except BaseException as error:  # also a key that interrupts
            self.errors.append(error)

    def help(self) -> None:
        """Take part as a thread that nobody waits for but `close`."""
        with self._idle:
            if self._closed:
                return
            self._helping += 1
        self.take()
        with self._idle:
            self._helping -= 1
            self._idle.notify_all()

    def close(self) -> None:
        """Let no helper begin any more, and wait for those at work, whoever interrupts.

        They write to memory that the caller frees.
        """
        self._closed = True
        while True:
            try:
                with self._idle:
                    self._idle.wait_for(lambda: self._helping == 0)
                return
            except KeyboardInterrupt as error:
                self.errors.append(error)

    def finish(self) -> None:
        """Raise what went wrong, or do what nobody has done."""
        if self.errors:
            raise self.errors[0]
        if threading.get_ident() not in self.seen:
            # interrupted where nothing but a message of ctypes could come of it
            raise KeyboardInterrupt
        for share in range(self.count):
            if not self._finished[share]:
                self.work(share)


def share_rows(work: Callable[[int, int], object], rows: int, pixels: int) -> None:
    """Call work(first, last) for all rows, shared among as many threads as torch uses.

    Args:
        work: Works on rows [first, last); releases the lock of the interpreter, as ctypes does.
        rows: Number of rows.
        pixels: Pixels in a row, by which the size of shares is chosen.
    """
    size = max(1, min(rows, _SHARE // max(pixels, 1)))
    count = -(-rows // size)
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        work(0, rows)
        return
    shares = _Shares(lambda k: work(k * size, min(rows, (k + 1) * size)), count)
    team = None if _forked else _team()
    try:
        if team is not None:
            team(_TAKE(shares.take), None, ctypes.c_uint(threads), ctypes.c_uint(0))
        else:
            for _ in range(threads - 1):
                _pool(threads - 1).submit(shares.help)
            shares.take()
    finally:
        shares.close()
    shares.finish()


_TAKE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    """Return the address of a contiguous tensor in the memory of the host."""
    return ctypes.c_void_p(tensor.data_ptr())
