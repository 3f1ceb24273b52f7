"""Fetch files of models into the user's cache, checked by their hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import fsspec

from spender_core.archives.opening import require_network, storage_options
from spender_core.archives.writing import file_sha256, replacing
from spender_core.errors import InputError, MissingFileError, OfflineError, WeightsError

HUB = "https://huggingface.co"


def home() -> Path:
    """Return the folder of the cache: SPENDER_HOME, or ~/.cache/spender."""
    if "SPENDER_HOME" in os.environ:
        return Path(os.environ["SPENDER_HOME"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "spender"


def resolve(location: str) -> str:
    """Return the URL of `hf:owner/repository/file`, or a URL as it is.

    HF_ENDPOINT replaces the address of the Hugging Face Hub, as for its own tools.
    """
    if not location.startswith("hf:"):
        return location
    parts = location.removeprefix("hf:").split("/", 2)
    if len(parts) < 3 or not all(parts):
        raise InputError(f"{location!r} is not of the form 'hf:owner/repository/file'")
    owner, repository, file = parts
    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    return f"{endpoint}/{owner}/{repository}/resolve/main/{file}"


def fetch(location: str, sha256: str) -> Path:
    """Return the local path of a file, downloading it if it is not in the cache.

    Args:
        location: `hf:owner/repository/file`, or a URL.
        sha256: Its hash, or the leading hex digits that are known; "" if none is.

    Raises:
        OfflineError: It is not in the cache, and SPENDER_OFFLINE is set or the server
            cannot be reached.
        MissingFileError: The server does not have it.
        WeightsError: The hash differs; nothing is kept.
        FileError: The cache cannot be written.
    """
    url = resolve(location)
    name = url.rpartition("/")[2].partition("?")[0] or "file"
    folder = home() / "models" / hashlib.sha256(location.encode()).hexdigest()[:16]
    path = folder / name
    if path.exists() and file_sha256(path).startswith(sha256.lower()):
        return path
    require_network(
        url,
        f"it is not in the cache ({path}); load it once with the network, with SPENDER_HOME on a "
        "disk that both machines share",
    )
    with replacing(path) as temporary:
        _copy(url, temporary)
        found = file_sha256(temporary)
        if not found.startswith(sha256.lower()):
            raise WeightsError(
                f"{url} has sha256 {found}, expected {sha256}; it was removed. Try again, and "
                "if this stays, the file on the server is not the one of the model card"
            )
    return path


def _copy(url: str, target: Path) -> None:
    """Copy a file with one request; fsspec.open takes every trouble for a missing file."""
    from aiohttp import ClientError, ClientTimeout

    options = storage_options(url)
    if url.startswith("http"):
        timeout = ClientTimeout(total=None, sock_connect=10, sock_read=30)
        options = {"client_kwargs": {"timeout": timeout}}
    try:
        filesystem, path = fsspec.url_to_fs(url, **options)
        filesystem.get_file(path, str(target))
    except FileNotFoundError as error:
        raise MissingFileError(f"the server has no file {url}") from error
    except (OSError, ValueError, ClientError) as error:
        raise OfflineError(f"cannot download {url}: {type(error).__name__}: {error}") from error
