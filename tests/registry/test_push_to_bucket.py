"""Pushing to a bucket that is private, and loading from there, on a server that speaks S3."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
import requests
import s3fs
from botocore import UNSIGNED
from botocore.client import Config
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from spender_core import registry
from spender_core.errors import FileError, InputError, MissingFileError, OfflineError

Check = Callable[[str, Path], None]

NAME, SECRET = "AKIA-abcdefgh-1234", "secret-abcdefgh-1234"
PLACE = "s3://own/models"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """Address of a store."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def credentials(store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty store, and credentials for it alone."""
    requests.post(f"{store}/moto-api/reset", timeout=10)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", NAME)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(store: str, credentials: None) -> Any:
    """A client for a store with one private bucket."""
    client = boto3.client("s3", endpoint_url=store, region_name="us-east-1")
    client.create_bucket(Bucket="own")
    return client


def keys(bucket: Any) -> set[str]:
    return {one["Key"] for one in bucket.list_objects_v2(Bucket="own").get("Contents", [])}


def strip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on as somebody without credentials."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_private_bucket_takes_it_and_gives_it_back(
    described: Path, bucket: Any, store: str, assert_loads: Check
) -> None:
    location = registry.push(described, f"{PLACE}/")
    digest = hashlib.sha256(described.read_bytes()).hexdigest()
    assert location == f"{PLACE}/{described.name}#sha256={digest}"
    assert keys(bucket) == {f"models/{described.name}"}
    nobody = boto3.client("s3", endpoint_url=store, config=Config(signature_version=UNSIGNED))
    with pytest.raises(ClientError, match=r"403|Denied"):
        nobody.get_object(Bucket="own", Key=f"models/{described.name}")
    assert_loads(location, described)


def test_a_private_bucket_is_closed_to_others(
    described: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = registry.push(described, PLACE)
    strip(monkeypatch)
    with pytest.raises(OfflineError, match="if it is private, set AWS_ACCESS_KEY_ID"):
        registry.load(location)


def test_a_public_object_needs_no_credentials(
    described: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch, assert_loads: Check
) -> None:
    location = registry.push(described, PLACE)
    bucket.put_object_acl(Bucket="own", Key=f"models/{described.name}", ACL="public-read")
    strip(monkeypatch)
    assert_loads(location, described)


def test_what_is_there_keeps_its_content(
    described: Path, other: Path, bucket: Any, assert_loads: Check
) -> None:
    location = registry.push(described, PLACE)
    before = bucket.head_object(Bucket="own", Key=f"models/{described.name}")
    assert registry.push(described, PLACE) == location
    with pytest.raises(FileError, match=r"is not overwritten.*s3://own/models/NAME"):
        registry.push(other, PLACE)
    after = bucket.head_object(Bucket="own", Key=f"models/{described.name}")
    assert (after["ETag"], after["LastModified"]) == (before["ETag"], before["LastModified"])
    assert_loads(registry.push(other, f"{PLACE}/second.safetensors"), other)
    assert_loads(location, described)


def test_credentials_are_needed(
    described: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    strip(monkeypatch)
    with pytest.raises(InputError, match="no credentials to write s3://own/models/small"):
        registry.push(described, PLACE)
    assert not keys(bucket)


def test_who_may_not_write_is_told(described: Path, bucket: Any, store: str) -> None:
    requests.post(f"{store}/moto-api/reset-auth", data=b"0", timeout=10)
    with pytest.raises(FileError, match="must be of somebody who may read and write") as caught:
        registry.push(described, PLACE)
    requests.post(f"{store}/moto-api/reset-auth", data=b"1000000", timeout=10)
    assert NAME not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert not keys(bucket)


def test_a_bucket_that_is_not_there_is_told(described: Path, bucket: Any) -> None:
    with pytest.raises(MissingFileError, match="no such bucket"):
        registry.push(described, "s3://elsewhere/models")


def test_a_store_that_is_not_there_is_told(
    described: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OfflineError, match=r"cannot write s3://own/models/small.*push again"):
        registry.push(described, PLACE)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", b""])
def test_a_store_that_fails_midway_is_told(
    described: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    class Failing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # and so it lets a client begin with the body

        def do_HEAD(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            body = b'<?xml version="1.0"?><ListBucketResult></ListBucketResult>'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            self.rfile.read(100)
            self.wfile.write(answer)
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("SPENDER_TIMEOUT", "2")  # aiohttp 3.14.0 misses lost connections
        with pytest.raises(OfflineError, match=r"whole or not at all; push again") as caught:
            registry.push(described, PLACE)
        server.shutdown()
    assert SECRET not in str(caught.value)
