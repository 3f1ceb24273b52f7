"""Checks of reading some rows, many files, and files one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from spender_core.batch import SpectrumBatch
from spender_core.testing.faults import NotApplicable, expect
from spender_core.testing.subject import Subject


def check_joined_in_order(subject: Subject) -> None:
    """Several files give the spectra of each, one after the other."""
    paths = [*subject.example.paths, subject.example.paths[-1]]  # no palindrome
    parts = [subject.raw(path).flux for path in paths]
    batch = subject.instrument.read([str(path) for path in paths], quality=False)
    flux = batch.flux.double() * batch.norm[:, None]
    wanted = torch.cat(parts).double()
    expect(
        flux.shape == wanted.shape and torch.allclose(flux, wanted, 1e-4, 1e-6),
        expected="read of several files joins them in the order asked for",
        found="another order, or other spectra: files are swapped or rows are missing",
        fix="let load_many return the slice of each file, in the order of `asked`",
    )


def check_load_rows(subject: Subject) -> None:
    """`load_rows`, if there is one, gives the rows asked for, in the file's order."""
    loader, whole = subject.loader, subject.raw()
    if not loader.reads_rows:
        raise NotApplicable(f"{type(loader).__name__} has no load_rows, which is optional")
    names = [n for n in loader.id_dtype.names or () if loader.id_dtype[n].kind in "iu"]
    if not names or whole.ids is None:
        raise NotApplicable("no field of the ids is an integer")
    values = tuple(whole.ids[names[0]][::-2].tolist())
    keep = np.isin(whole.ids[names[0]], values)
    asked: Mapping[str, Any] = {names[0]: values}
    rows = loader.load_rows(str(subject.example.paths[0]), asked, False)
    _same(rows, whole[keep], "load_rows gives the rows asked for, in the order of the file")


def check_load_many(subject: Subject) -> None:
    """`load_many`, if there is one, gives what `load` gives of each file."""
    loader = subject.loader
    if not loader.loads_many:
        raise NotApplicable(f"{type(loader).__name__} has no load_many, which is optional")
    paths = [*subject.example.paths, subject.example.paths[-1]]  # no palindrome
    together, rows = loader.load_many([(str(path),) for path in paths], False)
    for path, where in zip(paths, rows, strict=True):
        expect(
            together is not None and isinstance(where, slice),
            expected=f"load_many reads {path.name}",
            found=str(where),
            fix="return a slice for each file that load can read",
        )
        if together is not None:
            _same(together[where], subject.raw(path), f"load_many gives load({path.name}) there")


def _same(found: SpectrumBatch, wanted: SpectrumBatch, expected: str) -> None:
    if np.array_equal(found.ids, wanted.ids):
        trouble = "other flux" if not torch.equal(found.flux, wanted.flux) else ""
    else:
        trouble = "other ids: rows are in the wrong order, swapped or missing"
    expect(
        not trouble,
        expected=expected,
        found=trouble,
        fix="select rows by a boolean mask over the file's rows, and keep files apart",
    )
