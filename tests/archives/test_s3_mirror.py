"""A mirror in an object store, from a server on this machine that speaks S3."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import boto3
import pytest
from botocore import UNSIGNED
from botocore.client import Config
from stores import public_bucket

from spender_core.archives.downloads.fetch import fetch
from spender_core.errors import MissingFileError, OfflineError

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GONE = "https://no-such-host.invalid/model.bin"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """Address of a store with a public bucket of models."""
    with public_bucket("mirror", {"models/model.bin": CONTENT}) as url:
        yield url


@pytest.fixture(autouse=True)
def mirrored(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    monkeypatch.setenv("SPENDER_MIRRORS", "s3://mirror/models")


def test_the_store_is_public(store: str) -> None:
    client = boto3.client("s3", endpoint_url=store, config=Config(signature_version=UNSIGNED))
    assert client.get_object(Bucket="mirror", Key="models/model.bin")["Body"].read() == CONTENT


def test_a_mirror_may_be_a_bucket() -> None:
    assert fetch(GONE, SHA256).read_bytes() == CONTENT


def test_a_bucket_without_the_file_is_told() -> None:
    with pytest.raises((MissingFileError, OfflineError), match=r"s3://mirror/models/other\.bin"):
        fetch("https://no-such-host.invalid/other.bin", SHA256)


def test_a_store_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OfflineError, match=r"s3://mirror/models/model\.bin"):
        fetch(GONE, SHA256)
