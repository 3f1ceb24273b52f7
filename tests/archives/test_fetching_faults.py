"""Remote files through everything that servers and networks do, from a real server."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from range_server import RangeServer, serving

from spender_core.archives.remote import fetching, hosts
from spender_core.archives.remote.answers import Trouble
from spender_core.archives.remote.fetching import fetch_all, submit, traffic
from spender_core.archives.remote.hosts import Host, UnreachableError
from spender_core.errors import FileError, InputError, MissingFileError, OfflineError, SpenderError

SIZE = 200_000
CONTENT = np.random.default_rng(0).bytes(SIZE)
MANY = [f"{k}.bin" for k in range(100)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for k, path in enumerate(["a.bin", *MANY]):
        (folder / path).write_bytes(CONTENT[k:])
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[RangeServer]:
    with serving(folder) as server:
        yield server


@pytest.fixture
def archive(running: RangeServer, monkeypatch: pytest.MonkeyPatch) -> RangeServer:
    """A server, with short pauses between tries."""
    running.heal()
    running.forget()
    monkeypatch.setenv("SPENDER_TIMEOUT", "0.3")
    return running


def refusing_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


CUT, PAGE = "the file was cut off", r"sent a web page instead of the file \('Service overloaded'\)"
SILENT = "nothing came for 0 s"
PASSING: list[tuple[str, dict[str, Any], type[SpenderError], str, int]] = [
    ("status", {"code": 408}, OfflineError, "the server answered 408", 5),
    ("status", {"code": 425}, OfflineError, "the server answered 425", 5),
    ("status", {"code": 429}, OfflineError, "the server answered 429", 5),
    ("status", {"code": 500}, OfflineError, "the server answered 500", 5),
    ("status", {"code": 502}, OfflineError, "the server answered 502", 5),
    ("status", {"code": 503}, OfflineError, "the server answered 503", 5),
    ("status", {"code": 504}, OfflineError, "the server answered 504", 5),
    ("page", {}, FileError, PAGE, 5),
    ("page", {"declared": "application/fits"}, FileError, PAGE, 5),
    ("page", {"status": 503}, OfflineError, "the server answered 503", 5),
    ("drop", {"after": 700}, FileError, f"{CUT}.* 700 bytes there of", 5),
    ("drop", {"after": 1 << 30}, FileError, CUT, 5),
    ("reset", {}, OfflineError, "the connection was lost", 5),
    ("stall", {"after": 700}, OfflineError, f"{SILENT}, with 700 bytes there of", 3),
    ("silence", {}, OfflineError, SILENT, 3),
    ("drip", {}, OfflineError, r"only \d+ bytes came in 0 s", 3),
]
NAMES = [f"{kind}-{next(iter(options.values()), '')}" for kind, options, *_ in PASSING]
WANTED = {"whole": (None, None), "part": (1000, 100_000)}


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("fault", PASSING, ids=NAMES)
def test_what_passes_is_tried_again(archive: RangeServer, fault: Any, wanted: str) -> None:
    start, stop = WANTED[wanted]
    archive.fault(fault[0], times=2, **fault[1])
    assert submit(archive.at("a.bin"), start, stop).result().data == CONTENT[start:stop]
    assert archive.seen().requests == 3 or fault[0] == "reset"


@pytest.mark.parametrize("fault", PASSING, ids=NAMES)
def test_what_does_not_pass_is_told(archive: RangeServer, fault: Any) -> None:
    kind, options, error, text, tries = fault
    archive.fault(kind, **options)
    with pytest.raises(error, match=rf"a\.bin: .*{text}.*\(attempts: {tries}\)") as caught:
        submit(archive.at("a.bin"), 1000, 100_000).result()
    assert type(caught.value) is error
    # aiohttp itself repeats, once, what a connection that was kept open lost
    assert archive.seen().requests in ({tries, 2 * tries} if kind == "reset" else {tries})


def test_another_part_than_the_wanted_one_is_not_taken(archive: RangeServer) -> None:
    archive.fault("wrong_range", times=1)
    assert submit(archive.at("a.bin"), 5, 9).result().data == CONTENT[5:9]
    archive.fault("wrong_range", shift=-2)
    with pytest.raises(FileError, match="another part than the one asked for"):
        submit(archive.at("a.bin"), 5, 9).result()


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        (404, MissingFileError, r"there is no file http.*a\.bin"),
        (410, MissingFileError, r"there is no file http.*a\.bin"),
        (401, OfflineError, "answered 401.* HF_TOKEN, or give the URL with user and password"),
        (403, OfflineError, "answered 403.* HF_TOKEN, or give the URL with user and password"),
        (400, OfflineError, "answered 400"),
        (501, OfflineError, "answered 501"),
    ],
)
def test_what_never_passes_is_asked_once(
    archive: RangeServer, code: int, error: type[SpenderError], text: str
) -> None:
    archive.fault("status", code=code)
    with pytest.raises(error, match=text):
        submit(archive.at("a.bin")).result()
    assert archive.seen().requests == 1


# -- servers that ask to wait ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_all_wait_as_long_as_a_server_asks(archive: RangeServer, form: str) -> None:
    after = "1" if form == "seconds" else formatdate(time.time() + 2.0, usegmt=True)
    archive.fault("status", ["a.bin"], times=1, code=429, headers={"Retry-After": after})
    begin = time.monotonic()
    first = submit(archive.at("a.bin"))
    while not archive.seen().requests:
        time.sleep(0.01)
    time.sleep(0.1)
    assert submit(archive.at(MANY[0])).result().data == CONTENT[1:]
    waited = time.monotonic() - begin  # a date has no fractions of a second
    assert waited > 0.8
    assert first.result().data == CONTENT
    assert archive.seen().requests == 3


def test_nobody_waits_for_hours(archive: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is left in peace for a while, and then asked again."""
    monkeypatch.setattr(hosts, "CLOSED", 0.0)
    monkeypatch.setattr(hosts, "LONGEST_CLOSED", 0.5)
    archive.fault("status", code=503, headers={"Retry-After": "7200"})
    with pytest.raises(OfflineError, match=r"it asks to wait 7200 s \(attempts: 1\)"):
        submit(archive.at("a.bin")).result()
    archive.heal()
    with pytest.raises(OfflineError, match=r"it asks to wait 7200 s; try again later"):
        submit(archive.at(MANY[0])).result()
    assert archive.seen().requests == 1
    time.sleep(0.6)
    assert submit(archive.at(MANY[0])).result().data == CONTENT[1:]


