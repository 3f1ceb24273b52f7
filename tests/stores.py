"""A server on this machine that speaks S3, with a public bucket."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer


@contextmanager
def public_bucket(name: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve a bucket that holds these files, by key; gives the address of the server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=name, ACL="public-read")
    for key, body in files.items():
        client.put_object(Bucket=name, Key=key, Body=body, ACL="public-read")
    yield url
    server.stop()
