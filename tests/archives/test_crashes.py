"""Killed processes, full disks, folders that cannot be written, and many processes at once."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from servers import Hub
from victims import Victims, moments

from spender_core import registry
from spender_core.archives.downloads import cache
from spender_core.archives.downloads.fetch import fetch
from spender_core.archives.location import parse
from spender_core.archives.writing import replacing

KILLS = 50
CONTENT = np.random.default_rng(3).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.is_file() and path.name != ".lock"]


def test_a_download_killed_at_any_moment_leaves_no_half_file(hub: Hub) -> None:
    """After each kill the file is absent or whole, and the next try gets it."""
    location = hub.offer("model.bin", CONTENT)
    one = cache.entry(parse(location))
    hub.pause = 0.01
    with Victims() as victims:
        longest = victims.run("fetch", location, SHA256[:8])
        killed = resumed = 0
        for moment in moments(KILLS, longest):
            one.path.unlink(missing_ok=True)
            hub.pause = 0.01
            killed += victims.kill(moment, "fetch", location, SHA256[:8])
            if one.path.exists():
                assert hashlib.sha256(one.path.read_bytes()).hexdigest() == SHA256
            hub.pause, before = 0.0, len(hub.headers)
            assert fetch(location, SHA256[:8]).read_bytes() == CONTENT
            resumed += any("Range" in headers for headers in hub.headers[before:])
            assert leftovers(one.folder) == []
    assert killed > KILLS / 2
    assert resumed > KILLS / 10


def test_a_conversion_killed_at_any_moment_leaves_the_old_file_or_the_new(
    tmp_path: Path, checkpoint: Callable[..., bytes]
) -> None:
    source, output = tmp_path / "model.pt", tmp_path / "out" / "model.safetensors"
    source.write_bytes(checkpoint(filters=(16, 32, 64), rest=2000))
    arguments = ("spender", "convert", source, "-o", output, "--instrument", "desi", "--name")
    with Victims() as victims:
        longest = victims.run(*arguments, "old")
        killed = 0
        names = []
        for moment in moments(KILLS, longest):
            killed += victims.kill(moment, *arguments, "new" if names[-1:] == ["old"] else "old")
            names.append(registry.info(str(output)).name)
            _, model = registry.load(output)
            assert torch.isfinite(model.decode(torch.zeros(1, 6))).all()
        victims.run(*arguments, "last")
    assert registry.info(str(output)).name == "last"
    assert [path.name for path in output.parent.iterdir()] == ["model.safetensors"]
    assert killed > KILLS / 2


def test_ten_processes_pull_one_model_at_once_and_one_downloads_it(hub: Hub) -> None:
    location = hub.offer("model.bin", CONTENT)
    hub.pause = 0.03
    command = [sys.executable, "-m", "spender_core.cli", "pull", f"{location}#sha256={SHA256}"]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    results = [(one.communicate(timeout=120), one.returncode) for one in running]
    path = cache.entry(parse(location)).path
    for (out, err), code in results:
        assert code == 0, err
        assert out.strip() == str(path)
    assert path.read_bytes() == CONTENT
    assert hub.whole == {"model.bin": 1}
    assert sum(request.startswith("GET /cdn/") for request in hub.requests) == 1


def test_what_a_killed_writer_left_is_removed_and_another_writers_file_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "table.ecsv"
    dead = tmp_path / ".table.part-dead.ecsv"
    dead.write_text("half")
    with replacing(path) as first:
        first.write_text("first")
        assert not dead.exists()
        with replacing(path) as second:
            second.write_text("second")
            assert first.exists()
    assert path.read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["table.ecsv"]


# -- small disks and closed folders, in a namespace of their own -------------------------------

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "--net", "sh", "-c"]

FULL = """
import json, sys, threading
from pathlib import Path
import torch
from servers import Hub, status
from spender_core.archives.downloads.fetch import fetch
from spender_core.archives.writing import file_sha256
from spender_core.errors import SpenderError
from spender_core.cli import main

import os, subprocess
disk, source, sha = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
content = Path(source).read_bytes()

