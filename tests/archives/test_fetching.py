"""Remote files and parts of them, from a real server on this machine."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from range_server import RangeServer, serving

from spender_core.archives.remote import answers, requesting
from spender_core.archives.remote.fetching import ChangedError, fetch_all, submit, traffic
from spender_core.errors import (
    DamagedFileError,
    FileError,
    InputError,
    MissingFileError,
    OfflineError,
    SpenderError,
)

SIZE = 300_000
CONTENT = np.random.default_rng(0).bytes(SIZE)
MANY = [f"many/{k}.bin" for k in range(60)]


def content_of(path: str) -> bytes:
    return (path.encode() * 5000)[:20_000]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "many").mkdir()
    (folder / "a.bin").write_bytes(CONTENT)
    (folder / "a.fits.gz").write_bytes(CONTENT)
    for path in MANY:
        (folder / path).write_bytes(content_of(path))
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[RangeServer]:
    with serving(folder) as server:
        yield server


@pytest.fixture
def archive(running: RangeServer) -> RangeServer:
    running.heal()
    running.latency(0.0)
    running.forget()
    return running


# -- files and their parts -------------------------------------------------------------------


def test_a_whole_file_is_fetched(archive: RangeServer) -> None:
    found = submit(archive.at("a.bin")).result()
    assert found.data == CONTENT
    assert (found.start, found.size) == (0, SIZE)
    assert found.version.startswith('"')
    assert archive.seen().log == [["a.bin", "", ""]]


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, SIZE - 1), length=st.integers(1, SIZE))
def test_a_part_is_what_a_slice_is(running: RangeServer, start: int, length: int) -> None:
    running.heal()
    found = submit(running.at("a.bin"), start, start + length).result()
    assert found.data == CONTENT[start : start + length]
    assert (found.start, found.size) == (start, SIZE)


def test_a_part_may_go_to_the_end(archive: RangeServer) -> None:
    assert submit(archive.at("a.bin"), SIZE - 7).result().data == CONTENT[-7:]


def test_a_part_behind_the_end_is_refused(archive: RangeServer) -> None:
    with pytest.raises(DamagedFileError, match=r"a\.bin is shorter than byte 300000"):
        submit(archive.at("a.bin"), SIZE, SIZE + 10).result()
    assert archive.seen().requests == 1


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (7, 3)])
def test_no_part_is_refused(archive: RangeServer, start: int, stop: int) -> None:
    with pytest.raises(InputError, match="no part of a file"):
        submit(archive.at("a.bin"), start, stop).result()


def test_a_server_without_ranges_gives_the_whole_file(archive: RangeServer) -> None:
    archive.fault("whole")
    found = submit(archive.at("a.bin"), 10, 20).result()
    assert (found.data, found.start, found.size) == (CONTENT, 0, SIZE)


def test_a_body_of_unknown_length_is_read(archive: RangeServer) -> None:
    archive.fault("no_length")
    found = submit(archive.at("a.bin")).result()
    assert (found.data, found.size) == (CONTENT, SIZE)


@pytest.mark.parametrize(("kind", "text"), [("whole", "has 0 MB, and at most"), ("no_length", "")])
def test_no_more_is_read_than_memory_bears(
    archive: RangeServer, monkeypatch: pytest.MonkeyPatch, kind: str, text: str
) -> None:
    monkeypatch.setattr(answers, "LARGEST", 100_000)
    archive.fault(kind)
    with pytest.raises(FileError, match=text or "has no end"):
        submit(archive.at("a.bin")).result()
    assert archive.seen().requests == 1


def test_what_is_stored_compressed_is_left_so(archive: RangeServer) -> None:
    archive.fault("encoded")
    assert submit(archive.at("a.fits.gz"), 3, 9).result().data == CONTENT[3:9]
    with pytest.raises(OfflineError, match=r"sends it compressed \(gzip\)"):
        submit(archive.at("a.bin"), 3, 9).result()


def test_results_come_in_order_with_what_failed(archive: RangeServer) -> None:
    wants = [(archive.at(path), None, None, "") for path in MANY]
    wants.insert(3, (archive.at("absent.bin"), None, None, ""))
    found = fetch_all(wants)
    missing = found.pop(3)
    assert isinstance(missing, MissingFileError)
    assert [getattr(one, "data", None) for one in found] == [content_of(path) for path in MANY]


def test_what_was_asked_and_came_is_counted(archive: RangeServer) -> None:
    archive.fault("status", ["a.bin"], code=503, times=1)
    before = traffic()
    submit(archive.at("a.bin"), 0, 1000).result()
    after, seen = traffic(), archive.seen()
    assert after.requests - before.requests == seen.requests == 2
    assert after.retries - before.retries == 1
    assert after.bytes - before.bytes == seen.bytes == 1000


# -- versions --------------------------------------------------------------------------------


def test_a_version_is_known_again(archive: RangeServer, folder: Path) -> None:
    (folder / "b.bin").write_bytes(b"first")
    version = submit(archive.at("b.bin")).result().version
    assert submit(archive.at("b.bin"), 1, 3, version).result().data == b"ir"
    (folder / "b.bin").write_bytes(b"second")
    with pytest.raises(ChangedError, match=r"b\.bin changed on its server"):
        submit(archive.at("b.bin"), 1, 3, version).result()


# -- how much at once ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [3, 32])
def test_a_server_is_asked_so_much_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    if number != 32:
        monkeypatch.setenv("SPENDER_CONNECTIONS", str(number))
    with serving(folder, latency=0.1) as server:
        fetch_all([(server.at(path), None, None, "") for path in MANY[: 10 * number]])
        assert server.seen().most == number


@pytest.mark.parametrize("text", ["0", "many", "1e9", "257", "-3", "²"])
def test_a_number_of_connections_that_cannot_be_is_refused(
    archive: RangeServer, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SPENDER_CONNECTIONS", text)
    with pytest.raises(InputError, match="SPENDER_CONNECTIONS must be a whole number from 1"):
        submit(archive.at("a.bin")).result()
    assert archive.seen().requests == 0


def test_whoever_gives_up_waiting_leaves_the_turn_to_others(
    archive: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPENDER_CONNECTIONS", "1")
    archive.fault("silence", ["a.bin"])
    silent, waiting = submit(archive.at("a.bin")), submit(archive.at("a.bin"))
    last = submit(archive.at(MANY[0]))
    while not archive.seen().requests:
        time.sleep(0.01)
    assert waiting.cancel()
    assert silent.cancel()
    assert last.result(timeout=20).data == content_of(MANY[0])


# -- offline, secrets, and where a server leads ----------------------------------------------


def test_offline_nothing_is_asked(archive: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    with pytest.raises(OfflineError, match="SPENDER_OFFLINE is set"):
        submit(archive.at("a.bin")).result()
    assert archive.seen().requests == 0


def test_a_login_is_sent_to_its_own_server_only(archive: RangeServer, folder: Path) -> None:
    url = archive.at("a.bin").replace("//", "//user:secr%40t-word@")
    expected = "Basic " + base64.b64encode(b"user:secr@t-word").decode()
    with serving(folder) as other:
        archive.fault("redirect", ["a.bin"], to=other.root + "/{path}")
        assert submit(url).result().data == CONTENT
        assert other.seen().log == [["a.bin", "", ""]]
    assert archive.seen().log == [["a.bin", "", expected]]
    archive.heal()
    archive.fault("login", authorization=expected)
    assert submit(url, 1, 5).result().data == CONTENT[1:5]


def test_a_login_may_stand_in_netrc(
    archive: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password pass-word\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    submit(archive.at("a.bin"), 0, 5).result()
    submit(archive.at("a.bin").replace("//", "//other:word@"), 0, 5).result()
    logins = [base64.b64decode(line[2].removeprefix("Basic ")) for line in archive.seen().log]
    assert logins == [b"user:pass-word", b"other:word"]


def test_a_proxy_is_asked_where_one_is_set(
    archive: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{archive.port}")
    monkeypatch.setenv("no_proxy", "")
    url = "http://archive.invalid/files/a.bin"
    assert submit(url, 3, 9).result().data == CONTENT[3:9]
    monkeypatch.setenv("no_proxy", "archive.invalid")
    with pytest.raises(OfflineError, match="no connection"):
        submit(url, 3, 9).result()


def test_the_token_of_the_hub_is_sent_to_the_hub_only(
    archive: RangeServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{archive.port}")
    with serving(folder) as other:
        archive.fault("redirect", ["a.bin"], to=other.root + "/{path}")
        submit(archive.at("a.bin")).result()
        assert [line[2] for line in archive.seen().log] == ["Bearer hf_abcdefghijklmnop"]
        assert [line[2] for line in other.seen().log] == [""]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("file:///etc/hostname", "leads to no address of http"),
        ("s3://bucket/key", "leads to no address of http"),
        ("", "leads to no address of http"),
        ("http://[::1", "leads to no address of http"),
        ("/files/{path}", "leads on more than 10 times"),
    ],
)
def test_a_server_leads_to_servers_only_and_not_for_ever(
    archive: RangeServer, target: str, text: str
) -> None:
    archive.fault("redirect", to=target)
    with pytest.raises(OfflineError, match=text):
        submit(archive.at("a.bin")).result()
    assert archive.seen().requests <= 10


def test_an_encrypted_address_does_not_lead_to_a_plain_one() -> None:
    with pytest.raises(OfflineError, match=r"http://b\.org/\?key=\.\.\., which is not encrypted"):
        requesting.following("https://a.org/x", "https://a.org/x", "http://b.org/?key=secret")
    assert requesting.following("", "https://a.org/x/y", "../z") == "https://a.org/z"


@pytest.mark.parametrize("kind", ["status", "page", "drop", "reset", "wrong_range", "login"])
def test_no_error_shows_a_secret(
    archive: RangeServer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level("DEBUG", logger="spender_core")
    options = {"status": {"code": 503}, "login": {"authorization": "none"}}.get(kind, {})
    archive.fault(kind, **options)
    url = archive.at("a.bin").replace("//", "//user:hidden-word@") + "?key=hidden-key"
    with pytest.raises(SpenderError) as caught:
        submit(url, 0, 5000).result()
    shown = f"{caught.value} {caught.value.__cause__} {caplog.text}"
    assert "hidden" not in shown
    assert "a.bin" in shown


# -- other places ----------------------------------------------------------------------------


def test_other_stores_of_fsspec_are_read() -> None:
    fsspec.filesystem("memory").pipe("/fetching/a.bin", CONTENT)
    url = "memory://fetching/a.bin"
    found = submit(url).result()
    assert (found.data, found.start, found.size) == (CONTENT, 0, SIZE)
    found = submit(url, 5, 9, found.version).result()
    assert (found.data, found.start, found.size) == (CONTENT[5:9], 5, SIZE)
    with pytest.raises(MissingFileError, match="memory://fetching/absent"):
        submit("memory://fetching/absent").result()
    with pytest.raises(FileError, match="nowhere"):
        submit("nowhere://a.bin").result()


# -- processes -------------------------------------------------------------------------------


def run(script: str, *arguments: str, stop: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter that complains of connections left open."""
    flags = ["-W", "error::ResourceWarning", "-W", "ignore::DeprecationWarning"]
    command = [sys.executable, *flags, "-c", textwrap.dedent(script), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        if stop:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_a_process_ends_in_silence(archive: RangeServer) -> None:
    script = """
        import sys
        from spender_core.archives.remote.fetching import submit
        print(len(submit(sys.argv[1]).result().data))
        submit(sys.argv[2])  # nobody waits for it
    """
    archive.fault("silence", [MANY[0]])
    ended = run(script, archive.at("a.bin"), archive.at(MANY[0]))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{SIZE}\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="processes do not fork there")
def test_a_forked_process_begins_anew(archive: RangeServer) -> None:
    script = """
        import os, sys
        from spender_core.archives.remote.fetching import submit, traffic
        first = submit(sys.argv[1]).result().data
        child = os.fork()
        same = submit(sys.argv[1], 5, 9).result().data == first[5:9]
        if child == 0:
            sys.exit(0 if same and traffic().requests == 1 else 1)
        _, status = os.waitpid(child, 0)
        print(same, os.waitstatus_to_exitcode(status), traffic().requests)
    """
    ended = run(script, archive.at("a.bin"))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True 0 2\n", "")


def test_ctrl_c_ends_waiting(archive: RangeServer) -> None:
    script = """
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from spender_core.archives.remote.fetching import fetch_all
        print("waiting", flush=True)
        fetch_all([(sys.argv[1], None, None, "")] * 3)
    """
    archive.fault("silence")
    begin = time.monotonic()
    ended = run(script, archive.at("a.bin"), stop=True)
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    assert time.monotonic() - begin < requesting.SILENCE
