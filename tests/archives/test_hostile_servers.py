"""Servers that lie: about what a part continues, where a file ends, when it comes."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
from servers import REPOSITORY, Fault, Handler, Hub, drop, silence

from spender_core.archives.downloads import cache
from spender_core.archives.downloads.cache import home
from spender_core.archives.downloads.fetch import fetch
from spender_core.archives.location import parse
from spender_core.errors import FileError, InputError, OfflineError, SpenderError, WeightsError

CONTENT = np.random.default_rng(1).bytes(300_000)
OTHER = np.random.default_rng(2).bytes(300_000)


def answer(status: int, body: bytes, *headers: tuple[str, str]) -> Fault:
    """Send exactly this, and close the connection."""

    def act(handler: Handler, content: bytes) -> None:
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return act


def etag(content: bytes) -> tuple[str, str]:
    return "ETag", f'"{hashlib.sha256(content).hexdigest()}"'


@pytest.mark.parametrize(
    "lie",
    [
        answer(206, OTHER[1000:], etag(OTHER), ("Content-Range", "bytes 1000-299999/300000")),
        answer(206, OTHER[1000:], ("Content-Range", "bytes 1000-299999/300000")),
        answer(206, OTHER[1000:], etag(CONTENT), ("Content-Range", "bytes 1000-299999/400000")),
        answer(206, OTHER[1000:1010], etag(CONTENT), ("Content-Range", "bytes 1000-1009/300000")),
        answer(206, OTHER[1000:], etag(CONTENT), ("Content-Range", "bytes 1000-299999/*")),
        answer(206, OTHER[1000:], etag(CONTENT)),
        answer(
            206, CONTENT[1000:1010], etag(CONTENT), ("Content-Range", "bytes 1000-299999/300000")
        ),
        answer(
            206, CONTENT[1000:] * 2, etag(CONTENT), ("Content-Range", "bytes 1000-299999/300000")
        ),
    ],
    ids=["other", "untold", "total", "piece", "star", "bare", "cut", "long"],
)
def test_what_does_not_continue_a_part_is_not_joined_to_it(hub: Hub, lie: Fault) -> None:
    """Without a hash, nothing else would notice."""
    hub.faults = [drop(1000), lie]
    location = hub.offer("model.bin", CONTENT)
    try:
        assert fetch(location).read_bytes() == CONTENT
    except OfflineError:
        assert not cache.entry(parse(location)).path.exists()
        assert fetch(location).read_bytes() == CONTENT


def test_a_part_is_gone_before_another_file_is_noted_in_its_place(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, the next process would mix them."""
    from spender_core.archives.downloads import transport

    location = hub.offer("model.bin", CONTENT)
    hub.always = drop(1000)
    with pytest.raises(OfflineError):
        fetch(location)
    hub.always = None
    hub.offer("model.bin", OTHER)
    write = transport._write_note

    def killed(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(transport, "_write_note", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(location)
    monkeypatch.setattr(transport, "_write_note", write)
    assert fetch(location).read_bytes() == OTHER


def test_a_file_of_unknown_length_needs_a_hash(hub: Hub) -> None:
    hub.always = answer(200, CONTENT)
    location = hub.offer("model.bin", CONTENT)
    with pytest.raises(OfflineError, match="does not tell how long it is"):
        fetch(location)
    path = fetch(f"{location}#sha256={hashlib.sha256(CONTENT).hexdigest()}")
    assert path.read_bytes() == CONTENT


def test_a_compressed_answer_is_refused(hub: Hub) -> None:
    hub.always = answer(200, CONTENT, ("Content-Encoding", "gzip"))
    with pytest.raises(OfflineError, match=r"sends it compressed \(gzip\)"):
        fetch(hub.offer("model.bin", CONTENT))


@pytest.mark.parametrize(
    "lie",
    [
        answer(200, CONTENT, ("Content-Length", "9" * 5000)),
        answer(200, CONTENT, ("Content-Length", "\xb2")),
        answer(200, CONTENT, ("Content-Length", "-5")),
        answer(503, b"", ("Retry-After", "9" * 5000)),
        answer(503, b"", ("Retry-After", "Fri, 31 Dec 99999999 23:59:59 GMT")),
        answer(302, b"", ("Location", "http://[bad/")),
        answer(302, b"", ("Location", "http://a..b/")),
        answer(302, b"", ("Location", "http://" + "a" * 70 + "/")),
        answer(302, b"", ("Location", "file:///etc/hostname")),
        answer(302, b"", ("Location", "\xff\xfe")),
        answer(299, b"x"),
        answer(200, CONTENT[:10], ("Transfer-Encoding", "chunked")),
    ],
)
def test_nonsense_of_a_server_is_told_and_a_mirror_is_tried(hub: Hub, lie: Fault) -> None:
    hub.always = lie
    location = hub.offer("model.bin", CONTENT)
    with pytest.raises(SpenderError, match=r"model\.bin"):
        fetch(location)
    mirror = home().parent / "mirror.bin"
    mirror.write_bytes(CONTENT)
    assert fetch(location, elsewhere=[str(mirror)]).read_bytes() == CONTENT


def test_a_claim_beyond_all_bounds_sends_on_to_the_mirror(hub: Hub, tmp_path: Path) -> None:
    hub.always = answer(200, CONTENT, ("Content-Length", str(10**15)))
    mirror = tmp_path / "mirror.bin"
    mirror.write_bytes(CONTENT)
    location = hub.offer("model.bin", CONTENT)
    assert fetch(location, elsewhere=[str(tmp_path), str(mirror)]).read_bytes() == CONTENT


def test_a_chunk_that_comes_byte_by_byte_is_not_waited_for(hub: Hub) -> None:
    def act(handler: Handler, content: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"5;")
        while not handler.server.closing.wait(0.2):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    hub.always = act
    begin = time.monotonic()
    with pytest.raises(OfflineError, match="nothing came"):
        fetch(hub.offer("model.bin", CONTENT))
    assert time.monotonic() - begin < 8


def test_a_slow_body_is_left_if_it_makes_no_progress(hub: Hub) -> None:
    hub.piece, hub.pause = 2000, 0.1
    begin = time.monotonic()
    with pytest.raises(OfflineError, match=r"only \d+ bytes came in 3 s"):
        fetch(hub.offer("model.bin", CONTENT))
    assert time.monotonic() - begin < 8


def test_who_waits_is_told_of_every_attempt(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process goes from silent server to silent server; the other waits for it."""
    from threading import Thread

    monkeypatch.setenv("SPENDER_TIMEOUT", "1.2")
    hub.faults = [silence] * 4
    location = hub.offer("model.bin", CONTENT)
    places = [f"{hub.url}/mirror/model.bin"] * 6
    found: list[bytes] = []

    def get() -> None:
        found.append(fetch(location, elsewhere=places).read_bytes())

    threads = [Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [CONTENT] * 3
    assert hub.whole == {"model.bin": 1}


def test_an_escape_in_the_reason_of_a_server_is_not_passed_on(hub: Hub) -> None:
    def act(handler: Handler, content: bytes) -> None:
        handler.wfile.write(b"HTTP/1.0 418 \x1b[31mred\r\n\r\n")
        handler.close_connection = True

    hub.always = act
    with pytest.raises(OfflineError, match="418") as raised:
        fetch(hub.offer("model.bin", CONTENT))
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HF_TOKEN", "hf_hush\nabc", "HF_TOKEN has characters"),
        ("HF_TOKEN", "hf_hush\u20ac", "HF_TOKEN has characters"),
        ("HF_ENDPOINT", "hub.example.org", "HF_ENDPOINT must begin with https://"),
        ("SPENDER_TIMEOUT", "1e300", "SPENDER_TIMEOUT must be"),
        ("SPENDER_HOME", "~nosuchuser/x", "there is no home"),
        ("REQUESTS_CA_BUNDLE", "/nope.pem", "nope.pem"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    location = hub.offer("model.bin", CONTENT)
    if name == "REQUESTS_CA_BUNDLE":
        location = "https://127.0.0.1:9/model.bin"
    with pytest.raises((InputError, OfflineError), match=message) as raised:
        fetch(location)
    assert "hush" not in str(raised.value)


def test_a_pipe_in_the_cache_is_not_waited_for(hub: Hub) -> None:
    import os

    location = hub.offer("model.bin", CONTENT)
    one = cache.entry(parse(location))
    one.folder.mkdir(parents=True)
    os.mkfifo(one.path)
    hub.stop()
    with pytest.raises(OfflineError, match="no regular file"):
        fetch(location)


def test_a_damaged_record_of_a_shared_cache_is_passed_over(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    location = hub.offer("model.bin", CONTENT)
    monkeypatch.setenv("SPENDER_HOME", str(tmp_path / "shared"))
    folder = fetch(location).parent
    (folder / "record.json").write_text("{")
    with pytest.raises(FileError, match="spender cache prune"):
        fetch(location)
    monkeypatch.setenv("SPENDER_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("SPENDER_SHARED_CACHE", str(tmp_path / "shared"))
    assert fetch(location).parent == folder


def test_two_hashes_that_contradict_are_refused(hub: Hub) -> None:
    location = hub.offer("model.bin", CONTENT)
    with pytest.raises((InputError, WeightsError)):
        fetch(f"{location}#sha256={'0' * 8}", "1" * 64)


def test_the_name_of_the_record_is_taken() -> None:
    for text in (f"hf:{REPOSITORY}/record.json", "https://example.org/record.json"):
        with pytest.raises(InputError, match="names the file"):
            parse(text)
