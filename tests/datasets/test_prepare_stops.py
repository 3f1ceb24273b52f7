"""Datasets that are prepared in pieces: interrupted, killed, by two at once, elsewhere, for real."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pixel_survey import Tiny, TinyLoader, contents, write_survey
from stores import public_bucket
from victims import Victims, moments

from spender_core import registry
from spender_core.datasets.layout import split_of
from spender_core.datasets.manifest import verify
from spender_core.datasets.prepare import Prepared, prepare
from spender_core.datasets.tables import to_batch
from spender_core.errors import FileError, InputError

FILES, ROWS, KILLS = 16, 1500, 12


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A survey of 24,000 spectra: three shards to train on."""
    return write_survey(tmp_path_factory.mktemp("survey"), FILES, ROWS)


@pytest.fixture(scope="module")
def whole(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The dataset of an uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    prepare(root, Tiny(), files)
    return contents(root)


def shards(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if name.endswith(".parquet")}


def reads(instrument: Tiny) -> list[str]:
    assert isinstance(instrument.loader, TinyLoader)
    return sorted(instrument.loader.read)


# -- interrupted, killed, and two at once -----------------------------------------------------


def test_interrupted_it_keeps_what_is_done(
    files: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    def stop(done: int, spectra: int) -> None:
        if done >= stops[0]:
            raise KeyboardInterrupt

    stops = [3]
    read: list[str] = []
    for stops[0] in (3, 4, 10, FILES + 1):
        instrument = Tiny()
        try:
            prepare(tmp_path, instrument, files, progress=stop, threads=1)
        except KeyboardInterrupt:
            assert verify(str(tmp_path)) == []
        read += reads(instrument)
    assert shards(contents(tmp_path)) == shards(whole)
    assert sorted(read) == sorted(Path(file).name for file in files)


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    folder, killed = tmp_path / "survey", 0
    prepare(tmp_path / "whole", Tiny(), write_survey(folder, 10, 1300))
    whole = contents(tmp_path / "whole")
    assert len(whole) == 5
    needed = ("spender_core.datasets.prepare", "pyarrow.parquet")
    with Victims(*needed) as victims:
        longest = victims.run("prepare", tmp_path / "timed", folder, 0.01)
        for number, moment in enumerate(moments(KILLS, longest)):
            root = tmp_path / str(number)
            killed += victims.kill(moment, "prepare", root, folder, 0.01)
            if (root / "dataset.json").exists():
                damaged = [d for d in verify(str(root)) if "does not know" not in d.reason]
                assert damaged == []
            victims.run("prepare", root, folder)
            assert contents(root) == whole
    assert killed > KILLS / 2


def test_two_processes_do_not_write_one_dataset(files: list[str], tmp_path: Path) -> None:
    begun, go_on, results = threading.Event(), threading.Event(), list[Prepared]()

    def wait(done: int, spectra: int) -> None:
        begun.set()
        assert go_on.wait(60)

    def first() -> None:
        results.append(prepare(tmp_path, Tiny(), files[:2], progress=wait))

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(60)
    with pytest.raises(InputError, match="another process is writing"):
        prepare(tmp_path, Tiny(), files[:2])
    go_on.set()
    thread.join()
    assert sum(results[0].rows.values()) == 2 * ROWS


# -- other stores, and real files -------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import s3fs

    with public_bucket("spectra", {}) as url:
        s3fs.S3FileSystem.clear_instance_cache()
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield "s3://spectra/tiny"
        s3fs.S3FileSystem.clear_instance_cache()


def test_an_object_store_holds_the_same_bytes(
    files: list[str], whole: dict[str, bytes], bucket: str
) -> None:
    prepare(bucket, Tiny(), files[:9])
    done = prepare(bucket, Tiny(), files)
    assert done.read == FILES - 9
    store = fsspec.filesystem("s3")

    def there() -> dict[str, bytes]:
        store.invalidate_cache()
        found = store.find("spectra/tiny")
        return {name.removeprefix("spectra/tiny/"): store.cat_file(name) for name in found}

    assert shards(there()) == shards(whole)
    store.pipe_file("spectra/tiny/data/train-00001.parquet", b"short")
    store.rm_file("spectra/tiny/data/test-00000.parquet")
    assert len(verify(bucket)) == 2
    again = prepare(bucket, Tiny(), files)
    assert len(again.damaged) == 2
    assert shards(there()) == shards(whole)
    assert verify(bucket) == []
    store.rm_file("spectra/tiny/dataset.json")
    with pytest.raises(InputError, match="holds a dataset already"):
        prepare(bucket, Tiny(), files)


def test_a_store_that_is_not_there_is_told(files: list[str], bucket: str) -> None:
    with pytest.raises(FileError, match="s3://nowhere/tiny"):
        prepare("s3://nowhere/tiny", Tiny(), files[:1])


@pytest.mark.parametrize(
    ("name", "pattern"), [("sdss", "26/**/spec-*.fits"), ("desi", "coadd-*.fits")]
)
def test_real_files(name: str, pattern: str, real_data: Path, tmp_path: Path) -> None:
    instrument = registry.instrument(name)
    sources = sorted(map(str, real_data.rglob(pattern)))[:9]
    sources[4:4] = [str(real_data / "MANIFEST.md")]
    root = tmp_path / "root"
    options: dict[str, Any] = {"lsf": True, "quality": False}
    prepare(root, instrument, sources[:3], **options)
    done = prepare(root, instrument, sources, **options)
    assert [failure.source for failure in done.failures] == sources[4:5]
    expected = instrument.read(sources[:4] + sources[5:], lsf=True, quality=False)
    assert expected.ids is not None
    assert sum(done.rows.values()) == len(expected)
    splits = split_of(expected.ids, instrument)
    for split in np.unique(splits):
        table = pq.read_table(root / "data" / f"{split}-00000.parquet")
        written, there = to_batch(table, instrument, lsf=True), expected[splits == split]
        assert written.ids is not None
        assert there.ids is not None
        assert (written.ids == there.ids).all()
        assert torch.equal(written.flux, there.flux)
        assert torch.equal(written.flags, there.flags)
        assert torch.equal(written.lsf(written.flux), there.lsf(there.flux))
    assert verify(str(root)) == []