def test_pauses_double_up_to_the_longest(
    real_pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses that users have, which the other tests shorten."""
    monkeypatch.setattr(fetching, "PAUSE", real_pause)
    monkeypatch.setattr(fetching, "TRIES", 99)
    assert real_pause == 0.5
    for tries in range(1, 20):
        pause = fetching._pause(Host(1), "http://h.org/a", tries, Trouble("it failed"))
        expected = min(0.5 * 2 ** (tries - 1), fetching.LONGEST_PAUSE)
        assert 0.75 * expected <= pause <= 1.25 * expected


def test_a_second_try_comes_after_a_real_pause(archive: RangeServer, real_pause: float) -> None:
    script = "import sys; from spender_core.archives.remote.fetching import submit; "
    script += "import time; a = time.monotonic(); submit(sys.argv[1]).result(); "
    script += "print(time.monotonic() - a)"
    archive.fault("status", code=503, times=1)
    ran = subprocess.run([sys.executable, "-c", script, archive.at("a.bin")], capture_output=True)
    assert float(ran.stdout) >= 0.75 * real_pause
    assert archive.seen().requests == 2


@pytest.mark.parametrize("after", ["soon", "-5", "", "9" * 400])
def test_nonsense_about_waiting_counts_for_nothing(archive: RangeServer, after: str) -> None:
    archive.fault("status", times=1, code=503, headers={"Retry-After": after})
    assert submit(archive.at("a.bin")).result().data == CONTENT


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "1e9"])
def test_a_time_that_cannot_be_is_refused(
    archive: RangeServer, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SPENDER_TIMEOUT", text)
    with pytest.raises(InputError, match="SPENDER_TIMEOUT must be"):
        submit(archive.at("a.bin")).result()


# -- servers that nobody can reach -----------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_those_who_wait_for_an_unreachable_server_fail_at_once(
    archive: RangeServer, host: str
) -> None:
    port = refusing_port()
    before = traffic().requests
    found = fetch_all([(f"http://{host}:{port}/{k}.fits", None, None, "") for k in range(200)])
    for k, one in enumerate(found):
        assert isinstance(one, OfflineError)
        assert f"cannot reach http://{host}:{port}/{k}.fits: no connection" in str(one)
    assert 3 <= traffic().requests - before < 600
    with pytest.raises(OfflineError, match=r"no connection .*\); try again later"):
        submit(f"http://{host}:{port}/later.fits").result()
    assert submit(archive.at("a.bin")).result().data == CONTENT


def test_a_server_is_asked_again_after_a_while(
    archive: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "CLOSED", 0.05)
    url = f"http://127.0.0.1:{refusing_port()}/a.bin"
    for _ in range(2):
        with pytest.raises(OfflineError, match=r"no connection .*\(attempts: 3\)"):
            submit(url).result()
        time.sleep(0.1)


# -- networks that lose connections ----------------------------------------------------------


def test_all_comes_through_a_proxy_that_closes_connections(
    archive: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "TRIES", 20)
    archive.fault("reset", chance=0.15)
    archive.fault("drop", chance=0.15, after=50_000)
    archive.fault("drop", chance=0.15, after=0)
    found = fetch_all([(archive.at(path), None, None, "") for path in MANY])
    for k, one in enumerate(found):
        assert not isinstance(one, SpenderError), one
        assert one.data == CONTENT[k + 1 :]
    assert archive.seen().requests > len(MANY)


def test_bad_files_do_not_harm_good_ones(archive: RangeServer) -> None:
    archive.fault("status", MANY[:5], code=404)
    archive.fault("status", MANY[5:10], code=503)
    archive.fault("drop", MANY[10:15])
    archive.fault("page", MANY[15:20])
    for _ in range(3):
        found = fetch_all([(archive.at(path), None, None, "") for path in MANY])
        assert [type(one) for one in found[:20:5]] == [
            MissingFileError,
            OfflineError,
            FileError,
            FileError,
        ]
        assert sum(isinstance(one, SpenderError) for one in found) == 20
        good = enumerate(found[20:], start=21)
        assert all(getattr(one, "data", None) == CONTENT[k:] for k, one in good)


# -- turns -----------------------------------------------------------------------------------


def test_turns_are_halved_in_a_storm_and_come_back() -> None:
    host = Host(32)
    for _ in range(20):  # one refusal in a hundred is no storm
        host.refused()
        for _ in range(99):
            host.went_well()
    assert host.limit == 32
    for _ in range(4):
        host.refused()
    assert host.limit == 16
    for _ in range(100):
        host.refused()
    assert host.limit == 1
    for _ in range(2000):
        host.went_well()
    assert host.limit == 32


def test_turns_are_given_in_order_but_first_to_those_who_try_again() -> None:
    order: list[str] = []

    async def one(host: Host, name: str, again: bool) -> None:
        async with host.turn(again):
            order.append(name)
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        host = Host(1)
        wants = [("a", False), ("b", False), ("c", False), ("again", True)]
        await asyncio.gather(*(one(host, *want) for want in wants))

    asyncio.run(all_of_them())
    assert order == ["a", "again", "b", "c"]


def test_a_turn_is_never_lost() -> None:
    """Whoever is cancelled, at whatever moment, leaves as many turns as there were."""
    draw = np.random.default_rng(0)

    async def one(host: Host, steps: int) -> None:
        async with host.turn(again=steps % 2 == 0):
            for _ in range(steps):
                await asyncio.sleep(0)

    async def all_of_them() -> None:
        host = Host(2)
        tasks = [asyncio.create_task(one(host, int(n))) for n in draw.integers(0, 5, 200)]
        for k in draw.integers(0, 200, 300):
            await asyncio.sleep(0)
            tasks[k].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(5), host.turn(False), host.turn(False):
            pass

    asyncio.run(all_of_them())


def test_a_closed_server_gives_no_turn_until_it_answers() -> None:
    async def closed() -> None:
        host = Host(2)
        host.close("nobody there")
        with pytest.raises(UnreachableError, match="nobody there"):
            async with host.turn(False):
                pass
        host.went_well()
        async with host.turn(False):
            pass

    asyncio.run(closed())
