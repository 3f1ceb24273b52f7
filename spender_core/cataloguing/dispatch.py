"""Partitions to the workers of Dask, a few ahead of them, so that the graph stays small."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any

from spender_core import __version__
from spender_core.cataloguing import worker
from spender_core.cataloguing.cluster import SchedulerLostError, dask
from spender_core.cataloguing.plan import Task
from spender_core.cataloguing.worker import Outcome

POLL = 0.5
"""Seconds after which a lost connection is noticed."""

AHEAD = 2
"""Partitions in the hands of the scheduler for each thread of a worker."""


def dispatched(client: Any, tasks: Iterable[Task]) -> Iterator[Outcome]:
    """Yield what comes of partitions, in the order in which they end.

    A partition whose worker dies is given to another by Dask, some times. One that has been there
    each time is tried again at the end, alone, so that it pays for nobody else's fault.

    Args:
        client: Of Dask.
        tasks: The partitions.

    Raises:
        SchedulerLostError: The scheduler does not answer any more.
    """
    suspects: list[Task] = []
    run = uuid.uuid4().hex  # other runs of the same plan may use the scheduler
    yield from _window(client, iter(tasks), suspects, run)
    for task in suspects:
        again: list[Task] = []
        yield from _window(client, iter([task]), again, f"{run}-alone")
        if again:
            yield Outcome(
                task.number,
                error="every worker that measured it died, the last one with nothing else to do: of too "
                "little memory, perhaps, or of a file that kills its reader",
            )


def _window(
    client: Any, tasks: Iterator[Task], suspects: list[Task], run: str
) -> Iterator[Outcome]:
    waiting: dict[Any, Task] = {}
    try:
        while True:
            try:
                for _ in range(_room(client) - len(waiting)):
                    if (task := next(tasks, None)) is None:
                        break
                    waiting[_submitted(client, task, run)] = task
                if not waiting:
                    return
                ended = _ended(client, waiting)
                for future in ended:
                    task = waiting.pop(future)
                    outcome = _outcome(future, task)
                    future.release()
                    if outcome is None:
                        suspects.append(task)
                    else:
                        yield outcome
            except (CancelledError, OSError, RuntimeError, TypeError) as error:
                if isinstance(error, (RuntimeError, TypeError)) and client.status == "running":
                    raise
                raise _lost(client) from error
    finally:
        for future in waiting:
            future.release()  # the scheduler forgets it


def _submitted(client: Any, task: Task, run: str) -> Any:
    key = f"spender-{run}-{task.number}"
    return client.submit(worker.run, task, __version__, key=key, pure=False)


def _room(client: Any) -> int:
    """Return how many partitions the scheduler may have; a worker may come at any time."""
    threads: int = sum(client.nthreads().values())
    return max(2, AHEAD * threads)


def _ended(client: Any, waiting: dict[Any, Task]) -> list[Any]:
    """Return the futures that have come to their end, after some time at most."""
    distributed = dask()
    try:
        with client.as_current():
            done = distributed.wait(list(waiting), timeout=POLL, return_when="FIRST_COMPLETED").done
    except TimeoutError:
        done = set()
    if client.status != "running":
        raise _lost(client)
    return [future for future in waiting if future in done]


def _outcome(future: Any, task: Task) -> Outcome | None:
    """Return what came of a partition; None if its workers died."""
    distributed = dask()
    if future.status in ("cancelled", "lost"):
        raise CancelledError
    if future.status == "finished":
        outcome: Outcome = future.result(timeout=60)
        return outcome
    error = future.exception()
    if isinstance(error, distributed.scheduler.KilledWorker):
        return None
    if isinstance(error, ImportError) or "deserializ" in str(error):
        text = " ".join(str(error).split())
        return Outcome(
            task.number,
            error=f"scheduler or workers cannot take the task: {text:.200}; install the same packages "
            "for the scheduler and all workers, spender-core and the plugins too",
            ends=True,
        )
    return Outcome(task.number, error=f"{type(error).__name__}: {error!s:.300}")


def _lost(client: Any) -> SchedulerLostError:
    address = getattr(getattr(client, "scheduler", None), "address", "") or "the scheduler"
    return SchedulerLostError(
        f"the connection to {address} is lost; finished partitions stay: start a scheduler and its "
        "workers again, if need be, and run the same command"
    )
