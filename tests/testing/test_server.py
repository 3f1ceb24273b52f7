"""The server of the remote check answers as archives do."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from spender_core.testing.server import serving

CONTENT = bytes(range(256))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "a file.fits").write_bytes(CONTENT)
    (tmp_path / "secret.txt").write_text("not served")
    with serving(folder) as url:
        yield url


def ask(url, asked=None, method="GET"):
    headers = {} if asked is None else {"Range": f"bytes={asked}"}
    request = urllib.request.Request(url, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        return answer.status, answer.read(), answer.headers


@pytest.mark.parametrize(
    ("asked", "part", "told"),
    [
        ("0-9", slice(0, 10), "bytes 0-9/256"),
        ("250-", slice(250, None), "bytes 250-255/256"),
        ("-6", slice(250, None), "bytes 250-255/256"),
        ("100-9999", slice(100, None), "bytes 100-255/256"),
    ],
)
def test_ranges(root, asked, part, told):
    status, content, headers = ask(f"{root}/a%20file.fits", asked)
    assert (status, content) == (206, CONTENT[part])
    assert headers["Content-Range"] == told


def test_whole_files(root):
    assert ask(f"{root}/a%20file.fits")[:2] == (200, CONTENT)
    status, content, headers = ask(f"{root}/a%20file.fits", method="HEAD")
    assert (status, content, headers["Content-Length"]) == (200, b"", "256")


@pytest.mark.parametrize(
    ("path", "asked", "status"),
    [("absent", None, 404), ("%2e%2e/secret.txt", None, 404), ("a%20file.fits", "256-", 416)],
)
def test_what_is_not_there(root, path, asked, status):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{root}/{path}", asked)
    refused.value.close()
    assert refused.value.code == status
