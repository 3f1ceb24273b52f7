"""What is needed next, made in a background thread while the last one is used."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

_END = object()

_PATIENCE = 0.1
"""Seconds after which a thread that waits for room looks if it shall stop."""


class Prefetched(Generic[Item]):
    """Items of an iterator, in their order, made ahead in a background thread.

    The thread ends when the items end, when making one fails, when this is closed, and when it is
    forgotten. An error is raised where its item would have come.

    Args:
        make: Returns the iterator. It is called, runs, and is closed in the thread.
        depth: Items that may wait, >= 1; one more is being made.

    Example:
        >>> list(Prefetched(lambda: iter("abc"), depth=2))
        ['a', 'b', 'c']
    """

    def __init__(self, make: Callable[[], Iterator[Item]], depth: int) -> None:
        self._ready: queue.Queue[Any] = queue.Queue(depth)
        stop = threading.Event()
        self._thread = threading.Thread(
            target=_produce, args=(make, self._ready, stop), name="spender-prefetch", daemon=True
        )
        # the thread knows nothing of this object, so that it can be forgotten; also called at exit
        self._end = weakref.finalize(self, _stop, self._ready, stop)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if not self._end.alive:
            raise StopIteration
        item, error = self._ready.get()
        if item is not _END:
            return item  # type: ignore[no-any-return]
        self.close()
        raise StopIteration if error is None else error

    def close(self) -> None:
        """Stop the thread and wait for it; no item comes after that."""
        self._end()
        if self._thread is not threading.current_thread():
            self._thread.join()


def _produce(
    make: Callable[[], Iterator[Any]], ready: queue.Queue[Any], stop: threading.Event
) -> None:
    try:
        items: Any = make()
        with closing(items) if hasattr(items, "close") else nullcontext():
            for item in items:
                _put((item, None), ready, stop)
                if stop.is_set():
                    return
        _put((_END, None), ready, stop)
    except BaseException as error:
        _put((_END, error), ready, stop)


def _put(item: Any, ready: queue.Queue[Any], stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(queue.Full):
            ready.put(item, timeout=_PATIENCE)
            return


def _stop(ready: queue.Queue[Any], stop: threading.Event) -> None:
    # waits for nothing: the collector may call it in any thread, that which makes items too
    stop.set()
    with suppress(queue.Empty):
        while True:
            ready.get_nowait()
