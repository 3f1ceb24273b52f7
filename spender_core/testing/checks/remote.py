"""Check that a file is read over http as it is from disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch

from spender_core.testing.faults import ContractError, expect
from spender_core.testing.server import serving
from spender_core.testing.subject import Subject

_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "SPENDER_OFFLINE")


def check_remote_equals_local(subject: Subject) -> None:
    """A file read over http gives what it gives on disk."""
    path, local = subject.example.paths[0], subject.raw()
    with _own_cache(subject.folder / "cache"), serving(path.parent) as root:
        try:
            remote = subject.loader.load(f"{root}/{quote(path.name)}")
        except Exception as error:
            raise ContractError(
                "load reads a remote file, by its http URL, as it reads a local one",
                f"{type(error).__name__}: {error}",
                "open files by spender_core.archives.fits.opening.open_fits, or open_bytes of "
                "archives.remote.files, never by open(), Path or astropy's fits.open",
            ) from error
    expect(
        torch.equal(remote.flux, local.flux)
        and torch.equal(remote.ivar, local.ivar)
        and np.array_equal(remote.ids, local.ids),
        expected="the same flux, ivar and ids of a remote and a local file",
        found="they differ",
        fix="let load take nothing from the path of a file",
    )


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """Keep what is read out of the user's cache, and the user's proxies out of this machine."""
    kept = {name: os.environ.pop(name, None) for name in (*_PROXIES, "SPENDER_HOME")}
    os.environ["SPENDER_HOME"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("SPENDER_HOME")
        os.environ.update({name: value for name, value in kept.items() if value is not None})
