"""Workers of Dask: processes of this machine, or those of a scheduler that is there already."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spender_core.errors import InputError, SpenderError

ADDRESS = "tcp://HOST:8786"

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_PATIENCE = "10s"
_ADDRESS = re.compile(r"(?:(?:tcp|tls|ws|wss|ucx|ucxx)://)?[^\s/]+:[0-9]{1,5}")


class SchedulerLostError(SpenderError):
    """The scheduler does not answer any more; what is finished stays."""


def dask() -> Any:
    """Return the module `distributed`.

    Raises:
        SpenderError: It is not installed.
    """
    try:
        import distributed
    except ImportError as error:
        raise SpenderError(
            'several workers need Dask; pip install "spender-core[cluster]", or give --workers 0 to '
            "measure in this process"
        ) from error
    return distributed


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def connected(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """Give a `distributed.Client`, and leave nothing of it behind.

    Args:
        workers: Processes to start on this machine, each with one thread; as many as processors
            if None.
        scheduler: Address of a scheduler to use instead, or the file that it has written; its
            workers stay as they are.

    Raises:
        SpenderError: Dask is not installed; or the scheduler cannot be reached.
    """
    distributed = dask()
    with _silent():
        if scheduler is None:
            with _local(distributed, workers or processors()) as client:
                yield client
            return
        client = _remote(distributed, scheduler)
        try:
            yield client
        finally:
            _close(client)


@contextmanager
def _local(distributed: Any, workers: int) -> Iterator[Any]:
    import dask

    spawned = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    threads = dict.fromkeys(_THREADS, "1")  # read by libraries as they are loaded
    with dask.config.set({"distributed.nanny.pre-spawn-environ": {**spawned, **threads}}):
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # of whatever port is free
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        )
        try:
            client = distributed.Client(cluster, timeout=_PATIENCE)
            try:
                client.register_plugin(deaf(distributed))
                yield client
            finally:
                _close(client)
        finally:
            with suppress(Exception):
                cluster.close(timeout=10)


def deaf(distributed: Any) -> Any:
    """Return a plugin by which a worker leaves Ctrl-C to the process that has started it."""

    class Deaf(distributed.WorkerPlugin):  # type: ignore[misc]
        """Ctrl-C on a terminal goes to all processes; workers would tell it at length."""

        name = "spender-deaf"

        def setup(self, worker: Any) -> None:
            """Ignore Ctrl-C, where this thread may say so."""
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Deaf()


def _remote(distributed: Any, address: str) -> Any:
    """Connect to a scheduler, by its address or the file that it has written."""
    told = address
    if Path(address).is_file():
        try:
            told = str(json.loads(Path(address).read_text(encoding="utf-8"))["address"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{address} is no file of a Dask scheduler: {error!s:.200}") from error
    if not _ADDRESS.fullmatch(told):
        raise InputError(
            f"{told!r:.200} is no address of a scheduler; give one such as {ADDRESS}, or its file"
        )
    try:
        return distributed.Client(told, timeout=_PATIENCE, set_as_default=False)
    except OSError as error:  # a TimeoutError too
        raise InputError(
            f"no scheduler answers at {told} ({type(error).__name__}); give the address that it has "
            f"shown as it started, such as {ADDRESS}"
        ) from error


def _close(client: Any) -> None:
    with suppress(Exception):
        client.close(timeout=10 if client.status == "running" else 1)


@contextmanager
def _silent() -> Iterator[None]:
    """Let Dask not tell of workers that come and go: what matters is told at the end."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio", *names)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
