"""Many spectra read by id from a server some of whose files never come: the good ones all do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_archive import Id, differences, fabricate, path_of, spoil
from range_server import RangeServer, serving

from spender_core import registry
from spender_core.archives.remote import whole
from spender_core.errors import OfflineError, PartialReadWarning, SpenderError

COUNT = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archive")


@pytest.fixture(scope="module")
def ids(folder: Path, real_data: Path) -> list[Id]:
    return fabricate(folder, real_data, COUNT)


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[RangeServer]:
    with serving(folder) as server:
        yield server


@pytest.fixture
def archive(running: RangeServer) -> RangeServer:
    running.heal()
    running.forget()
    return running


def test_all_good_spectra_come_and_the_bad_are_told(
    archive: RangeServer,
    ids: list[Id],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sdss = registry.instrument("sdss")
    bad = spoil(archive, ids)
    good = [row for row in ids if row not in bad]
    direct = sdss.read(good, root=folder, release="dr17", quality=False)
    tables = []
    for k in range(3):
        monkeypatch.setenv("SPENDER_HOME", str(tmp_path / f"home-{k}"))
        with pytest.warns(PartialReadWarning, match=f"{len(bad)} of {COUNT} sources"):
            read = sdss.read(ids, root=archive.root, release="dr17", quality=False)
        assert differences(read, direct, ids, bad) == []
        tables.append(sorted((one.source, one.error) for one in read.failures))
    assert tables[0] == tables[1] == tables[2]


def test_what_failed_is_all_that_is_asked_for_again(
    archive: RangeServer, ids: list[Id], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "ABSENT_FOR", 0.0)
    sdss = registry.instrument("sdss")
    few = ids[:100]
    bad = spoil(archive, few)
    with pytest.warns(PartialReadWarning):
        sdss.read(few, root=archive.root, release="dr17", quality=False)
    archive.heal()
    archive.forget()
    read = sdss.read(few, root=archive.root, release="dr17", quality=False)
    assert not read.failures
    assert len(read) == len(few)
    assert archive.seen().paths == {path_of(row): 1 for row in bad}


def test_strict_reading_raises(archive: RangeServer, ids: list[Id]) -> None:
    spoil(archive, ids[:100])
    with pytest.raises(SpenderError, match=r"spec-1000-55000-\d{4}\.fits"):
        registry.instrument("sdss").read(
            ids[:100], root=archive.root, release="dr17", quality=False, strict=True
        )


def test_where_nothing_comes_that_is_told(archive: RangeServer, ids: list[Id]) -> None:
    archive.fault("status", code=503)
    with pytest.raises(OfflineError, match="none of 20 sources could be read"):
        registry.instrument("sdss").read(ids[:20], root=archive.root, release="dr17")
