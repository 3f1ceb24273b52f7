"""Files that are opened from disk and from servers, and what is said of those that are not."""

from __future__ import annotations

import gzip
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from astropy.io import fits

from spender_core.archives.fits.hdus import open_hdus
from spender_core.archives.fits.opening import beside, open_fits
from spender_core.errors import FileError, MissingFileError, OfflineError, SpenderError

FITS = "/good.fits"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Please log in</body></html>"


class Handler(BaseHTTPRequestHandler):
    """Answers with the status that the path names, e.g. /503.fits, or with a FITS file.

    /page.fits is a web page, and /stream.fits the FITS file; their length is not told.
    """

    content = b""

    def do_HEAD(self) -> None:
        self.respond(b"")

    def do_GET(self) -> None:
        if self.path.startswith(("/page", "/stream")):
            self.send_response(200)
            if self.path.startswith("/page"):
                self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE if self.path.startswith("/page") else self.content)
            return
        self.respond(self.content if self.path.startswith(FITS) else b"sorry")

    def respond(self, body: bytes) -> None:
        if self.path.startswith(("/page", "/stream")):
            self.send_response(200)
            self.end_headers()
            return
        status = 200 if self.path.startswith(FITS) else int(self.path[1:4])
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
        Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
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


def values(url: str) -> list[float]:
    with open_fits(url) as hdus:
        return [float(value) for value in hdus[0].data]


def test_a_server_need_not_tell_the_length(server: str) -> None:
    assert values(f"{server}/stream.fits") == [0, 1, 2, 3, 4, 5]


def test_a_web_page_in_place_of_a_file_is_called_so(server: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"page\.fits: the server sent a web page instead of"):
        values(f"{server}/page.fits")
    (tmp_path / "saved.fits").write_bytes(PAGE)
    with pytest.raises(FileError, match=r"saved\.fits: it is a web page that was saved"):
        values(str(tmp_path / "saved.fits"))


@pytest.mark.parametrize("path", ["403.fits", "404.fits", "500.fits", "page.fits", "good.fits"])
def test_secrets_of_a_url_are_never_shown(server: str, path: str) -> None:
    url = server.replace("://", "://alice:pw123@") + f"/{path}?token=hidden&sig=deep"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(SpenderError) as raised, open_fits(url) as hdus:
            raise ValueError(f"{url} has {len(hdus)} HDUs")
    error = raised.value
    assert error.__suppress_context__
    shown = [str(error), repr(error), str(error.__cause__), *map(str, told)]
    assert path in shown[0]
    assert not [
        text for text in shown for word in ("alice", "pw123", "hidden", "deep") if word in text
    ]


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local.fits"
    fits.PrimaryHDU(np.arange(6.0)).writeto(path)
    return path


def test_paths_may_be_urls_of_files(local: Path) -> None:
    assert values(str(local)) == values(f"file://{local}") == [0, 1, 2, 3, 4, 5]


def test_a_gzipped_file_may_be_read_by_many_threads(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 9, (600, 500), dtype=np.int32)
    fits.PrimaryHDU(content).writeto(tmp_path / "long.fits")
    packed = gzip.compress((tmp_path / "long.fits").read_bytes(), 1)
    (tmp_path / "long.fits.gz").write_bytes(packed)
    rows = np.random.default_rng(1).integers(0, len(content), 4000).tolist()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with open_hdus(str(tmp_path / "long.fits.gz")) as hdus, ThreadPoolExecutor(8) as pool:
            hdu = hdus[0]
            for row, found in zip(rows, pool.map(lambda k: hdu.image([k]), rows), strict=True):
                np.testing.assert_array_equal(found[0], content[row])
    finally:
        sys.setswitchinterval(before)


def test_gzipped_files_are_read(local: Path, tmp_path: Path) -> None:
    for name, content in {
        "one.fits.gz": gzip.compress(local.read_bytes()),
        "two.fits.gz": gzip.compress(local.read_bytes()[:3000])
        + gzip.compress(local.read_bytes()[3000:]),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert values(str(tmp_path / name)) == [0, 1, 2, 3, 4, 5]


def test_real_files_may_be_gzipped(real_data: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted((real_data / "desi").rglob("*.fits"))):
        packed = tmp_path / f"{number}.fits.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        with open_fits(str(path)) as plain, open_fits(str(packed)) as other:
            assert [hdu.name for hdu in plain] == [hdu.name for hdu in other]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"not FITS at all" * 400, "at byte 0, where HDU 0 should begin, is b'not FITS"),
        (b"BZh91AY&SY", "compressed with bzip2; decompress it first"),
        (b"PK\x03\x04", "compressed with zip"),
        (b"\xfd7zXZ\x00", "compressed with xz"),
        (b"\x1f\x8b\x08\x00", "cannot read"),
        (b"\x1f\x8b\x08\x00" + bytes(400), "cannot read"),
        (gzip.compress(bytes(50 << 20)), "expands to more than 16 times its size"),
        (gzip.compress(gzip.compress(b"SIMPLE  =" * 900)), "where HDU 0 should begin"),
        (gzip.compress(b"x" * 9000)[:-30], "cannot read"),
    ],
)
def test_what_is_no_fits_file_says_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.fits"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message) as raised:
        values(str(path))
    assert "odd.fits" in str(raised.value)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder, not a file; give the files in it"):
        values(str(tmp_path))
    os.mkfifo(tmp_path / "pipe.fits")
    with pytest.raises(FileError, match=r"pipe\.fits is no regular file"):
        values(str(tmp_path / "pipe.fits"))
    for path in ("a\0b.fits", "x" * 5000, "nowhere://a/b.fits", "http://", "http://[::1/a"):
        with pytest.raises(SpenderError):
            values(path)
    with pytest.raises(MissingFileError, match="there is no file"):
        values(str(tmp_path / "absent.fits"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("coadd-1.fits", "redrock-1.fits"),
        ("/a/coadd-b/coadd-1.fits", "/a/coadd-b/redrock-1.fits"),
        ("https://h.org/a/coadd-1.fits?t=a/coadd-", "https://h.org/a/redrock-1.fits?t=a/coadd-"),
        ("/a/spectra-1.fits", None),
        ("/a?/coadd-1.fits", "/a?/redrock-1.fits"),
    ],
)
def test_the_file_beside_another(url: str, expected: str | None) -> None:
    assert beside(url, "coadd-", "redrock-") == expected


class Plain(SimpleHTTPRequestHandler):
    """Serves a folder, without parts of files."""

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""


def test_large_files_come_from_servers_without_ranges_too(tmp_path: Path) -> None:
    large = np.arange(3_000_000, dtype="f4")
    fits.PrimaryHDU(large).writeto(tmp_path / "large.fits")
    handler = partial(Plain, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        with open_fits(f"http://127.0.0.1:{running.server_port}/large.fits") as hdus:
            assert (hdus[0].data == large).all()
        running.shutdown()