def unsaid(handler, content):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(content)
    handler.close_connection = True

def attempt(call):
    try:
        call()
        return ""
    except SpenderError as error:
        return f"{type(error).__name__}: {error}"
    except SystemExit as error:
        return f"exit {error.code}"

def convert():
    sys.argv = ["spender", "convert", source, "--instrument", "desi", "-o", str(disk / "out.safetensors")]
    main()

def files():
    return [p.name for p in disk.rglob("*") if p.is_file() and p.name not in (".lock", "record.json")]

os.environ["SPENDER_HOME"] = str(disk)
results = {}
with Hub() as hub:
    hub.start()
    os.environ["HF_ENDPOINT"] = hub.url
    location = hub.offer("model.pt", content)
    results["told"] = attempt(lambda: fetch(location, sha)), files()
    hub.always = unsaid
    results["untold"] = attempt(lambda: fetch(location, sha)), files()
    hub.always = None
    results["copied"] = attempt(lambda: fetch("https://no.invalid/model.pt", sha, elsewhere=[source])), files()
    results["converted"] = attempt(convert), files()
    subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
    results["again"] = attempt(lambda: fetch(location, sha)), files()
    results["converted again"] = attempt(convert), files()
    hub.stop()
print("RESULTS", json.dumps(results))
"""


def namespace(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python on a disk of 1 MB; skip where the system does not allow it."""
    probe = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"needs user namespaces: {probe.stderr.strip()}")
    tests = str(Path(__file__).parents[1])
    mount = f'mount -t tmpfs -o size=1m tmpfs "$0" && PYTHONPATH={tests} exec "{sys.executable}" -c "$@"'
    disk, *rest = arguments
    return subprocess.run(
        [*NAMESPACE, mount, disk, script, disk, *rest], capture_output=True, text=True, timeout=120
    )


def test_on_a_full_disk_nothing_half_written_stays_and_the_next_try_succeeds(
    tmp_path: Path, checkpoint: Callable[..., bytes]
) -> None:
    source, disk = tmp_path / "model.pt", tmp_path / "disk"
    disk.mkdir()
    content = checkpoint(filters=(16, 32, 64), rest=2000)
    assert 2e6 < len(content) < 2e7
    source.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    ran = namespace(FULL, str(disk), str(source), sha256)
    assert "RESULTS" in ran.stdout, ran.stdout + ran.stderr
    results = json.loads(ran.stdout.partition("RESULTS")[2])
    told, files = results["told"]
    assert "MB free" in told
    assert "are needed" in told
    assert files == []
    untold, files = results["untold"]
    assert untold.startswith("FileError: cannot write")
    assert "No space left" in untold
    assert files == []
    copied, files = results["copied"]
    assert "No space left" in copied
    assert files == []
    assert results["converted"] == ["exit 1", []]
    assert "No space left" in ran.stderr
    assert results["again"] == ["", ["model.pt"]]
    assert results["converted again"][0] in ("", "exit 0")
    assert sorted(results["converted again"][1]) == ["model.pt", "out.safetensors"]


def test_without_permission_to_write_the_folder_is_named(hub: Hub, tmp_path: Path) -> None:
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    probe = subprocess.run([*command, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"needs user namespaces: {probe.stderr.strip()}")
    location = hub.offer("model.bin", CONTENT)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    home = closed / "cache"
    script = [*command, "env", f"SPENDER_HOME={home}", sys.executable, "-m", "spender_core.cli"]
    ran = subprocess.run([*script, "pull", location], capture_output=True, text=True)
    assert ran.returncode == 1
    assert f"cannot write to the cache, {home}" in ran.stderr
    assert "Permission denied" in ran.stderr
    assert "Set SPENDER_HOME" in ran.stderr
    assert hub.requests == []
    closed.chmod(0o755)
    again = subprocess.run([*script, "pull", location], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    path = Path(again.stdout.strip())
    for folder in (path.parent, path.parent.parent, home):
        folder.chmod(0o555)
    cached = subprocess.run([*script, "pull", location], capture_output=True, text=True)
    assert (cached.returncode, cached.stdout) == (0, again.stdout)
