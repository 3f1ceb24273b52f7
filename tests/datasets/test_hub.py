"""Datasets in a repository of the Hugging Face Hub, from a server on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import torch
from small_datasets import Tiny, epoch_of, ids, written

from spender_core.datasets.reading import Dataset
from spender_core.datasets.stream import Selection, Stream
from spender_core.errors import FileError, OfflineError, SpenderError

pytest.importorskip("huggingface_hub")
pytest.importorskip("pyarrow")

REPOSITORY, COMMIT = "team/tiny", "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """A repository of files, and how often parts of them were asked for."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.parts = files, 0


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api = f"/api/datasets/{REPOSITORY}"
        if path in (api, f"{api}/revision/main"):
            self.reply(json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode())
        elif path.startswith(f"{api}/tree/main"):
            self.reply(self.listing(path.removeprefix(f"{api}/tree/main").strip("/")))
        elif path.startswith(f"/datasets/{REPOSITORY}/resolve/main/"):
            self.content(path.removeprefix(f"/datasets/{REPOSITORY}/resolve/main/"))
        else:
            self.reply(b"{}", 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = parse_qs(body)["paths"]
        self.reply(json.dumps([self.entry(p) for p in asked if p in self.server.files]).encode())

    def entry(self, path: str) -> dict[str, Any]:
        size = len(self.server.files[path])
        return {"type": "file", "path": path, "size": size, "oid": f"{size:040x}"}

    def listing(self, folder: str) -> bytes:
        inside = [path for path in self.server.files if path.rpartition("/")[0] == folder]
        folders = {path.partition("/")[0] for path in self.server.files if "/" in path}
        found = [self.entry(path) for path in inside]
        if not folder:
            found += [{"type": "directory", "path": name, "oid": "0" * 40} for name in folders]
        return json.dumps(found).encode()

    def content(self, name: str) -> None:
        content = self.server.files.get(name)
        if content is None:
            self.reply(b"{}", 404, X_Error_Code="EntryNotFound")
            return
        asked = self.headers.get("Range")
        if asked:
            self.server.parts += 1
            first, last = asked.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1]
        self.reply(content, 206 if asked else 200, X_Repo_Commit=COMMIT)

    def reply(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Hub, Path]]:
    """A server with a dataset of 200 spectra, and the folder where it also is."""
    from huggingface_hub import HfFileSystem

    root, _ = written(tmp_path, 200)
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    server = Hub(files)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    HfFileSystem.clear_instance_cache()
    yield server, root
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("manifest", [True, False])
def test_a_dataset_is_streamed_from_the_hub(hub: tuple[Hub, Path], manifest: bool) -> None:
    """With a manifest as spender prepare leaves it, and without, as spender 0.3 does."""
    server, root = hub
    if not manifest:
        del server.files["dataset.json"]
        (root / "dataset.json").unlink()
    there, here = Dataset(f"hf://datasets/{REPOSITORY}", Tiny()), Dataset(root, Tiny())
    assert there.fingerprint == here.fingerprint
    assert torch.equal(there.read("train").flux, here.read("train").flux)
    streams = [Stream(d, batch_size=50, selection=Selection(z_known=False)) for d in (there, here)]
    assert epoch_of(streams[0]) == epoch_of(streams[1])


def test_columns_are_fetched_together(hub: tuple[Hub, Path]) -> None:
    """A row group of a few kB takes one request for all of its columns."""
    server, _ = hub
    dataset = Dataset(f"hf://datasets/{REPOSITORY}", Tiny())
    before = server.parts
    assert len(ids(dataset.read("train"))) == dataset.rows("train")
    assert server.parts - before == 1


def test_a_repository_that_is_not_there_is_told(hub: tuple[Hub, Path]) -> None:
    with pytest.raises(FileError, match="hf://datasets/team/other holds no dataset"):
        Dataset("hf://datasets/team/other", Tiny())


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OfflineError, match="cannot reach hf://datasets/team/tiny"):
        Dataset("hf://datasets/team/tiny", Tiny())


def test_offline_the_hub_is_not_asked(hub: tuple[Hub, Path], monkeypatch: Any) -> None:
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    with pytest.raises(SpenderError, match="SPENDER_OFFLINE"):
        Dataset(f"hf://datasets/{REPOSITORY}", Tiny())
