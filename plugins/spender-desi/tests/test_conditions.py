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
Resolution = Callable[..., Callable[[dict[str, Any]], None]]


def test_resolutions_are_joined_over_the_cameras(
    write_coadd: CoaddWriter, with_resolution: Resolution
) -> None:
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
    ("options", "message"),
    [
        ({"taps": 10}, "has shape"),
        ({"value": np.nan}, "not finite"),
    ],
)
def test_damaged_resolutions_are_refused(
    write_coadd: CoaddWriter, with_resolution: Resolution, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(FileError, match=message):
        DESI().loader.conditions(str(write_coadd(edit=with_resolution(**options))))
