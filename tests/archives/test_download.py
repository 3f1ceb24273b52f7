"""Files in the cache: found, checked, downloaded once, and held to their first hash."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from threading import Thread

import filelock
import numpy as np
import pytest
from servers import COMMIT, REPOSITORY, Handler, Hub, altered, status

from spender_core.archives.downloads import cache
from spender_core.archives.downloads.cache import home
from spender_core.archives.downloads.fetch import fetch
from spender_core.archives.location import parse
from spender_core.errors import (
    FileError,
    InputError,
    MissingFileError,
    OfflineError,
    SpenderError,
    WeightsError,
)

CONTENT = b"weights" * 1000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def record(location: str, root: Path | None = None) -> cache.Record:
    found = cache.entry(parse(location), root).record()
    assert found is not None
    return found


def visible() -> list[str]:
    """Return the names of all files in the cache, but the hidden ones of downloads."""
    return sorted(p.name for p in home().rglob("*") if p.is_file() and p.name[0] != ".")


@pytest.mark.parametrize("known", [0, 8, 64])
def test_a_file_is_downloaded_and_checked_by_what_is_known_of_its_hash(
    hub: Hub, known: int
) -> None:
    path = fetch(hub.offer("model.bin", CONTENT), sha256(CONTENT)[:known].upper())
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(home())
    assert visible() == ["model.bin", "record.json"]
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".model")] == []


def test_where_a_file_came_from_is_recorded(hub: Hub) -> None:
    location = hub.offer("model.bin", CONTENT)
    fetch(location, sha256(CONTENT)[:8])
    found = record(location)
    assert found.sha256 == sha256(CONTENT)
    assert found.size == len(CONTENT)
    assert (found.location, found.revision, found.commit) == (location, "main", COMMIT)
    assert found.url == f"{hub.url}/{REPOSITORY}/resolve/main/model.bin"


def test_a_revision_is_asked_for_and_its_commit_recorded(hub: Hub) -> None:
    hub.offer("model.bin", CONTENT)
    location = f"hf:{REPOSITORY}@v2/model.bin"
    fetch(location)
    assert hub.requests[0] == f"GET /{REPOSITORY}/resolve/v2/model.bin"
    assert (record(location).revision, record(location).commit) == ("v2", COMMIT)


def test_a_large_file_comes_whole(hub: Hub) -> None:
    content = np.random.default_rng(1).bytes(13_000_000)
    assert fetch(hub.offer("large.bin", content), sha256(content)).read_bytes() == content
    assert hub.whole == {"large.bin": 1}


def test_a_file_in_the_cache_makes_no_request(hub: Hub) -> None:
    location = hub.offer("model.bin", CONTENT)
    path = fetch(location, sha256(CONTENT))
    count = len(hub.requests)
    assert fetch(location, sha256(CONTENT)) == path
    assert len(hub.requests) == count > 0


def test_a_file_put_into_the_cache_by_hand_is_held_to_its_hash(hub: Hub) -> None:
    location = hub.offer("model.bin", CONTENT)
    one = cache.entry(parse(location))
    one.folder.mkdir(parents=True)
    one.path.write_bytes(CONTENT)
    assert fetch(location, sha256(CONTENT)[:8]) == one.path
    assert hub.requests == []
    assert record(location).sha256 == sha256(CONTENT)


def test_the_hash_of_the_first_download_holds_ever_after(hub: Hub) -> None:
    """Eight digits let other files through; the record does not."""
    location = hub.offer("model.bin", CONTENT)
    path = fetch(location)
    path.unlink()
    hub.offer("model.bin", b"others" * 1000)
    with pytest.raises(WeightsError, match=r"the first download from there had") as raised:
        fetch(location)
    assert sha256(CONTENT) in str(raised.value)
    assert sha256(b"others" * 1000) in str(raised.value)
    assert "--forget" in str(raised.value)
    assert not path.exists()
    hub.offer("model.bin", CONTENT)
    assert fetch(location).read_bytes() == CONTENT


def test_a_damaged_file_is_replaced(hub: Hub) -> None:
    location = hub.offer("model.bin", CONTENT)
    path = fetch(location)
    path.write_bytes(CONTENT[:-1])
    assert fetch(location).read_bytes() == CONTENT


def test_a_card_of_a_new_hash_gets_its_file(hub: Hub) -> None:
    location = hub.offer("model.bin", b"old weights")
    fetch(location, sha256(b"old weights"))
    hub.offer("model.bin", b"new weights")
    assert fetch(location, sha256(b"new weights")).read_bytes() == b"new weights"
    assert record(location).sha256 == sha256(b"new weights")


def test_a_damaged_record_is_named(hub: Hub) -> None:
    location = hub.offer("model.bin", CONTENT)
    fetch(location)
    path = cache.entry(parse(location)).folder / "record.json"
    for text in ("", "{}", '{"sha256": 1}', "\0", json.dumps({"sha256": "ab"})):
        path.write_text(text)
        with pytest.raises(
            FileError, match=r"record\.json is damaged; `spender cache prune` removes it"
        ):
            fetch(location)


def test_two_files_of_one_name_do_not_meet(hub: Hub) -> None:
    first = fetch(hub.offer("model.bin", CONTENT))
    second = fetch(f"{hub.url}/cdn/model.bin")
    assert first != second
    assert first.name == second.name == "model.bin"


def test_a_url_may_have_a_query_and_a_hash(hub: Hub) -> None:
    hub.offer("model.bin?download=true", CONTENT)
    url = f"{hub.url}/cdn/model.bin?download=true"
    assert fetch(f"{url}#sha256={sha256(CONTENT)}").name == "model.bin"
    with pytest.raises(WeightsError, match=f"expected {'0' * 64}"):
        fetch(f"{url}#sha256={'0' * 64}")
    with pytest.raises(InputError, match="its card"):
        fetch(f"{url}#sha256={'0' * 64}", "1" * 8)


# -- mirrors --------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["gone", "missing", "altered", "failing"])
def test_another_place_is_tried_when_one_fails(hub: Hub, trouble: str) -> None:
    location = f"hf:{REPOSITORY}/gone.bin"
    hub.files["model.bin"] = CONTENT
    if trouble == "gone":
        hub.closing.set()
    elif trouble == "altered":
        location = hub.offer("model.bin", CONTENT)
        hub.faults = [altered]
    elif trouble == "failing":
        location = hub.offer("model.bin", CONTENT)
        hub.faults = [status(418)]
    if trouble == "gone":
        location = "https://no-such-host.invalid/gone.bin"
    path = fetch(location, sha256(CONTENT), elsewhere=[f"{hub.url}/mirror/model.bin"])
    assert path.read_bytes() == CONTENT
    assert record(location).url == f"{hub.url}/mirror/model.bin"
    assert record(location).commit == ""


def test_the_users_mirrors_come_last(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "gone.bin").write_bytes(CONTENT)
    monkeypatch.setenv("SPENDER_MIRRORS", f"{hub.url}/nothing, {folder}")
    location = f"hf:{REPOSITORY}/gone.bin"
    path = fetch(location, sha256(CONTENT), elsewhere=[f"{hub.url}/mirror/gone.bin"])
    assert path.read_bytes() == CONTENT
    assert hub.requests == [
        f"GET /{REPOSITORY}/resolve/main/gone.bin",
        "GET /mirror/gone.bin",
        "GET /nothing/gone.bin",
    ]
    assert record(location).url == f"{folder}/gone.bin"


def test_if_all_places_fail_every_cause_is_told(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as raised:
        fetch(f"hf:{REPOSITORY}/gone.bin", elsewhere=[f"{hub.url}/mirror/a.bin", f"{tmp_path}/b"])
    for part in ("resolve/main/gone.bin", "mirror/a.bin", f"{tmp_path}/b"):
        assert part in str(raised.value)


# -- shared caches, and no network ----------------------------------------------------------


def test_a_shared_cache_is_read_and_never_written(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    location = hub.offer("model.bin", CONTENT)
    monkeypatch.setenv("SPENDER_HOME", str(tmp_path / "shared"))
    there = fetch(location, sha256(CONTENT)[:8])
    monkeypatch.setenv("SPENDER_HOME", str(tmp_path / "own"))
    folders = [str(tmp_path / "absent"), str(tmp_path / "shared")]
    monkeypatch.setenv("SPENDER_SHARED_CACHE", os.pathsep.join(folders))
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "shared").rglob("*"))
    assert fetch(location, sha256(CONTENT)[:8]) == there
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "shared").rglob("*")) == before
    assert not (tmp_path / "own").exists()


def test_a_damaged_file_in_a_shared_cache_is_left_alone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    location = hub.offer("model.bin", CONTENT)
    monkeypatch.setenv("SPENDER_HOME", str(tmp_path / "shared"))
    fetch(location).write_bytes(b"damaged")
    monkeypatch.setenv("SPENDER_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("SPENDER_SHARED_CACHE", str(tmp_path / "shared"))
    path = fetch(location)
    assert path.is_relative_to(tmp_path / "own")
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("value", ["1", "true"])
def test_offline_a_cached_file_is_used_and_a_miss_tells_what_to_do(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, value: str, tmp_path: Path
) -> None:
    cached = fetch(hub.offer("model.bin", CONTENT))
    count = len(hub.requests)
    monkeypatch.setenv("SPENDER_OFFLINE", value)
    monkeypatch.setenv("SPENDER_SHARED_CACHE", str(tmp_path / "shared"))
    assert fetch(f"hf:{REPOSITORY}/model.bin") == cached
    with pytest.raises(OfflineError, match="SPENDER_OFFLINE is set") as raised:
        fetch(hub.offer("other.bin", CONTENT), name="desi_edr")
    text = str(raised.value)
    assert f"SPENDER_HOME={home()} spender pull desi_edr" in text
    assert len(re.findall(r"models/[0-9a-f]{16}/other\.bin", text)) == 2
    assert str(tmp_path / "shared") in text
    assert len(hub.requests) == count


def test_offline_a_damaged_file_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    location = hub.offer("model.bin", CONTENT)
    fetch(location).write_bytes(b"damaged")
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    with pytest.raises(OfflineError) as raised:
        fetch(location)
    assert sha256(b"damaged") in str(raised.value)
    assert sha256(CONTENT) in str(raised.value)


@pytest.mark.parametrize("value", ["", "0"])
def test_offline_can_be_switched_off(hub: Hub, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SPENDER_OFFLINE", value)
    assert fetch(hub.offer("model.bin", CONTENT)).read_bytes() == CONTENT


# -- places that cannot be written, and others who write ------------------------------------


def test_a_cache_that_cannot_be_made_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("in the way")
    monkeypatch.setenv("SPENDER_HOME", str(blocker / "cache"))
    with pytest.raises(FileError, match=r"blocker.*Set SPENDER_HOME"):
        fetch(hub.offer("model.bin", CONTENT))


def test_threads_that_want_one_file_download_it_once(hub: Hub) -> None:
    content = CONTENT * 100
    location, found = hub.offer("model.bin", content), []
    threads = [Thread(target=lambda: found.append(fetch(location).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == [content] * 4
    assert hub.whole == {"model.bin": 1}


def test_a_process_that_holds_a_download_and_does_not_go_on_is_told(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = hub.offer("model.bin", CONTENT)
    folder = cache.entry(parse(location)).folder
    folder.mkdir(parents=True)
    script = (
        "import filelock, sys\nwith filelock.FileLock(sys.argv[1]): print(1, flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(folder / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    monkeypatch.setenv("SPENDER_TIMEOUT", "0.5")
    with pytest.raises(FileError, match=r"another process is downloading .*model\.bin"):
        fetch(location)
    holder.kill()
    holder.communicate()
    assert fetch(location).read_bytes() == CONTENT


def test_that_others_wait_too_is_no_sign_of_life(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    location = hub.offer("model.bin", CONTENT)
    lock = cache.entry(parse(location)).folder / ".lock"
    lock.parent.mkdir(parents=True)
    monkeypatch.setenv("SPENDER_TIMEOUT", "0.5")
    ended = threading.Event()

    def wait_as_old_filelock_does() -> None:
        while not ended.wait(0.1):
            os.close(os.open(lock, os.O_RDWR | os.O_TRUNC))

    with filelock.FileLock(lock, is_singleton=False):
        other = threading.Thread(target=wait_as_old_filelock_does)
        other.start()
        try:
            with pytest.raises(FileError, match=r"another process is downloading"):
                fetch(location)
        finally:
            ended.set()
            other.join()


def test_a_server_may_name_no_length(hub: Hub) -> None:
    def chunked(handler: Handler, content: bytes) -> None:
        handler.protocol_version = "HTTP/1.0"
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = True

    hub.faults = [chunked]
    assert fetch(hub.offer("model.bin", CONTENT), sha256(CONTENT)).read_bytes() == CONTENT


def test_every_refusal_is_of_the_family(hub: Hub) -> None:
    for location in (
        "",
        "x",
        "ftp://",
        "http://",
        "https://a b/c.pt",
        "hf:a/b/c.pt\n",
        "file:///etc/x",
    ):
        with pytest.raises(SpenderError):
            fetch(location)
