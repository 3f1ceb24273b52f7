"""Servers that fail: each ends in success or in a message of its own, within a stated time.

A server is left after SPENDER_TIMEOUT seconds without progress, here 3; a bound on the time of a
test is that, and what a slow machine needs.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from servers import (
    REPOSITORY,
    Fault,
    Handler,
    Hub,
    altered,
    drip,
    drop,
    page,
    reset,
    short,
    silence,
    stall,
    status,
)

from spender_core.archives.downloads import asking
from spender_core.archives.downloads.cache import home
from spender_core.archives.downloads.fetch import fetch
from spender_core.errors import (
    InputError,
    MissingFileError,
    OfflineError,
    SpenderError,
    WeightsError,
)

CONTENT = np.random.default_rng(1).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATIENCE, SLACK = 3.0, 5.0


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds + SLACK


class Plain(requests.adapters.HTTPAdapter):
    """Takes an address of https to one of http, for want of a certificate."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        response = requests.Response()
        response.status_code = 302
        response.headers["Location"] = "http://127.0.0.1/x"
        response.request, response.raw = request, io.BytesIO()
        return response


def whole_files() -> list[str]:
    """Return the files of the cache that could be taken for whole ones."""
    return [path.name for path in home().rglob("*") if path.is_file() and path.name[0] != "."]


@pytest.mark.parametrize(
    "faults",
    [
        [reset],
        [drop(0)],
        [drop(1_000_000)],
        [drop(1_200_000), drop(1_200_000)],
        [stall(1_100_000)],
        [status(503)],
        [status(500), status(502), status(504)],
        [status(429, Retry_After="1")],
        [status(503, Retry_After=formatdate(time.time() + 1, usegmt=True))],
        [page("text/html")],
        [page("application/octet-stream")],
    ],
    ids=["reset", "drop-0", "drop", "drops", "stall", "503", "5xx", "429", "503-date", "html", "html-undeclared"],
)  # fmt: skip
def test_a_fault_that_passes_ends_in_success(hub: Hub, faults: list[Fault]) -> None:
    hub.faults = list(faults)
    with within(2 * PATIENCE):
        path = fetch(hub.offer("model.bin", CONTENT), SHA256)
    assert path.read_bytes() == CONTENT
    assert hub.faults == []


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (reset, OfflineError, r"cannot download .*(Connection|Remote)"),
        (drop(1000), OfflineError, r"connection was lost, with \d+ bytes there of 3000000"),
        (drop(0), OfflineError, r"connection was lost, with 0 bytes there of 3000000"),
        (stall(1000), OfflineError, r"nothing came for 1 s, with \d+ bytes there of 3000000"),
        (silence, OfflineError, "nothing came for 1 s"),
        (drip, OfflineError, r"only \d+ bytes came in 3 s"),
        (status(503), OfflineError, "answered 503 Service Unavailable"),
        (status(500), OfflineError, "answered 500"),
        (status(429), OfflineError, "answered 429"),
        (status(429, Retry_After="3600"), OfflineError, "asks to wait 3600 s: try again then"),
        (status(401), OfflineError, "answered 401 .*HF_TOKEN"),
        (status(403), OfflineError, "answered 403 .*HF_TOKEN"),
        (status(418), OfflineError, "answered 418"),
        (status(404), MissingFileError, r"the server has no file .*model\.bin"),
        (status(410), MissingFileError, "the server has no file"),
        (page("text/html"), OfflineError, r"sent a web page instead \('Service overloaded'\)"),
        (page("application/octet-stream"), OfflineError, "sent a web page instead"),
        (short(10), WeightsError, rf"has sha256 [0-9a-f]{{64}} \(2999990 bytes\), expected {SHA256}"),
        (altered, WeightsError, rf"has sha256 [0-9a-f]{{64}} \(3000000 bytes\), expected {SHA256}"),
        (lambda handler, content: handler.send_content(b""), OfflineError, "sent nothing"),
    ],
)  # fmt: skip
def test_a_fault_that_stays_ends_in_its_own_message(
    hub: Hub, fault: Fault, error: type[SpenderError], message: str
) -> None:
    hub.always = fault
    with within(PATIENCE), pytest.raises(error, match=message) as raised:
        fetch(hub.offer("model.bin", CONTENT), SHA256)
    assert type(raised.value) is error
    assert f"{REPOSITORY}/resolve/main/model.bin" in str(raised.value)
    assert whole_files() == []
    hub.always = None
    assert fetch(f"hf:{REPOSITORY}/model.bin", SHA256).read_bytes() == CONTENT


