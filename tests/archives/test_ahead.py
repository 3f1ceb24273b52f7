"""Files fetched ahead: whatever goes wrong, whoever waits for one is told, and nothing is left."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from range_server import RangeServer, serving

from spender_core.archives.remote import ahead, fetching
from spender_core.archives.remote.ahead import STEP, Ahead
from spender_core.archives.remote.files import open_bytes
from spender_core.errors import FileError, InputError, SpenderError

MANY = [f"{k:04}.bin" for k in range(2 * STEP + 50)]
PATIENCE = 30.0
"""Seconds after which a test counts as hanging."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("archive")
    for name in MANY:
        (made / name).write_bytes(name.encode() * 20)
    return made


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[RangeServer]:
    with serving(folder) as server:
        yield server


@pytest.fixture
def archive(running: RangeServer) -> RangeServer:
    running.heal()
    running.forget()
    return running


def content(url: str) -> bytes:
    with open_bytes(url) as file:
        return file.read_at(0, file.size)


def result(url: str) -> bytes:
    """Return the content of a file, if it comes at all."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(content, url).result(timeout=PATIENCE)
    finally:
        pool.shutdown(wait=False)


@pytest.mark.parametrize("url", ["http://[::1/x.fits", "https://h:port/x.fits", "http:///x.fits"])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(SpenderError):
        result(url)
    with Ahead([(url,), (f"{url}s", "http://[::1/other")]):
        with pytest.raises(SpenderError):
            result(url)
        with pytest.raises(SpenderError):
            result(f"{url}s")
    with pytest.raises(InputError, match="is no URL"):
        result("http://[::1/x.fits")


def test_a_wrong_setting_is_told_and_nothing_is_left(
    archive: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPENDER_CACHE_SIZE", "lots")
    with pytest.raises(InputError, match="SPENDER_CACHE_SIZE"), Ahead([[archive.at(MANY[0])]]):
        pass
    assert ahead._active == []
    monkeypatch.delenv("SPENDER_CACHE_SIZE")
    assert content(archive.at(MANY[0])) == MANY[0].encode() * 20


@pytest.mark.parametrize("order", [1, -1])
def test_many_files_all_come_and_once(archive: RangeServer, order: int) -> None:
    names = MANY[::order]
    for turn in range(2):
        with Ahead([[archive.at(name)] for name in MANY]):
            for name in names:
                assert content(archive.at(name)) == name.encode() * 20
        assert archive.seen().requests == len(MANY), turn


def test_few_may_be_waited_for_at_a_time(archive: RangeServer) -> None:
    files = [[archive.at(f"absent/{name}"), archive.at(name)] for name in MANY[:100]]
    with Ahead(files, ahead=2), ThreadPoolExecutor(4) as pool:
        urls = [places[1] for places in files]
        assert list(pool.map(content, urls)) == [name.encode() * 20 for name in MANY[:100]]
    assert archive.seen().most <= 4


def test_whoever_waits_is_told_that_all_was_ended(archive: RangeServer) -> None:
    archive.fault("silence", [MANY[0]])
    with Ahead([[archive.at(name)] for name in MANY[:5]]):
        assert content(archive.at(MANY[1])) == MANY[1].encode() * 20
        threading.Timer(0.2, fetching.cancel_all).start()
        with pytest.raises(FileError, match=f"cannot read .*{MANY[0]}: CancelledError"):
            result(archive.at(MANY[0]))
        archive.heal()
    assert content(archive.at(MANY[0])) == MANY[0].encode() * 20


def test_no_thread_is_left_but_the_one_that_fetches(archive: RangeServer) -> None:
    before = {thread.name for thread in threading.enumerate()}
    archive.fault("silence", [MANY[7]])
    with Ahead([[archive.at(name)] for name in MANY[:20]]):
        content(archive.at(MANY[3]))
    after = {thread.name for thread in threading.enumerate() if thread.name.startswith("spender")}
    assert after - before <= {"spender-fetching"}
    assert ahead._active == []


# -- processes -------------------------------------------------------------------------------


def run(script: str, *arguments: str) -> str:
    """Run a script that is to end by itself; return what it prints."""
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="processes do not fork there")
def test_a_forked_process_waits_for_nothing_of_its_parent(archive: RangeServer) -> None:
    script = """
        import multiprocessing, signal, sys
        from spender_core.archives.remote.files import Ahead, open_bytes
        first, silent, *others = sys.argv[1:]
        def length(url):
            with open_bytes(url) as file:
                return len(file.read_at(0, file.size))
        def child(url):
            signal.alarm(20)
            return length(url)
        with Ahead([[url] for url in (first, silent, *others)]):
            length(first)
            with multiprocessing.get_context("fork").Pool(2) as pool:
                print(pool.map(child, [silent, first, *others], chunksize=1))
    """
    archive.fault("silence", [MANY[1]], times=1)
    urls = [archive.at(name) for name in MANY[:4]]
    assert run(script, *urls) == "[160, 160, 160, 160]\n"


def test_a_process_ends_though_a_thread_waits(archive: RangeServer) -> None:
    script = """
        import sys, threading, time
        from spender_core.archives.remote.files import Ahead, open_bytes
        from spender_core.errors import SpenderError
        def read():
            try:
                with Ahead([[url] for url in sys.argv[1:]]), open_bytes(sys.argv[1]):
                    pass
            except SpenderError:
                pass
        threading.Thread(target=read, daemon=True).start()
        time.sleep(1.0)
        print("ends")
    """
    archive.fault("silence")
    assert run(script, *[archive.at(name) for name in MANY[:40]]) == "ends\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no timer of signals there")
def test_a_signal_at_any_step_of_a_wait_hangs_nothing(archive: RangeServer) -> None:
    """Signals act where a function returns, too: also where it has just taken a lock."""
    script = """
        import itertools, signal, sys
        from spender_core.archives.remote.ahead import Ahead
        def stop(number, frame):
            sys.settrace(None)
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, stop)
        for count in itertools.count(1):
            left = count
            def step(frame, event, argument):
                global left
                left -= event == "return"
                if not left:
                    stop(None, frame)
                return step
            try:
                with Ahead([sys.argv[1:]]) as files:
                    signal.setitimer(signal.ITIMER_REAL, 0.2)
                    sys.settrace(step)
                    files.take(sys.argv[1])
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if left:
                break
        print("ends")
    """
    archive.fault("silence", [MANY[0]])
    assert run(script, archive.at(MANY[0])) == "ends\n"


def test_memory_does_not_grow_with_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what was taken is held, nor more of what was not than is allowed."""
    for k in range(60):
        (tmp_path / f"{k}.bin").write_bytes(bytes(1_000_000))
    monkeypatch.setattr(ahead, "HELD", 4_000_000)
    monkeypatch.setattr(ahead, "TAKEN", 1_000_000)
    with serving(tmp_path) as server:
        urls = [server.at(f"{k}.bin") for k in range(60)]
        with Ahead([(url,) for url in urls]):
            assert len(content(urls[0])) == 1_000_000
            tracemalloc.start()
            try:
                for url in urls[1:]:
                    assert len(content(url)) == 1_000_000
                held, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    assert held < 10_000_000
    assert peak < 30_000_000
