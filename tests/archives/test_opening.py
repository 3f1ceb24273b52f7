"""A server that fails is not a file that is absent."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from astropy.io import fits

from spender_core.archives.opening import open_fits
from spender_core.errors import MissingFileError, OfflineError

FITS = "/good.fits"


class Handler(BaseHTTPRequestHandler):
    """Answers with the status that the path names, e.g. /503.fits, or with a FITS file."""

    content = b""

    def do_HEAD(self) -> None:
        self.respond(b"")

    def do_GET(self) -> None:
        self.respond(self.content if self.path == FITS else b"sorry")

    def respond(self, body: bytes) -> None:
        status = 200 if self.path == FITS else int(self.path[1:4])
        self.send_response(status)
        self.send_header("Content-Length", str(len(self.content if status == 200 else b"sorry")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "good.fits"
    fits.PrimaryHDU(np.arange(6.0)).writeto(path)
    Handler.content = path.read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_file_is_read_from_a_server(server: str) -> None:
    with open_fits(server + FITS) as hdus:
        assert hdus[0].data.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("status", [404, 410])
def test_an_absent_file_is_missing(server: str, status: int) -> None:
    with (
        pytest.raises(MissingFileError, match=f"{status}.fits"),
        open_fits(f"{server}/{status}.fits"),
    ):
        pass


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_failing_server_is_not_an_absent_file(server: str, status: int) -> None:
    with pytest.raises(OfflineError, match="cannot reach"), open_fits(f"{server}/{status}.fits"):
        pass


def test_an_unreachable_server_is_not_an_absent_file() -> None:
    with pytest.raises(OfflineError, match="cannot reach"), open_fits("http://127.0.0.1:9/a.fits"):
        pass


def test_offline_no_server_is_asked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    with pytest.raises(OfflineError, match="SPENDER_OFFLINE"), open_fits(server + FITS):
        pass