def test_both_hashes_are_shown_and_the_file_is_removed(hub: Hub) -> None:
    hub.always = altered
    with pytest.raises(WeightsError) as raised:
        fetch(hub.offer("model.bin", CONTENT), SHA256)
    found = hashlib.sha256(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])).hexdigest()
    assert found in str(raised.value)
    assert SHA256 in str(raised.value)
    assert [path for path in home().rglob("*") if path.is_file() and path.stat().st_size] == []


def test_a_long_download_with_many_drops_goes_on(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    content = np.random.default_rng(2).bytes(14_000_000)
    hub.faults = [drop(1_100_000)] * 12
    path = fetch(hub.offer("large.bin", content), hashlib.sha256(content).hexdigest())
    assert path.read_bytes() == content


def test_an_interrupted_download_goes_on_where_it_stopped(hub: Hub) -> None:
    hub.always = drop(1000)
    with pytest.raises(OfflineError):
        fetch(hub.offer("model.bin", CONTENT), SHA256)
    hub.always = None
    before = len(hub.headers)
    assert fetch(f"hf:{REPOSITORY}/model.bin", SHA256).read_bytes() == CONTENT
    asked = [headers.get("Range") for headers in hub.headers[before:]]
    assert all(asked)
    assert int(str(asked[0])[6:-1]) >= 1000


@pytest.mark.parametrize("lack", ["ranges", "etags"])
def test_without_ranges_or_etags_a_download_begins_anew(hub: Hub, lack: str) -> None:
    setattr(hub, lack, False)
    hub.faults = [drop(1_000_000)]
    assert fetch(hub.offer("model.bin", CONTENT), SHA256).read_bytes() == CONTENT


def test_a_file_that_changes_during_a_download_is_not_mixed(hub: Hub) -> None:
    other = np.random.default_rng(5).bytes(2_000_000)

    def swap(handler: Handler, content: bytes) -> None:
        drop(1_000_000)(handler, content)
        hub.offer("model.bin", other)

    hub.faults = [swap]
    digest = hashlib.sha256(other).hexdigest()
    assert fetch(hub.offer("model.bin", CONTENT), digest).read_bytes() == other


def test_a_part_that_does_not_fit_is_thrown_away(hub: Hub) -> None:
    """The server takes the part for its own, but the whole has another hash."""
    hub.always = drop(100_000)
    with pytest.raises(OfflineError):
        fetch(hub.offer("model.bin", CONTENT), SHA256)
    (part,) = home().rglob("*.part")
    part.write_bytes(bytes(part.stat().st_size))
    hub.always = None
    assert fetch(f"hf:{REPOSITORY}/model.bin", SHA256).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(hub: Hub) -> None:
    hub.always = drop(100_000)
    with pytest.raises(OfflineError):
        fetch(hub.offer("model.bin", CONTENT), SHA256)
    (part,) = home().rglob("*.part")
    part.write_bytes(bytes(len(CONTENT) + 5))
    hub.always = None
    assert fetch(f"hf:{REPOSITORY}/model.bin", SHA256).read_bytes() == CONTENT


def test_a_refused_connection_is_left_at_once(hub: Hub) -> None:
    hub.stop()
    with within(0), pytest.raises(OfflineError, match="refused"):
        fetch(f"hf:{REPOSITORY}/model.bin", SHA256)


def test_an_unknown_host_is_left_at_once() -> None:
    with within(PATIENCE), pytest.raises(OfflineError, match=r"no-such-host\.invalid"):
        fetch("https://no-such-host.invalid/model.bin", SHA256)


@pytest.mark.parametrize("name", ["../../evil.bin", "/etc/evil.bin", "..\\evil.bin"])
def test_a_name_that_the_server_gives_is_not_used(hub: Hub, name: str, tmp_path: Path) -> None:
    hub.always = lambda handler, content: handler.send_content(
        content, **{"Content-Disposition": f'attachment; filename="{name}"'}
    )
    path = fetch(hub.offer("model.bin", CONTENT), SHA256)
    assert path.name == "model.bin"
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert all(file.is_relative_to(home()) for file in files)
    assert not any("evil" in file.name for file in files)


def test_a_redirect_to_a_name_outside_of_the_cache_is_harmless(hub: Hub, tmp_path: Path) -> None:
    def lead(handler: Handler, content: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"{hub.url}/cdn/..%2F..%2Fevil.bin")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    hub.files["..%2F..%2Fevil.bin"] = CONTENT
    hub.faults = [lead]
    path = fetch(hub.offer("model.bin", CONTENT), SHA256)
    assert path.name == "model.bin"
    assert not list(tmp_path.rglob("*evil*"))


def test_redirects_without_end_are_left(hub: Hub) -> None:
    hub.always = status(302, Location="/cdn/model.bin")
    with within(PATIENCE), pytest.raises(OfflineError, match="leads on more than 10 times"):
        fetch(hub.offer("model.bin", CONTENT), SHA256)


def test_the_body_of_a_redirect_is_never_read(hub: Hub) -> None:
    """It may have no end, or expand to a great deal."""

    def endless(handler: Handler, content: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/cdn/model.bin")
        handler.end_headers()
        while not handler.server.closing.is_set():
            handler.wfile.write(bytes(1 << 16))

    hub.faults = [endless]
    with within(PATIENCE):
        assert fetch(hub.offer("model.bin", CONTENT), SHA256).read_bytes() == CONTENT


def test_a_header_that_comes_byte_by_byte_is_not_waited_for(hub: Hub) -> None:
    def trickle(handler: Handler, content: bytes) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
        while not handler.server.closing.wait(0.3):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    hub.always = trickle
    with within(PATIENCE), pytest.raises(OfflineError, match="no answer for 2 s"):
        fetch(hub.offer("model.bin", CONTENT), SHA256)


def test_an_encrypted_address_does_not_lead_to_a_plain_one() -> None:
    with asking.Session() as session:
        session.mount("https://", Plain())
        server = asking.Conversation(session, "https://127.0.0.1/x", {}, 1.0)
        with pytest.raises(OfflineError, match="which is not encrypted"):
            server.reply()


def test_secrets_of_a_url_are_sent_and_never_shown(
    hub: Hub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPENDER_TIMEOUT", "0.5")
    caplog.set_level("DEBUG", logger="spender_core")
    hub.files["model.bin?token=hush"] = CONTENT
    url = f"{hub.url.replace('//', '//me:hush@')}/cdn/model.bin?token=hush"
    path = fetch(url, SHA256)
    assert any(headers.get("Authorization", "").startswith("Basic ") for headers in hub.headers)
    assert any("token=hush" in request for request in hub.requests)
    kept = b"".join(file.read_bytes() for file in home().rglob("*.json"))
    assert b"hush" not in kept
    path.unlink()
    for fault in (
        status(503),
        status(404),
        status(403),
        reset,
        drop(10),
        altered,
        page("text/html"),
    ):
        hub.always = fault
        with pytest.raises(SpenderError) as raised:
            fetch(url, SHA256)
        assert "hush" not in str(raised.value)
        assert raised.value.__cause__ is None or "hush" not in repr(raised.value.__cause__)
    hub.stop()
    with pytest.raises(OfflineError) as unreachable:
        fetch(url, SHA256)
    assert "hush" not in str(unreachable.value)
    assert "hush" not in caplog.text


def test_a_token_of_the_hub_goes_to_the_hub_alone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hush")
    with Hub() as other:
        other.start()
        other.offer("model.bin", CONTENT)
        hub.always = status(
            302, Location=f"{other.url.replace('127.0.0.1', 'localhost')}/cdn/model.bin"
        )
        fetch(hub.offer("model.bin", CONTENT), SHA256)
        assert all(headers.get("Authorization") == "Bearer hf_hush" for headers in hub.headers)
        assert len(other.headers) == 1
        assert "Authorization" not in other.headers[0]
        other.stop()


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf"])
def test_a_timeout_that_is_no_time_is_refused(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SPENDER_TIMEOUT", value)
    with pytest.raises(InputError, match="SPENDER_TIMEOUT"):
        fetch(hub.offer("model.bin", CONTENT), SHA256)
