"""Open files on disk, over https or on s3, with errors a person can act on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning

from spender_core.errors import FileError, MissingFileError, OfflineError

_TRANSPORT = ("aiohttp", "aiobotocore", "botocore", "s3fs")
"""Packages whose errors mean that a server could not be reached."""


def join(root: str, *parts: str) -> str:
    """Join a root (folder or URL) and the parts of a path below it."""
    return "/".join([str(root).rstrip("/"), *parts])


def is_remote(url: str) -> bool:
    """Tell whether `url` names something that is not a local path."""
    return "://" in url and not url.startswith("file://")


def require_network(url: str, hint: str = "read it from a local copy") -> None:
    """Refuse to touch the network where the environment variable SPENDER_OFFLINE is set.

    Raises:
        OfflineError: It is set, to anything but 0.
    """
    if os.environ.get("SPENDER_OFFLINE", "") not in ("", "0"):
        raise OfflineError(f"{url} is remote and SPENDER_OFFLINE is set; {hint}")


def storage_options(url: str) -> dict[str, Any]:
    """Return what fsspec needs for this URL: public buckets are read without credentials."""
    return {"anon": True} if url.startswith("s3://") else {}


@contextmanager
def open_fits(url: str) -> Iterator[fits.HDUList]:
    """Open a FITS file by path or URL.

    Raises:
        MissingFileError: The file does not exist.
        FileError: The file cannot be read, or is not FITS.
        OfflineError: It is remote, and its server cannot be reached, or SPENDER_OFFLINE is set.
    """
    if is_remote(url):
        require_network(url)
    try:
        with (
            _strict(),
            fsspec.open(url, "rb", **storage_options(url)) as file,
            fits.open(file, memmap=False, lazy_load_hdus=True) as hdus,
        ):
            yield hdus
    except FileNotFoundError as error:
        if is_remote(url) and not is_absence(error):
            raise OfflineError(f"cannot reach {url}: {error.__cause__}; try again later") from error
        raise MissingFileError(f"there is no file {url}; check the path, or the root") from error
    except FileError:
        raise
    except (OSError, fits.VerifyError, AstropyUserWarning) as error:
        raise FileError(
            f"cannot read {url} as FITS: {error}. If it was downloaded, remove it and try again"
        ) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _TRANSPORT:
            raise  # of whoever reads the file
        raise OfflineError(f"cannot reach {url}: {error}; try again later") from error


def is_absence(error: FileNotFoundError) -> bool:
    """Tell whether a server said that a file is absent; fsspec takes any failure for that."""
    if error.__cause__ is None:
        return True
    return getattr(error.__cause__, "status", None) in (404, 410)


@contextmanager
def _strict() -> Iterator[None]:
    """Let astropy raise where it would warn that a file is truncated or damaged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "File may have been truncated", AstropyUserWarning)
        warnings.filterwarnings("error", "(?s).*Error validating header", VerifyWarning)
        yield


def parent_and_name(url: str) -> tuple[str, str]:
    """Split a path or URL into its folder and the file's name."""
    folder, slash, name = url.rpartition("/")
    return (folder + slash if slash else "", name)
