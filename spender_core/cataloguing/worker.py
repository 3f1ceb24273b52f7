"""What a worker does: it reads the spectra of a partition, measures them, and writes them.

A worker loads a model once. Nothing is raised, since errors travel badly from one process to
another: an `Outcome` tells what came of a partition.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spender_core import __version__, registry
from spender_core.archives.location import told
from spender_core.batch import SpectrumBatch
from spender_core.cataloguing import layout, parts
from spender_core.cataloguing.measuring import measure
from spender_core.cataloguing.plan import How, Task, Weights, versions
from spender_core.cataloguing.reading import pieces
from spender_core.datasets.sourcing import name_of
from spender_core.errors import (
    Failure,
    FileError,
    InputError,
    OfflineError,
    SpenderError,
    WeightsError,
)
from spender_core.interfaces import Flow, Instrument, Model
from spender_core.native.memory import keep_freed

_LISTED = 16
"""Sources that a part names in its metadata; of more, the first and the last."""

_loading = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """What came of a partition.

    Attributes:
        number: Of the partition.
        about: What its part says of itself; None if there is none.
        error: Why there is none.
        ends: No other partition will fare better, so that the run ends: the disk is full, or
            the worker lacks what it needs.
        kept: The part was there already.
        seconds: How long it took.
    """

    number: int
    about: layout.About | None = None
    error: str = ""
    ends: bool = False
    kept: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Tools:
    """What measures, on the device of a worker."""

    instrument: Instrument
    model: Model
    flow: Flow | None


def run(task: Task, version: str = __version__) -> Outcome:
    """Make the part of a partition, unless it is there.

    Args:
        task: The partition.
        version: Version of spender-core that the plan was made with.
    """
    begun = time.perf_counter()
    try:
        kept = None if task.again else parts.found(Path(task.folder), task.number, task.plan)
        if kept is not None:
            return Outcome(task.number, kept, kept=True)
        if version != __version__:
            raise WeightsError(f"it has spender-core {__version__}, and the run {version}")
        torch.set_num_threads(1)  # as many workers as processors share them without more threads
        if "MALLOC_TRIM_THRESHOLD_" in os.environ:
            keep_freed()
        with _loading:
            tools = tools_of(task.how, own_device(task.device))
    except Exception as error:
        name = f"{_own_name()} on {socket.gethostname()}"
        return _ended(task, f"the worker {name} cannot measure: {_shown(error)}")
    try:
        about, tables, failures = _measured(task, tools)
    except Exception as error:
        return Outcome(task.number, error=_shown(error))
    try:
        parts.write(Path(task.folder), about, tables, failures)
    except FileError as error:
        return _ended(task, str(error))
    return Outcome(task.number, about, seconds=time.perf_counter() - begun)


@lru_cache(maxsize=2)
def tools_of(how: How, device: str) -> Tools:
    """Load what measures.

    Raises:
        WeightsError: It is not what the plan was made with.
        SpenderError: It cannot be loaded; or the flow is of another model.
    """
    instrument, model = _loaded(how.model, how.instrument, device)
    if not isinstance(model, Model):
        raise InputError(f"{how.model.name!r} is a flow of latents, which encodes no spectra")
    if instrument.grid.sha256 != how.grid:
        raise WeightsError(f"the grid of {instrument.name} is not the one of the plan")
    if how.flow is None:
        return Tools(instrument, model, None)
    _, flow = _loaded(how.flow, how.instrument, device)
    latents = None if flow.card is None else flow.card.latents
    if not isinstance(flow, Flow) or model.card is None or latents != model.card.latents:
        raise InputError(
            f"{how.flow.name!r} is no flow of the latents of {how.model.name!r}; give one with "
            "--flow that `spender list` shows as one, of as many latents"
        )
    return Tools(instrument, model, flow)


def own_device(device: str) -> str:
    """Return the device of this worker: of several GPUs, the one with its number.

    Where CUDA_VISIBLE_DEVICES shows a worker one GPU, as SLURM and dask-cuda do, it is that one.
    """
    if device != "cuda" or torch.cuda.device_count() < 2:
        return device
    return f"cuda:{place_of(_own_name()) % torch.cuda.device_count()}"


def place_of(name: str) -> int:
    """Return the number at the end of a worker's name, such as 3 or "gpu-node-3"; 0 without."""
    found = re.search(r"([0-9]+)\D*$", name)
    return int(found[1]) if found else 0


def _own_name() -> str:
    try:
        from distributed import get_worker

        return str(get_worker().name)
    except (ImportError, ValueError):  # not in a worker
        return os.environ.get("SLURM_LOCALID", "0")


def _loaded(weights: Weights, instrument: str, device: str) -> tuple[Instrument, Any]:
    here = Weights.of(weights.source)
    if here.sha256 != weights.sha256:
        raise WeightsError(
            f"the weights of {weights.name!r} are others than those of the plan: sha256 "
            f"{here.sha256[:12]}, not {weights.sha256[:12]}"
        )
    return registry.load(weights.source, instrument=instrument, device=device)


def _measured(task: Task, tools: Tools) -> tuple[layout.About, list[Any], list[Failure]]:
    """Return what a partition gives: what is to be said of it, tables, and failures."""
    how, card = task.how, tools.model.card
    assert card is not None
    columns = layout.columns(tools.instrument, how, card.latents)
    schema = layout.schema(columns)
    rejects = 0 if how.everything else int(tools.instrument.rejects)
    tables, failures, cut = [schema.empty_table()], list[Failure](), 0
    for piece in pieces(task, tools.instrument, tools.model.uses_lsf):
        failures += piece.failures
        if piece.batch is None:
            continue
        keep = ((piece.batch.flags & rejects) == 0).numpy()
        cut += int((~keep).sum())
        if keep.any():
            batch = piece.batch if keep.all() else piece.batch[keep]
            names = np.array(piece.names, dtype=object)[keep]
            tables.append(parts.to_table(_rows(how, tools, batch, names), schema))
    rows = sum(len(table) for table in tables)
    unreachable = sum(one.error == OfflineError.__name__ for one in failures)
    about = layout.About(
        task.plan, task.number, rows, cut, len(failures), unreachable, _made(task)
    )  # fmt: skip
    return about, tables, failures


def _rows(how: How, tools: Tools, batch: SpectrumBatch, names: Any) -> dict[str, Any]:
    """Return the columns of some spectra."""
    found: dict[str, Any] = {}
    if batch.ids is not None:
        found |= {name: batch.ids[name] for name in batch.ids.dtype.names or ()}
    found["source"] = names
    found["instrument"] = [how.instrument] * len(batch)
    found["model"] = [how.model.name] * len(batch)
    found |= {name: getattr(batch, name).numpy() for name in ("z", "zerr", "snr", "norm", "flags")}
    return found | measure(tools.model, batch, tools.flow, how.refine, how.redshift)


def _made(task: Task) -> dict[str, Any]:
    """Return where a part comes from."""
    few = len(task.sources) <= _LISTED and task.how.dataset is None
    names = {"names": [name_of(source) for source in task.sources]} if few else {}
    return {**task.how.told, "sources": task.told | names, "versions": versions()}


def _ended(task: Task, error: str) -> Outcome:
    return Outcome(task.number, error=error, ends=True)


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, SpenderError) else told(error)
