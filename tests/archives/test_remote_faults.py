"""Remote files through the cache, while processes are killed, disks are full and servers fail."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from range_server import RangeServer, serving

from spender_core.archives.fits.opening import open_fits
from spender_core.archives.remote import keeping, whole
from spender_core.archives.remote.blocks import BLOCK, Entry
from spender_core.archives.remote.fetching import ChangedError, traffic
from spender_core.archives.remote.files import Ahead, open_bytes
from spender_core.errors import (
    FileError,
    MissingFileError,
    OfflineError,
    SpenderError,
    SpenderWarning,
)

KILLS = 8
LARGE = ("large0.bin", "large1.bin")

READ = """
import hashlib, json, sys
import spender_core.archives.remote.answers, spender_core.archives.remote.requesting
from spender_core.archives.remote.files import Ahead, open_bytes
root, small, large = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
print("go", flush=True)
found = {}
with Ahead([[f"{root}/{name}"] for name in small]):
    for name in small:
        with open_bytes(f"{root}/{name}") as file:
            found[name] = hashlib.sha256(file.read_at(0, file.size)).hexdigest()
for name in large:
    with open_bytes(f"{root}/{name}") as file:
        parts = [file.read_at(k, min(k + 300_000, file.size)) for k in range(0, file.size, 300_000)]
        found[name] = hashlib.sha256(b"".join(parts)).hexdigest()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many small files and two large ones."""
    made, rng = tmp_path_factory.mktemp("archive"), np.random.default_rng(5)
    for k in range(60):
        (made / f"small{k:02}.bin").write_bytes(rng.bytes(int(rng.integers(20_000, 120_000))))
    for name in LARGE:
        (made / name).write_bytes(rng.bytes(3_000_000))
    return made


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[RangeServer]:
    with serving(folder) as server:
        yield server


@pytest.fixture
def server(running: RangeServer) -> RangeServer:
    running.heal()
    running.latency(0.0)
    running.forget()
    return running


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("small*"))


def reader(server: RangeServer, folder: Path, **environment: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        READ,
        server.root,
        json.dumps(names(folder)),
        json.dumps(LARGE),
    ]
    env = os.environ | {"SPENDER_CONNECTIONS": "4"} | environment
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def digests(folder: Path) -> dict[str, str]:
    from hashlib import sha256

    return {p.name: sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def complete(server: RangeServer, folder: Path) -> dict[str, set[int]]:
    """Return what the cache holds: blocks of each file, {-1} of whole ones; all of it is right."""
    found: dict[str, set[int]] = {}
    for path in folder.iterdir():
        content, url = path.read_bytes(), server.at(path.name)
        kept = whole.load(url)
        if kept is not None:
            assert kept.content == content
            found[path.name] = {-1}
        entry = Entry.open(url)
        if entry is not None:
            with entry:
                parts = entry.read(0, -(-len(content) // BLOCK))
                for block, part in parts.items():
                    assert part == content[block * BLOCK : (block + 1) * BLOCK]
                assert np.flatnonzero(entry.has(0, -(-len(content) // BLOCK))).tolist() == sorted(
                    parts
                )
                found[path.name] = set(parts)
    return found


def asked(log: list[list[str]]) -> Iterator[tuple[str, set[int]]]:
    """Yield the file and the blocks of each request, {-1} for a whole file."""
    for path, part, _ in log:
        if not part:
            yield path, {-1}
            continue
        start, stop = map(int, part.removeprefix("bytes=").split("-"))
        yield path, set(range(start // BLOCK, stop // BLOCK + 1))


def test_killed_at_any_moment_nothing_complete_is_fetched_again(
    server: RangeServer, folder: Path
) -> None:
    server.latency(0.03)
    draw, killed = random.Random(3), 0
    before: dict[str, set[int]] = {}
    for _ in range(KILLS):
        server.forget()
        running = reader(server, folder)
        assert running.stdout is not None
        assert running.stdout.readline() == "go\n"
        moment = draw.randint(1, 12)
        while server.seen().requests < moment and running.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.05))
        running.kill()
        running.communicate()
        killed += running.returncode == -9
        after = complete(server, folder)
        for name, held in before.items():
            assert held <= after[name]
        for name, wanted in asked(server.seen().log):
            assert not wanted & before.get(name, set())
        before = after
    assert killed >= 6
    assert len(before) > 5
    server.forget()
    out, err = reader(server, folder).communicate(timeout=120)
    assert json.loads(out.splitlines()[1]) == digests(folder), err
    for name, wanted in asked(server.seen().log):
        assert not wanted & before.get(name, set())
    assert set(complete(server, folder)) == set(digests(folder))


def test_two_processes_share_one_cache(server: RangeServer, folder: Path) -> None:
    server.latency(0.01)
    running = [reader(server, folder) for _ in range(2)]
    for out, err in [one.communicate(timeout=120) for one in running]:
        assert json.loads(out.splitlines()[1]) == digests(folder), err
    assert set(complete(server, folder)) == set(digests(folder))
    server.forget()
    out, _ = reader(server, folder, SPENDER_OFFLINE="1").communicate(timeout=120)
    assert json.loads(out.splitlines()[1]) == digests(folder)
    assert server.seen().requests == 0


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"


@pytest.mark.parametrize("fault", ["full", "closed"])
def test_without_room_or_permission_reading_goes_on(
    server: RangeServer, folder: Path, tmp_path: Path, fault: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    before: list[str] = []
    if fault == "closed":
        home.chmod(0o555)
        before = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
        probe = subprocess.run([*before, "true"], capture_output=True, text=True)
        if probe.returncode:
            pytest.skip(f"needs user namespaces: {probe.stderr.strip()}")
    script = READ if fault == "closed" else LIMITED + READ
    command = [*before, sys.executable, "-c", script, server.root, json.dumps(names(folder))]
    env = os.environ | {"SPENDER_HOME": str(home)}
    ran = subprocess.run([*command, json.dumps(LARGE)], capture_output=True, text=True, env=env)
    assert json.loads(ran.stdout.splitlines()[1]) == digests(folder), ran.stderr
    assert ran.stderr.count("cannot write to the cache") == 1
    assert "Reading goes on without it" in ran.stderr
    assert not list(home.rglob("*.part"))


def test_a_server_that_closes_connections_at_random(server: RangeServer, folder: Path) -> None:
    server.fault("reset", chance=0.15)
    server.fault("drop", chance=0.1)
    with Ahead([[server.at(name)] for name in names(folder)]):
        for name in (*names(folder), *LARGE):
            with open_bytes(server.at(name)) as file:
                assert file.read_at(0, file.size) == (folder / name).read_bytes()
    complete(server, folder)


def test_offline_what_is_cached_is_read_and_the_rest_named(
    server: RangeServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = server.at(LARGE[0]), server.at("small00.bin")
    content = (folder / LARGE[0]).read_bytes()
    with open_bytes(large) as file, open_bytes(small) as other:
        file.read_ranges([(1_000_000, 1_100_000)])
        other.read_at(0, other.size)
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    server.forget()
    with open_bytes(large) as file:
        assert file.read_at(1_000_100, 1_090_000) == content[1_000_100:1_090_000]
        with pytest.raises(OfflineError, match=r"byte 2000\d{3}|byte 199\d{4}") as raised:
            file.read_at(2_000_000, 2_000_010)
    assert str(keeping.folder()) in str(raised.value)
    assert LARGE[0] in str(raised.value)
    with pytest.raises(OfflineError, match=r"small01\.bin is not in the cache") as raised:
        open_bytes(server.at("small01.bin")).__enter__()
    assert str(keeping.folder()) in str(raised.value)
    with Ahead([["http://h.invalid/absent", small]]), open_bytes(small) as file:
        assert file.size == (folder / "small00.bin").stat().st_size
        with pytest.raises(MissingFileError):
            open_bytes("http://h.invalid/absent").__enter__()
    assert server.seen().requests == 0


def test_a_file_that_changes_is_never_mixed(
    server: RangeServer, tmp_path: Path, folder: Path
) -> None:
    changing = folder / "changing.bin"
    try:
        changing.write_bytes(b"a" * 2_000_000)
        with open_bytes(server.at("changing.bin")) as file:
            assert file.read_at(0, 10) == b"a" * 10
            changing.write_bytes(b"b" * 2_000_000)
            os.utime(changing, (1e9, 1e9))
            assert file.read_at(5, 20) == b"a" * 15
            with pytest.raises(ChangedError, match=r"changing\.bin changed"):
                file.read_at(1_500_000, 1_500_010)
        with open_bytes(server.at("changing.bin")) as file:
            assert file.read_at(0, 2_000_000) == b"b" * 2_000_000
    finally:
        changing.unlink()


def test_a_later_place_counts_where_the_first_has_no_file(
    server: RangeServer, folder: Path
) -> None:
    files = [[server.at(f"v1/{name}"), server.at(name)] for name in names(folder)[:10]]
    files.append([server.at("none"), server.at("nowhere")])
    for turn in range(2):
        server.forget()
        with Ahead(files):
            for first, second in files[:-1]:
                with pytest.raises(MissingFileError, match=r"404|no file"):
                    open_bytes(first).__enter__()
                with open_bytes(second) as file:
                    assert file.read_at(0, file.size) == (folder / second[-11:]).read_bytes()
            for url in files[-1]:
                with pytest.raises(MissingFileError):
                    open_bytes(url).__enter__()
        assert server.seen().requests == (22 if turn == 0 else 1)


def test_what_turned_out_damaged_is_not_kept(server: RangeServer, folder: Path) -> None:
    cut = folder / "cut.fits"
    try:
        fits.PrimaryHDU(np.arange(90_000.0)).writeto(cut)
        url = server.at("cut.fits")
        server.fault("short", times=1)
        with Ahead([[url]]), pytest.raises(FileError, match=r"cut\.fits"), open_fits(url):
            pass
        with open_fits(url) as hdus:
            assert hdus[0].data[-1] == 89_999
        server.fault("altered", times=1)
        keeping.clear()
        with pytest.raises(FileError, match=r"cut\.fits"), open_fits(url):
            pass
        with open_fits(url) as hdus:
            assert hdus[0].data[-1] == 89_999
    finally:
        cut.unlink()


def test_failures_ahead_are_asked_for_once(server: RangeServer, folder: Path) -> None:
    server.fault("status", paths=["small03.bin"], status=503)
    with Ahead([[server.at(name)] for name in names(folder)]):
        for _ in range(3):
            with pytest.raises(SpenderError, match=r"small03\.bin"):
                open_bytes(server.at("small03.bin")).__enter__()
        tries = server.seen().paths["small03.bin"]
        assert tries <= 5
        with open_bytes(server.at("small04.bin")) as file:
            assert file.read_at(0, file.size) == (folder / "small04.bin").read_bytes()
    assert server.seen().paths["small03.bin"] == tries


def test_secrets_are_neither_on_disk_nor_in_errors(server: RangeServer, folder: Path) -> None:
    secret = server.root.replace("://", "://alice:pw123@")
    with open_bytes(f"{secret}/{LARGE[1]}?token=hidden") as file:
        file.read_at(1_000_000, 1_000_010)
    with pytest.raises(MissingFileError) as raised:
        open_bytes(f"{secret}/none?token=hidden").__enter__()
    held = b"".join(p.read_bytes() for p in keeping.folder().rglob("*") if p.is_file())
    for word in ("alice", "pw123", "hidden"):
        assert word not in str(raised.value)
        assert word.encode() not in held
    assert held


def test_ranges_are_fetched_at_once_and_joined(server: RangeServer, folder: Path) -> None:
    content = (folder / LARGE[0]).read_bytes()
    ranges: list[Any] = [(k, k + 100) for k in range(200_000, 2_900_000, 300_000)]
    before = traffic().requests
    with open_bytes(server.at(LARGE[0])) as file:
        assert file.read_ranges(ranges) == [content[a:b] for a, b in ranges]
        file.prefetch([(0, 400_000)])
        assert file.read_at(0, 400_000) == content[:400_000]
        stream = file.as_file()
        stream.seek(-1000, os.SEEK_END)
        assert stream.read() == content[-1000:]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SpenderWarning)
        with open_bytes(server.at(LARGE[0])) as file:
            assert file.read_at(0, 400_000) == content[:400_000]
    assert traffic().requests - before <= 15
