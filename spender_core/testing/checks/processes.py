"""Checks that an instrument can work in another process, as loaders of training data need."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np

from spender_core.interfaces import Instrument
from spender_core.testing.faults import ContractError, expect
from spender_core.testing.subject import Subject

_CODE = """
import pickle, sys
paths, content, url = pickle.load(sys.stdin.buffer)
sys.path[:] = paths
batch = pickle.loads(content).loader.load(url)
sys.stdout.buffer.write(pickle.dumps((batch.flux.numpy(), batch.ids)))
"""


def check_pickles(subject: Subject) -> None:
    """The instrument survives pickling."""
    copy = pickle.loads(_pickled(subject.instrument))
    expect(
        copy.name == subject.instrument.name and copy.grid == subject.instrument.grid,
        expected="the unpickled instrument has the same name and grid",
        found=f"{copy.name!r} with {copy.grid.size} pixels from {copy.grid.wave[0]:g} Angstrom",
        fix="keep no state that pickling loses",
    )


def check_spawned_process(subject: Subject) -> None:
    """A fresh process that gets the instrument reads the same spectra."""
    raw = subject.raw()
    url = str(subject.example.paths[0])
    given = pickle.dumps((sys.path, _pickled(subject.instrument), url))
    ran = subprocess.run([sys.executable, "-c", _CODE], input=given, capture_output=True)
    if ran.returncode:
        lines = ran.stderr.decode(errors="replace").strip().splitlines()
        raise ContractError(
            "a spawned process unpickles the instrument, and reads the file",
            lines[-1] if lines else f"exit status {ran.returncode}",
            "define instrument and loader at the top of an importable module; open files in load",
        )
    flux, ids = pickle.loads(ran.stdout)
    expect(
        np.array_equal(flux, raw.flux.numpy()) and np.array_equal(ids, raw.ids),
        expected="a spawned process reads the same spectra in the same order",
        found="others",
        fix="let load depend on the file alone, not on hashes, sets or globals",
    )


def _pickled(instrument: Instrument) -> bytes:
    try:
        return pickle.dumps(instrument)
    except Exception as error:
        raise ContractError(
            "the instrument and its loader can be pickled",
            f"{type(error).__name__}: {error}",
            "keep no open file, lock or lambda in the instrument or loader; make them in load",
        ) from error
