"""Objects in a store that speaks S3, on this machine: public, private, absent, many at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from range_server import RangeServer, serving
from stores import public_bucket

from spender_core.archives.remote.fetching import ChangedError, Fetched, fetch_all, submit, traffic
from spender_core.errors import (
    DamagedFileError,
    FileError,
    MissingFileError,
    OfflineError,
    SpenderError,
)

SIZE = 1_000_000
CONTENT = np.random.default_rng(0).bytes(SIZE)
URL = "s3://desidata/edr/a.fits"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with public_bucket("desidata", {"edr/a.fits": CONTENT}) as url:
        yield url


@pytest.fixture(autouse=True)
def endpoint(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_an_object_is_fetched_whole_and_in_parts() -> None:
    whole = submit(URL).result()
    assert (whole.data, whole.start, whole.size) == (CONTENT, 0, SIZE)
    part = submit(URL, 1000, 5000, whole.version).result()
    assert part == Fetched(CONTENT[1000:5000], 1000, SIZE, whole.version)
    assert submit(URL, SIZE - 5, SIZE + 99).result().data == CONTENT[-5:]
    with pytest.raises(DamagedFileError, match="is shorter than byte"):
        submit(URL, SIZE + 5, SIZE + 99).result()
    with pytest.raises(ChangedError, match="changed on its server"):
        submit(URL, 1, 2, '"other"').result()


def test_many_parts_are_fetched_at_once() -> None:
    before = traffic()
    cuts = [(k, k + 777) for k in range(0, SIZE - 777, 20_011)]
    found = fetch_all([(URL, start, stop, "") for start, stop in cuts])
    assert [getattr(one, "data", None) for one in found] == [CONTENT[a:b] for a, b in cuts]
    assert traffic().requests - before.requests == len(cuts)
    assert traffic().bytes - before.bytes == 777 * len(cuts)


@pytest.mark.parametrize("url", ["s3://desidata/edr/absent.fits", "s3://nobucket/a.fits"])
def test_what_is_absent_is_told_after_one_request(url: str) -> None:
    before = traffic().requests
    with pytest.raises(MissingFileError, match=f"there is no file {url}"):
        submit(url).result()
    assert traffic().requests - before == 1


def test_a_store_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OfflineError, match="cannot reach s3://gone/a: no connection"):
        submit("s3://gone/a").result()


def test_offline_no_store_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    before = traffic().requests
    with pytest.raises(OfflineError, match="SPENDER_OFFLINE is set"):
        submit(URL).result()
    assert traffic().requests == before


# -- what moto does not do: a server that answers as a store would -----------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """A server of the buckets "public" and "private"."""
    folder = tmp_path_factory.mktemp("buckets")
    for bucket in ("public", "private"):
        (folder / bucket).mkdir()
        (folder / bucket / "a.fits").write_bytes(CONTENT)
    with serving(folder) as server:
        yield server


@pytest.fixture
def strange(running: RangeServer, monkeypatch: pytest.MonkeyPatch) -> RangeServer:
    """The same, as a store that fails as it is told."""
    running.heal()
    running.forget()
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.root)
    monkeypatch.setenv("SPENDER_TIMEOUT", "0.3")
    return running


def test_what_is_private_is_asked_for_with_credentials(
    strange: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "AKIAABCDEFGHIJKLMNOP"
    strange.fault("login", match="private", authorization=f"AWS4-HMAC-SHA256 Credential={key}/")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAANOTHERONEANOTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret-key")
    with pytest.raises(OfflineError, match=r"answered 401.* if it is private, set AWS_ACC") as told:
        submit("s3://private/a.fits").result()
    assert "hidden" not in str(told.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    strange.forget()
    for k in range(3):
        assert submit("s3://private/a.fits", k, 100).result().data == CONTENT[k:100]
    asked = [line[2].split("/")[0] for line in strange.seen().log]
    signed = f"AWS4-HMAC-SHA256 Credential={key}"
    assert asked == ["", signed, signed, signed]


def test_nobody_is_told_who_reads_what_is_public(
    strange: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAABCDEFGHIJKLMNOP")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret-key")
    assert submit("s3://public/a.fits").result().data == CONTENT
    assert [line[2] for line in strange.seen().log] == [""]


def test_without_credentials_what_is_private_is_told(
    strange: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    strange.fault("login", match="private", authorization="AWS4")
    with pytest.raises(OfflineError, match=r"no credentials; if it is private, set AWS_ACC"):
        submit("s3://private/a.fits").result()


@pytest.mark.parametrize(
    ("kind", "options", "error", "text", "tries"),
    [
        ("status", {"code": 503}, OfflineError, "answered 503", 5),
        ("status", {"code": 500}, OfflineError, "answered 500", 5),
        ("page", {}, FileError, "a web page instead of the file", 5),
        ("drop", {"after": 700}, FileError, "the file was cut off", 5),
        ("reset", {}, OfflineError, "the connection was lost", 5),
        ("wrong_range", {}, FileError, "another part than the one asked for", 5),
        ("stall", {"after": 700}, OfflineError, "nothing came for 0 s", 3),
        ("silence", {}, OfflineError, "nothing came for 0 s", 3),
    ],
)
def test_stores_fail_as_servers_do(
    strange: RangeServer,
    kind: str,
    options: dict[str, Any],
    error: type[SpenderError],
    text: str,
    tries: int,
) -> None:
    strange.fault(kind, times=2, **options)
    assert submit("s3://public/a.fits", 5, 90_000).result().data == CONTENT[5:90_000]
    assert strange.seen().requests == 3 or kind == "reset"
    strange.heal()
    strange.forget()
    strange.fault(kind, **options)
    with pytest.raises(error, match=rf"s3://public/a\.fits: .*{text}.*attempts: {tries}") as told:
        submit("s3://public/a.fits", 5, 90_000).result()
    assert type(told.value) is error
    # aiohttp itself repeats, once, what a connection that was kept open lost
    assert strange.seen().requests in ({tries, 2 * tries} if kind == "reset" else {tries})
