"""Checks of ids: their type, that they are unique, and that order is stable."""

from __future__ import annotations

import numpy as np
import torch

from spender_core.testing.faults import NotApplicable, expect
from spender_core.testing.subject import Subject


def check_ids(subject: Subject) -> None:
    """Every spectrum has an id of the loader's `id_dtype`, unique in its file."""
    for path in subject.example.paths:
        ids, wanted = subject.raw(path).ids, subject.loader.id_dtype
        expect(
            ids is not None and ids.dtype == wanted,
            expected=f"ids of the dtype {wanted}, the loader's id_dtype",
            found="no ids" if ids is None else f"dtype {ids.dtype}",
            fix="make them by np.array(list_of_tuples, dtype=self.id_dtype)",
        )
        values, counts = np.unique(ids, return_counts=True)
        expect(
            counts.max(initial=1) == 1,
            expected=f"ids are unique in {path.name}",
            found=f"a duplicate id: {values[np.argmax(counts)]} comes {counts.max(initial=1)} times",
            fix="add the field that tells such spectra apart, e.g. the exposure, to id_dtype",
        )


def check_stable(subject: Subject) -> None:
    """The same file gives the same spectra in the same order, however often it is read."""
    first = subject.raw()
    again = subject.loader.load(str(subject.example.paths[0]))
    expect(
        np.array_equal(first.ids, again.ids),
        expected="load gives spectra in the order of the file, each time",
        found="another order of ids the second time: it is unstable",
        fix="keep the file's order; iterate over no set",
    )
    expect(
        torch.equal(first.flux, again.flux) and torch.equal(first.ivar, again.ivar),
        expected="load gives the same values each time",
        found="flux or ivar differ the second time",
        fix="draw nothing at random, and change no array that is kept",
    )


def check_by_id(subject: Subject) -> None:
    """Ids lead to the spectra that have them, in the order asked for."""
    example = subject.example
    if example.root is None or not example.ids:
        raise NotApplicable("the example states no archive (root) and ids")
    asked = [tuple(row) for row in example.ids][::-1]
    rows = np.array(asked, dtype=subject.loader.id_dtype)
    batch = subject.instrument.read(rows, root=example.root, quality=False)
    found = [] if batch.ids is None else [tuple(row) for row in batch.ids.tolist()]
    expect(
        found == asked,
        expected=f"read({asked[:4]}, root=...) gives these spectra, in this order",
        found=f"{found[:4]}",
        fix="let locate return a Source for each id, with `rows` where a file has other spectra too",
    )


def check_ids_of_example(subject: Subject) -> None:
    """The ids are those that the example states, in the file's order."""
    truth = [tuple(row) for row in subject.example.ids]
    if not truth:
        raise NotApplicable("the example states no ids")
    ids = subject.raw().ids
    found = [] if ids is None else [tuple(row) for row in ids.tolist()]
    expect(
        found == truth,
        expected=f"ids {truth[:4]}, in the order of the file",
        found=f"{found[:4]}" + ("; the order differs" if sorted(found) == sorted(truth) else ""),
        fix="keep the order of the file's rows; let ids be those of the same rows as flux",
    )
