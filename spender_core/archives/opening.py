"""Open files on disk, over https or on s3, with errors a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from astropy.io import fits

from spender_core.errors import FileError, MissingFileError


def join(root: str, *parts: str) -> str:
    """Join a root (folder or URL) and the parts of a path below it."""
    return "/".join([str(root).rstrip("/"), *parts])


def is_remote(url: str) -> bool:
    """Tell whether `url` names something that is not a local path."""
    return "://" in url and not url.startswith("file://")


def exists(url: str) -> bool:
    """Tell whether a file exists, on disk or remotely."""
    try:
        filesystem, path = fsspec.url_to_fs(url, **storage_options(url))
        return bool(filesystem.exists(path))
    except OSError as error:
        raise FileError(f"cannot reach {url}: {error}") from error


def storage_options(url: str) -> dict[str, Any]:
    """Return what fsspec needs for this URL: public buckets are read without credentials."""
    return {"anon": True} if url.startswith("s3://") else {}


@contextmanager
def open_fits(url: str) -> Iterator[fits.HDUList]:
    """Open a FITS file by path or URL.

    Raises:
        MissingFileError: The file does not exist.
        FileError: The file cannot be read, or is not FITS.
    """
    try:
        with (
            fsspec.open(url, "rb", **storage_options(url)) as file,
            fits.open(file, memmap=False, lazy_load_hdus=True) as hdus,
        ):
            yield hdus
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {url}; check the path, or the root") from error
    except FileError:
        raise
    except (OSError, fits.VerifyError) as error:
        raise FileError(
            f"cannot read {url} as FITS: {error}. If it was downloaded, remove it and try again"
        ) from error


def parent_and_name(url: str) -> tuple[str, str]:
    """Split a path or URL into its folder and the file's name."""
    folder, slash, name = url.rpartition("/")
    return (folder + slash if slash else "", name)


def local_path(url: str) -> Path:
    """Return a local path for a path or file:// URL."""
    return Path(url.removeprefix("file://"))
