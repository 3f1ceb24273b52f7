"""A server on this machine that speaks S3, with a public bucket, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import boto3

SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the parent has gone
"""


@contextmanager
def public_bucket(name: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve a bucket that holds these files, by key; gives the address of the server."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
        client.create_bucket(Bucket=name, ACL="public-read")
        for key, body in files.items():
            client.put_object(Bucket=name, Key=key, Body=body, ACL="public-read")
        try:
            yield url
        finally:
            client.close()
            process.terminate()
