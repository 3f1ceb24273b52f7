"""What may be pushed, and pushing to a folder."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hub_server import HubServer

from spender_core import registry
from spender_core.errors import (
    FileError,
    InputError,
    MissingFileError,
    OfflineError,
    UnknownNameError,
    WeightsError,
)

Survey = Callable[..., None]
Check = Callable[[str, Path], None]

REPOSITORY = "hf:team/models"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- what is pushed --------------------------------------------------------------------------


def test_a_broken_file_is_refused_before_anything_is_sent(
    described: Path, market: HubServer, tmp_path: Path
) -> None:
    content = described.read_bytes()
    for broken in (content[:-8], content[:100], content.replace(b'latents\\"', b'latency\\"')):
        described.write_bytes(broken)
        for destination in (REPOSITORY, str(tmp_path / "shelf"), "s3://no-such-bucket/x"):
            with pytest.raises(WeightsError):
                registry.push(described, destination)
    assert market.requests == []
    assert not (tmp_path / "shelf").exists()


def test_weights_that_are_not_finite_are_refused(described: Path, tmp_path: Path) -> None:
    content = bytearray(described.read_bytes())
    content[-4:] = b"\xff\xff\xff\x7f"
    described.write_bytes(content)
    with pytest.raises(WeightsError, match="NaN"):
        registry.push(described, tmp_path / "shelf")


def test_every_instrument_of_a_joint_model_is_checked(
    described: Path, survey: Survey, tmp_path: Path
) -> None:
    survey(near="tiny_survey:Near")
    with pytest.raises(UnknownNameError, match="far"):
        registry.push(described, tmp_path / "shelf")


def test_a_pickle_is_not_pushed(
    survey: Survey, tmp_path: Path, checkpoint: Callable[..., bytes]
) -> None:
    old = tmp_path / "old.pt"
    old.write_bytes(checkpoint())
    with pytest.raises(InputError, match="spender convert"):
        registry.push(old, tmp_path / "shelf")


def test_a_file_that_is_not_there_is_told(survey: Survey, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gone\.safetensors"):
        registry.push(tmp_path / "gone.safetensors", tmp_path / "shelf")


@pytest.mark.parametrize(
    ("destination", "said"),
    [
        ("https://user:secret-word@host.invalid/x", "cannot push to"),
        ("gs://bucket/x", "allowed is a folder"),
        ("hf:team", "hf:owner/repository"),
        ("hf:team/models@main", "--revision"),
        ("hf:team/../x", "form 'hf:"),
        ("s3://", "s3://bucket/prefix"),
        ("s3://key:secret-word@bucket/x", "s3://bucket/prefix"),
        ("s3://bucket/a?b=secret-word", "s3://bucket/prefix"),
        ("", "allowed is a folder"),
    ],
)
def test_a_destination_of_no_known_form_is_refused(
    described: Path, market: HubServer, destination: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        registry.push(described, destination)
    assert "secret-word" not in str(caught.value)
    assert market.requests == []


def test_what_belongs_to_commits_is_refused_elsewhere(described: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--revision, --private goes with hf:"):
        registry.push(described, tmp_path / "shelf", revision="main", private=True)


@pytest.mark.parametrize("destination", [REPOSITORY, "s3://bucket/models"])
def test_nothing_is_sent_offline(
    described: Path, market: HubServer, monkeypatch: pytest.MonkeyPatch, destination: str
) -> None:
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    with pytest.raises(OfflineError, match="SPENDER_OFFLINE is set; push to a folder"):
        registry.push(described, destination)
    assert market.requests == []


# -- a folder --------------------------------------------------------------------------------


def test_a_folder_takes_it_and_gives_it_back(
    described: Path, tmp_path: Path, assert_loads: Check
) -> None:
    location = registry.push(described, tmp_path / "shelf" / "models")
    assert location == str(tmp_path / "shelf" / "models" / described.name)
    assert list((tmp_path / "shelf" / "models").iterdir()) == [Path(location)]
    assert Path(location).read_bytes() == described.read_bytes()
    assert_loads(location, described)


def test_a_folder_may_be_a_url_and_the_file_may_get_another_name(
    described: Path, tmp_path: Path, assert_loads: Check
) -> None:
    location = registry.push(described, f"file://{tmp_path}/shelf/mine.safetensors")
    assert location == str(tmp_path / "shelf" / "mine.safetensors")
    assert_loads(location, described)


def test_the_same_file_again_is_no_change(described: Path, tmp_path: Path) -> None:
    location = Path(registry.push(described, tmp_path / "shelf"))
    before = location.stat()
    assert registry.push(described, tmp_path / "shelf") == str(location)
    assert registry.push(location, tmp_path / "shelf") == str(location)
    assert (location.stat().st_ino, location.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


def test_another_file_is_not_overwritten(
    described: Path, other: Path, tmp_path: Path, assert_loads: Check
) -> None:
    location = Path(registry.push(described, tmp_path / "shelf"))
    with pytest.raises(FileError, match=r"is not overwritten.*give another name") as caught:
        registry.push(other, tmp_path / "shelf")
    assert sha256(described)[:16] in str(caught.value)
    assert sha256(other)[:16] in str(caught.value)
    assert location.read_bytes() == described.read_bytes()
    assert_loads(registry.push(other, tmp_path / "shelf" / "second.safetensors"), other)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(described: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir(mode=0o500)
    with pytest.raises(FileError, match="cannot write"):
        registry.push(described, shelf)
    assert not list(shelf.iterdir())


def test_a_destination_that_is_a_file_is_told(described: Path, tmp_path: Path) -> None:
    (tmp_path / "shelf").write_bytes(b"")
    with pytest.raises(FileError, match="cannot write"):
        registry.push(described, tmp_path / "shelf")


def test_a_folder_may_be_served_to_others(
    described: Path, tmp_path: Path, assert_loads: Check
) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    registry.push(described, tmp_path / "shelf")
    handler = partial(Quiet, directory=str(tmp_path / "shelf"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/{described.name}"
        assert_loads(f"{url}#sha256={sha256(described)}", described)
        server.shutdown()


def test_a_model_of_a_plugin_is_pushed_by_its_name(tmp_path: Path) -> None:
    location = registry.push("sdss_demo", tmp_path)
    assert sha256(Path(location)) == registry.info("sdss_demo").sha256
