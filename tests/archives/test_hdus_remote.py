"""Files on a server are read by their parts: few requests, few bytes, the same values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full_coadds import write
from range_server import RangeServer, serving

from spender_core.archives.fits.hdus import Hdus, open_hdus
from spender_core.errors import FileError

PARTS = ("WAVELENGTH", "FLUX", "IVAR", "MASK")
WANTED = ["FIBERMAP", *(f"{camera}_{part}" for camera in "BRZ" for part in PARTS)]


@pytest.fixture(scope="module")
def coadd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("coadds"), 60, resolution=True).coadd


@pytest.fixture(scope="module")
def server(coadd: Path) -> Iterator[RangeServer]:
    with serving(coadd.parent) as server:
        yield server


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: RangeServer) -> None:
    monkeypatch.setenv("SPENDER_HOME", str(tmp_path))
    server.forget()


def everything(hdus: Hdus, rows: Any, ahead: bool) -> dict[str, Any]:
    parts = [(hdus[name], None if "WAVE" in name else rows, None) for name in WANTED[1:]]
    if ahead:
        hdus.prefetch(parts)
    return {hdu.name: hdu.image(some) for hdu, some, _ in parts}


@pytest.mark.parametrize("rows", [[41], [3, 50, 7], slice(10, 20), None])
@pytest.mark.parametrize("ahead", [True, False])
def test_rows_of_a_remote_coadd_are_those_of_the_local_one(
    coadd: Path, server: RangeServer, rows: Any, ahead: bool
) -> None:
    with open_hdus(str(coadd)) as local, open_hdus(server.at(coadd.name), WANTED) as remote:
        here, there = everything(local, rows, ahead), everything(remote, rows, ahead)
        assert here.keys() == there.keys()
        for name, values in here.items():
            np.testing.assert_array_equal(values, there[name])
        column = local["FIBERMAP"].table(["TARGETID"])["TARGETID"]
        np.testing.assert_array_equal(column, remote["FIBERMAP"].table(["TARGETID"])["TARGETID"])


def test_one_target_takes_few_requests_and_bytes(coadd: Path, server: RangeServer) -> None:
    with open_hdus(server.at(coadd.name), WANTED) as hdus:
        hdus["FIBERMAP"].table(["TARGETID"])
        everything(hdus, [41], ahead=True)
    seen = server.seen()
    assert seen.requests <= 34
    assert seen.bytes <= 1_000_000


def test_what_was_brought_ahead_is_not_asked_for_again(coadd: Path, server: RangeServer) -> None:
    with open_hdus(server.at(coadd.name), WANTED) as hdus:
        parts = [(hdus[name], [5], None) for name in ("B_FLUX", "B_MASK")]
        hdus.prefetch(parts)
        before = server.seen().requests
        for hdu, rows, _ in parts:
            hdu.image(rows)
        assert server.seen().requests == before


def test_a_remote_file_that_ends_early_is_refused(coadd: Path, server: RangeServer) -> None:
    cut = coadd.with_name("cut.fits")
    cut.write_bytes(coadd.read_bytes()[: 3 << 20])
    with (
        pytest.raises(FileError, match=r"cut\.fits: .*it is truncated"),
        open_hdus(server.at("cut.fits")) as hdus,
    ):
        len(hdus)
