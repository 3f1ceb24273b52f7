"""Memory for large results on the host, used again once nobody holds it.

A system hands out fresh memory page by page, as it is first written to, and clears every page;
that takes several times as long as resampling does. Memory that is given back here is kept, up
to a bound, and needs none of that.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

import numpy as np
import torch
from torch import Tensor

_PAGE = 1 << 21
"""Blocks are multiples of a large page, 2 MiB; smaller results come from torch."""
_KEPT = 1 << 28
"""Most bytes that are kept while nobody uses them."""

_TRIM, _MMAP = (-1, 1 << 28), (-3, 1 << 25)
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h, with bytes; the latter has this limit."""

_idle: deque[mmap.mmap] = deque()


@cache
def keep_freed() -> bool:
    """Let malloc keep memory that is freed, for the next large array; return whether it does.

    Dask starts its workers with MALLOC_TRIM_THRESHOLD_=65536, by which glibc gives the memory of
    every large array back to the system, and clears it page by page for the next one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        return all(mallopt(*setting) == 1 for setting in (_TRIM, _MMAP))
    except (AttributeError, OSError, TypeError):  # another C library
        return False


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a contiguous tensor on the host whose values are not set, as `torch.empty`.

    Where it is large it cannot be resized, as no tensor made of an array of numpy can.
    """
    size = dtype.itemsize * int(np.prod(shape))
    if size < _PAGE or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.empty(shape, dtype=dtype)
    block = _block(-(-size // _PAGE) * _PAGE)
    lent = np.frombuffer(block, dtype=np.uint8, count=size)
    # a tensor of numpy's memory holds the array, and drops it with its last view
    weakref.finalize(lent, _give_back, block).atexit = False
    return torch.from_numpy(lent).view(dtype).view(tuple(shape))


def _block(size: int) -> mmap.mmap:
    for block in tuple(_idle):
        if len(block) == size:
            try:
                _idle.remove(block)
            except ValueError:  # another thread was faster
                continue
            return block
    made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        made.madvise(mmap.MADV_HUGEPAGE)
    return made


def _give_back(block: mmap.mmap) -> None:
    if len(block) > _KEPT:
        return
    _idle.append(block)
    while sum(len(kept) for kept in tuple(_idle)) > _KEPT:
        with suppress(IndexError):  # another thread was faster
            _idle.popleft()
