"""Models over the network: from a server on this machine that speaks as the hub does."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from spender_desi import plugin as desi_plugin

from spender_core import registry
from spender_core.archives.download import fetch, home, resolve
from spender_core.batch import SpectrumBatch
from spender_core.errors import (
    FileError,
    MissingFileError,
    OfflineError,
    SpenderError,
    WeightsError,
)
from spender_core.plugins.hookspecs import hookimpl
from spender_core.plugins.manager import Candidate, installed
from spender_core.records import ModelCard

REPOSITORY = "pmelchior/spender"
SOON = 10.0
"""Seconds within which an error must have come."""


class Hub(ThreadingHTTPServer):
    """A server of files, which sends a client from the repository on to another address."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ranges = True
        self.status = HTTPStatus.OK
        self.cut = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def offer(self, name: str, content: bytes) -> str:
        """Offer a file, and return where it is."""
        self.files[name] = content
        return f"hf:{REPOSITORY}/{name}"

    def start(self) -> None:
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        self.server.requests.append(f"{self.command} {self.path}")

    def answer(self, body: bool) -> None:
        prefix, _, name = self.path.rpartition("/")
        content = self.server.files.get(name)
        if self.server.status is not HTTPStatus.OK:
            self.send_error(self.server.status)
        elif content is None or prefix not in (f"/{REPOSITORY}/resolve/main", "/cdn"):
            self.send_error(HTTPStatus.NOT_FOUND)
        elif prefix == "/cdn":
            self.send_content(content, body)
        else:
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", f"{self.server.url}/cdn/{name}")
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Content-Length", "0")
            self.end_headers()

    def send_content(self, content: bytes, body: bool) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.server.ranges:
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            part = content[first : last + 1]
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        else:
            part = content
            self.send_response(HTTPStatus.OK)
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            self.wfile.write(part[: len(part) // 2] if self.server.cut else part)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server that stands in for the hub."""
    server = Hub()
    server.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.stop()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def cached() -> list[str]:
    """Return the names of all files in the cache."""
    return [file.name for file in home().rglob("*") if file.is_file()]


# -- a model as it was published ------------------------------------------------------------


def checkpoint() -> bytes:
    """Make a file with the layout of the published desi_edr_galaxy, and random weights."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    filters, sizes, latents, rest = (128, 256, 512), (5, 11, 21), 6, 9780
    state: dict[str, torch.Tensor] = {
        "encoder.instrument.wave_obs": torch.linspace(3600.0, 9824.0, 7781, dtype=torch.float64)
    }
    for k, (n_in, n_out, size) in enumerate(zip((1, *filters), filters, sizes, strict=False), 1):
        state[f"encoder.conv{k}.0.weight"] = random(n_out, n_in, size)
        state[f"encoder.conv{k}.0.bias"] = random(n_out)
        state[f"encoder.conv{k}.2.weight"] = torch.full((n_out,), 0.25)
    widths = {"encoder": (256, 128, 64, 32, latents), "decoder": (latents, 64, 256, 1024, rest)}
    for part, sizes_of in widths.items():
        for k in range(4):
            state[f"{part}.mlp.{3 * k}.weight"] = random(sizes_of[k + 1], sizes_of[k])
            state[f"{part}.mlp.{3 * k}.bias"] = random(sizes_of[k + 1])
            if part == "decoder":
                state[f"{part}.mlp.{3 * k + 1}.beta"] = random(sizes_of[k + 1])
                state[f"{part}.mlp.{3 * k + 1}.gamma"] = random(sizes_of[k + 1])
            elif k < 3:
                state[f"{part}.mlp.{3 * k + 1}.weight"] = torch.full((sizes_of[k + 1],), 0.25)
    state["decoder.wave_rest"] = torch.linspace(2000.0, 9824.0, rest)
    buffer = io.BytesIO()
    torch.save({"model": [state], "losses": np.zeros((3, 2))}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def content() -> bytes:
    return checkpoint()


@pytest.fixture
def published(
    hub: Hub, content: bytes, offer: Callable[[Iterable[Candidate]], Any]
) -> Iterator[ModelCard]:
    """Card of the published model, of a plugin that stands in for the installed one."""
    digest = sha256(content)
    location = hub.offer(f"spender.desi-edr.galaxyae-{digest[:8]}.pt", content)
    changes = {"weights": location, "sha256": digest[:8]}
    cards = [
        card.model_copy(update=changes) if card.name == "desi_edr_galaxy" else card
        for card in desi_plugin.spender_models()
    ]
    stand_in = ModuleType("stand_in")
    stand_in.spender_instruments = desi_plugin.spender_instruments  # type: ignore[attr-defined]
    stand_in.spender_models = hookimpl(lambda: cards)  # type: ignore[attr-defined]
    stand_in.spender_models.__name__ = "spender_models"  # type: ignore[attr-defined]
    others = [candidate for candidate in installed() if candidate.distribution != "spender-desi"]
    offer([*others, Candidate("desi", "spender-desi", "0", lambda: stand_in)])
    yield registry.info("desi_edr")
    shutil.rmtree(home(), ignore_errors=True)


def test_a_published_model_is_downloaded_once_and_works(hub: Hub, published: ModelCard) -> None:
    instrument, model = registry.load("desi_edr")
    assert instrument is registry.instrument("desi")
    assert model.card.name == "desi_edr_galaxy"
    assert model.wave_rest.shape == (9780,)
    generator = np.random.default_rng(3)
    flux = 2 + generator.normal(scale=0.1, size=(2, instrument.grid.size))
    batch = instrument.batch(instrument.wave, flux, np.full_like(flux, 100.0), z=[0.1, 0.2])
    assert isinstance(batch, SpectrumBatch)
    made = model.reconstruct(batch)
    assert made.latents.shape == (2, 6)
    assert made.restframe.shape == (2, 9780)
    assert made.observed.shape == made.valid.shape == (2, 7781)
    assert all(torch.isfinite(part).all() for part in (made.latents, made.restframe, made.observed))
    assert made.valid.any()
    assert cached() == [published.weights.rpartition("/")[2]]

    count = len(hub.requests)
    assert count > 0
    hub.stop()
    _, again = registry.load("desi_edr")
    assert len(hub.requests) == count
    assert torch.equal(again.encode(batch), model.encode(batch))


def test_a_published_model_of_another_hash_is_refused_and_not_kept(
    hub: Hub, published: ModelCard, content: bytes
) -> None:
    altered = content[:-1] + bytes([content[-1] ^ 1])
    hub.offer(published.weights.rpartition("/")[2], altered)
    with pytest.raises(WeightsError, match=rf"{sha256(altered)}, expected {published.sha256}"):
        registry.load("desi_edr")
    assert cached() == []


# -- downloading ----------------------------------------------------------------------------


def test_a_location_on_the_hub_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("hf:a/b/c.pt") == "https://huggingface.co/a/b/resolve/main/c.pt"
    assert resolve("hf:a/b/folder/c.pt").endswith("/a/b/resolve/main/folder/c.pt")
    assert resolve("https://example.org/c.pt") == "https://example.org/c.pt"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/")
    assert resolve("hf:a/b/c.pt") == "https://mirror.example.org/a/b/resolve/main/c.pt"


@pytest.mark.parametrize("location", ["hf:", "hf:owner", "hf:owner/repository"])
def test_a_location_that_names_no_file_is_refused_readably(location: str) -> None:
    with pytest.raises(SpenderError, match=location):
        fetch(location, "")


@pytest.mark.parametrize("known", [0, 8, 64])
def test_a_file_is_downloaded_and_checked_by_what_is_known_of_its_hash(
    hub: Hub, known: int
) -> None:
    content = b"weights" * 1000
    path = fetch(hub.offer("model.bin", content), sha256(content)[:known].upper())
    assert path.read_bytes() == content
    assert path.is_relative_to(home())
    assert cached() == ["model.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_large_file_comes_whole_with_and_without_byte_ranges(hub: Hub, ranges: bool) -> None:
    hub.ranges = ranges
    content = np.random.default_rng(1).bytes(13_000_000)
    assert fetch(hub.offer("large.bin", content), sha256(content)).read_bytes() == content


def test_a_file_in_the_cache_makes_no_request(hub: Hub) -> None:
    location = hub.offer("model.bin", b"weights")
    path = fetch(location, sha256(b"weights"))
    count = len(hub.requests)
    assert fetch(location, sha256(b"weights")) == path
    assert len(hub.requests) == count > 0


def test_a_file_in_the_cache_is_used_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    location = hub.offer("model.bin", b"weights")
    path = fetch(location, "")
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    assert fetch(location, "") == path


def test_a_file_in_the_cache_of_another_hash_is_replaced(hub: Hub) -> None:
    location = hub.offer("model.bin", b"old weights")
    fetch(location, sha256(b"old weights"))
    hub.offer("model.bin", b"new weights")
    assert fetch(location, sha256(b"new weights")).read_bytes() == b"new weights"
    assert cached() == ["model.bin"]


def test_two_files_of_one_name_do_not_meet(hub: Hub) -> None:
    first = fetch(hub.offer("model.bin", b"weights"), "")
    second = fetch(f"{hub.url}/cdn/model.bin", "")
    assert first != second
    assert first.name == second.name == "model.bin"


def test_a_url_may_have_a_query(hub: Hub) -> None:
    hub.offer("model.bin?download=true", b"weights")
    assert fetch(f"{hub.url}/cdn/model.bin?download=true", "").name == "model.bin"


def test_a_wrong_hash_is_refused_with_both_and_nothing_is_kept(hub: Hub) -> None:
    location, wrong = hub.offer("model.bin", b"other weights"), sha256(b"weights")
    with pytest.raises(WeightsError, match=rf"{sha256(b'other weights')}, expected {wrong}"):
        fetch(location, wrong)
    assert cached() == []


def test_a_file_that_the_server_does_not_have_is_named(hub: Hub) -> None:
    with pytest.raises(MissingFileError, match=r"no file http.*/resolve/main/gone\.bin"):
        fetch(f"hf:{REPOSITORY}/gone.bin", "")
    assert cached() == []


@pytest.mark.parametrize("status", [HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.TOO_MANY_REQUESTS])
def test_a_server_in_trouble_is_not_taken_for_a_missing_file(hub: Hub, status: HTTPStatus) -> None:
    location = hub.offer("model.bin", b"weights")
    hub.status = status
    with pytest.raises(OfflineError, match=str(status.value)):
        fetch(location, "")
    assert cached() == []


def test_a_connection_that_breaks_is_an_offline_error_and_nothing_is_kept(hub: Hub) -> None:
    location = hub.offer("model.bin", b"weights" * 1000)
    hub.cut = True
    with pytest.raises(OfflineError, match="cannot download"):
        fetch(location, "")
    assert cached() == []


def test_without_a_network_an_offline_error_comes_soon(hub: Hub) -> None:
    hub.stop()
    begin = time.monotonic()
    with pytest.raises(OfflineError, match=re.escape(hub.url)):
        fetch(f"hf:{REPOSITORY}/model.bin", "")
    assert time.monotonic() - begin < SOON
    assert cached() == []


@pytest.mark.parametrize("value", ["1", "true"])
def test_offline_is_obeyed_without_a_request(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    location = hub.offer("model.bin", b"weights")
    monkeypatch.setenv("SPENDER_OFFLINE", value)
    with pytest.raises(OfflineError, match="SPENDER_OFFLINE is set"):
        fetch(location, "")
    assert hub.requests == []
    assert cached() == []


@pytest.mark.parametrize("value", ["", "0"])
def test_offline_can_be_switched_off(hub: Hub, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SPENDER_OFFLINE", value)
    assert fetch(hub.offer("model.bin", b"weights"), "").read_bytes() == b"weights"


def test_a_cache_that_cannot_be_written_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("in the way")
    monkeypatch.setenv("SPENDER_HOME", str(blocker / "cache"))
    with pytest.raises(FileError, match="blocker"):
        fetch(hub.offer("model.bin", b"weights"), "")


def test_many_at_once_get_the_whole_file(hub: Hub) -> None:
    content = b"weights" * 100_000
    location, found = hub.offer("model.bin", content), []
    threads = [
        Thread(target=lambda: found.append(fetch(location, "").read_bytes())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == [content] * 4
    assert cached() == ["model.bin"]
