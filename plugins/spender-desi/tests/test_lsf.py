"""Resolution matrices on request: joined over the cameras, with their own spectra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spender_desi.instrument import DESI

from spender_core.batch import SpectrumBatch
from spender_core.errors import FileError
from spender_core.line_spread import BandedLSF

CoaddWriter = Callable[..., Path]
Resolution = Callable[..., Callable[[dict[str, Any]], None]]


def shifted(images: dict[str, Any]) -> None:
    """Give the target in row r a matrix that moves everything by r pixels."""
    for camera in "BRZ":
        n, pixels = images[f"{camera}_FLUX"].shape
        data = np.zeros((n, 11, pixels), dtype="f4")
        data[np.arange(n), 5 + np.arange(n)] = 1
        images[f"{camera}_RESOLUTION"] = data


def moved(batch: SpectrumBatch) -> list[int]:
    """Return by how many pixels the matrices of a batch move a line."""
    line = torch.zeros_like(batch.flux)
    line[:, 4000] = 1
    return [int(row.nonzero()) - 4000 for row in batch.lsf(line)]


def test_matrices_are_those_of_the_spectra(write_coadd: CoaddWriter) -> None:
    path = write_coadd(edit=shifted, fibermap={"COADD_FIBERSTATUS": np.array([0, 4, 0, 0])})
    batch = DESI().read([str(path), str(path)], quality=True, lsf=True)
    assert isinstance(batch.lsf, BandedLSF)
    assert batch.lsf.offsets == tuple(range(5, -6, -1))
    assert moved(batch) == [0, 2, 3, 0, 2, 3]
    assert moved(batch[[2, 0]]) == [3, 0]


def test_elements_are_in_the_column_that_light_comes_from(write_coadd: CoaddWriter) -> None:
    def edit(images: dict[str, Any]) -> None:
        shifted(images)
        images["R_RESOLUTION"][:, :, 1840] = 0
        images["R_RESOLUTION"][:, [4, 6], 1840] = 0.25, 0.75

    column = 4540  # pixel 1840 of R, which begins with pixel 2700
    batch = DESI().read(str(write_coadd(edit=edit)), quality=False, lsf=True)
    line = torch.zeros_like(batch.flux)
    line[:, column] = 1
    assert (batch.lsf(line)[:, column - 1 : column + 2] == torch.tensor([0.25, 0, 0.75])).all()


def test_cameras_with_fewer_diagonals_are_centred(
    write_coadd: CoaddWriter, with_resolution: Resolution
) -> None:
    def edit(images: dict[str, Any]) -> None:
        with_resolution()(images)
        images["Z_RESOLUTION"] = images["Z_RESOLUTION"][:, 2:-2]

    lsf = DESI().read(str(write_coadd(edit=edit)), quality=False, lsf=True).lsf
    assert lsf.data.shape == (4, 11, 7781)
    assert (lsf.data[:, :2, 6000:] == 0).all()
    assert (lsf.data[:, 5, 10:-10] == lsf.data.amax(dim=1)[:, 10:-10]).all()


def test_damaged_matrices_matter_only_on_request(
    write_coadd: CoaddWriter, with_resolution: Resolution
) -> None:
    path = str(write_coadd(edit=with_resolution(value=np.nan)))
    assert DESI().read(path, quality=False).lsf is None
    with pytest.raises(FileError, match="B_RESOLUTION is not finite"):
        DESI().read(path, quality=False, lsf=True)


def test_a_coadd_without_matrices_is_refused_on_request(write_coadd: CoaddWriter) -> None:
    with pytest.raises(FileError, match=r"holds no resolution matrices.*without lsf=True"):
        DESI().read(str(write_coadd()), lsf=True)


def test_pixels_that_cannot_be_have_no_weight(
    write_coadd: CoaddWriter, with_resolution: Resolution
) -> None:
    """Where cameras overlap, the matrix of the one that is sound is taken."""

    def edit(images: dict[str, Any]) -> None:
        with_resolution()(images)
        images["B_RESOLUTION"][:] = 0
        images["B_IVAR"][:, 2720:2740] = np.nan

    batch = DESI().read(str(write_coadd(edit=edit)), quality=False, lsf=True)
    sums = batch.lsf.data.sum(dim=1)
    assert torch.allclose(sums[:, 2726:2734], torch.tensor(1.0))
    assert ((sums[:, 2702:2712] > 0.2) & (sums[:, 2702:2712] < 0.8)).all()
