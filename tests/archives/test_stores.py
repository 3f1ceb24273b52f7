"""FITS files in an object store, read by parts over s3 and over http, from this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from astropy.io import fits
from stores import public_bucket

from spender_core.archives.fits.opening import open_fits
from spender_core.errors import FileError, MissingFileError, OfflineError, SpenderError

VALUES = np.arange(3_000_000, dtype="f4")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a store with a public bucket that holds a large file and a damaged one."""
    path = tmp_path_factory.mktemp("files") / "large.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(VALUES, name="LARGE")]).writeto(path)
    content = path.read_bytes()
    files = {"large.fits": content, "short.fits": content[: len(content) // 2]}
    with public_bucket("desidata", files) as url:
        yield url


@pytest.fixture(params=["s3", "http"])
def bucket(
    request: pytest.FixtureRequest, store: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Address of the bucket."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    yield "s3://desidata" if request.param == "s3" else f"{store}/desidata"
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_file_is_read_by_parts(bucket: str) -> None:
    with open_fits(f"{bucket}/large.fits") as hdus:
        assert (hdus["LARGE"].data == VALUES).all()


def test_what_is_wrong_with_a_file_is_told(bucket: str) -> None:
    with (
        pytest.raises(FileError, match=r"short\.fits: HDU 1 claims"),
        open_fits(f"{bucket}/short.fits"),
    ):
        pass
    with (
        pytest.raises((MissingFileError, OfflineError), match=r"absent\.fits"),
        open_fits(f"{bucket}/absent.fits"),
    ):
        pass


def test_a_store_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with (
        pytest.raises(OfflineError, match=r"cannot reach s3://desidata/large\.fits"),
        open_fits("s3://desidata/large.fits"),
    ):
        pass


def test_other_stores_of_fsspec_are_read(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.arange(4.0)).writeto(tmp_path / "a.fits")
    memory = fsspec.filesystem("memory")
    memory.pipe("/a.fits", (tmp_path / "a.fits").read_bytes())
    with open_fits("memory://a.fits") as hdus:
        assert hdus[0].data.tolist() == [0, 1, 2, 3]
    with pytest.raises(SpenderError, match="nowhere"), open_fits("nowhere://a.fits"):
        pass
