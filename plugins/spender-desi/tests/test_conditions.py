"""What coadds tell of how they were taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spender_desi.instrument import DESI

from spender_core.errors import FileError

CoaddWriter = Callable[..., Path]


def with_resolution(taps: int = 11, sigma: float = 1.0, value: float = 1.0) -> Callable[..., None]:
    """Return an edit that adds Gaussian resolution matrices to a coadd."""

    def edit(images: dict[str, Any]) -> None:
        kernel = np.exp(-0.5 * ((np.arange(taps) - taps // 2) / sigma) ** 2)
        for camera in "BRZ":
            n, pixels = images[f"{camera}_FLUX"].shape
            data = np.broadcast_to((value * kernel / kernel.sum())[:, None], (n, taps, pixels))
            images[f"{camera}_RESOLUTION"] = data.astype("f4")

    return edit


def test_resolutions_are_joined_over_the_cameras(write_coadd: CoaddWriter) -> None:
    desi = DESI()
    told = desi.loader.conditions(str(write_coadd(edit=with_resolution())))
    assert told.resolution is not None
    assert told.resolution.shape == (4, 11, desi.grid.size)
    assert told.resolution.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert told.equal_light.shape == (4, desi.grid.size)
    assert (np.diff(told.equal_light[0]) <= 0).all()
    assert told.seams == (5780.0, 7570.0)


def test_a_coadd_without_resolution_tells_none(write_coadd: CoaddWriter) -> None:
    assert DESI().loader.conditions(str(write_coadd())).resolution is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (with_resolution(taps=10), "has shape"),
        (with_resolution(value=np.nan), "not finite"),
    ],
)
def test_damaged_resolutions_are_refused(
    write_coadd: CoaddWriter, edit: Callable[..., None], message: str
) -> None:
    with pytest.raises(FileError, match=message):
        DESI().loader.conditions(str(write_coadd(edit=edit)))
