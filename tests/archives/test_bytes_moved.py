"""How much of a coadd of full size moves over the network, from a server of files and from a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from full_coadds import Fabricated, write
from range_server import serving
from stores import public_bucket

from spender_core import registry
from spender_core.archives.remote.fetching import traffic

BELOW = "dr1/spectro/redux/iron/healpix"
FOLDER = f"{BELOW}/sv3/dark/260/26065"


@pytest.fixture(scope="module", params=["http", "s3"])
def root(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, str], Fabricated]]:
    """URL of an archive with a coadd, the environment that it needs, and what it was made of."""
    folder = tmp_path_factory.mktemp("archive")
    if request.param == "http":
        made = write(folder / BELOW, 500)
        with serving(folder) as server:
            yield server.root, {}, made
        return
    made = write(folder / BELOW, 150)  # moto copies the whole file for each request
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*.fits")}
    contents = {key: path.read_bytes() for key, path in files.items()}
    with public_bucket("desidata", contents) as url:
        yield "s3://desidata", {"AWS_ENDPOINT_URL": url}, made


@pytest.fixture
def made(root: tuple[str, dict[str, str], Fabricated]) -> Fabricated:
    """The coadd."""
    return root[2]


@pytest.fixture
def archive(root: tuple[str, dict[str, str], Fabricated], monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of the archive, which is read without credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in root[1].items():
        monkeypatch.setenv(name, value)
    return root[0]


def moved(read: Callable[[], Any]) -> tuple[Any, int, int]:
    """Return what a call returns, and the requests and bytes that it took."""
    before = traffic()
    result = read()
    after = traffic()
    return result, after.requests - before.requests, after.bytes - before.bytes


def test_one_target_needs_little(archive: str, made: Fabricated) -> None:
    desi, one = registry.instrument("desi"), int(made.targets[137])
    ids = ("sv3", "dark", 26065, one)
    batch, requests, size = moved(lambda: desi.read(ids, root=archive, quality=False))
    assert len(batch) == 1
    assert 0 < size <= 1.5e6
    assert 0 < requests <= 40
    again, requests, size = moved(lambda: desi.read(ids, root=archive, quality=False))
    assert (requests, size) == (0, 0)
    direct = desi.read(str(made.coadd), quality=False)
    place = direct.ids["TARGETID"].tolist().index(one)
    for found in (batch, again):
        np.testing.assert_array_equal(found.flux[0].numpy(), direct.flux[place].numpy())
        np.testing.assert_array_equal(found.ivar[0].numpy(), direct.ivar[place].numpy())
        assert found.z[0] == direct.z[place]


def test_resolutions_move_only_on_request(archive: str, made: Fabricated) -> None:
    desi, whole = registry.instrument("desi"), made.coadd.stat().st_size
    url = f"{archive}/{FOLDER}/{made.coadd.name}"
    without, requests, size = moved(lambda: desi.read(url, quality=False))
    assert 0.1 * whole < size <= 0.25 * whole
    assert requests < 100
    direct = desi.read(str(made.coadd), quality=False)
    np.testing.assert_array_equal(without.flux.numpy(), direct.flux.numpy())
    np.testing.assert_array_equal(without.ivar.numpy(), direct.ivar.numpy())
    _, _, more = moved(lambda: desi.read(url, quality=False, lsf=True))
    assert 0.7 * whole < size + more <= 1.02 * whole
