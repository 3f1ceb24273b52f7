"""Open files on disk, over https or on s3, with errors a person can act on."""

from __future__ import annotations

import gzip
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning

from spender_core.archives.claims import check
from spender_core.archives.location import (
    is_page,
    is_remote,
    normal,
    redacted,
    require_network,
    storage_options,
)
from spender_core.errors import (
    DamagedFileError,
    FileError,
    InputError,
    MissingFileError,
    OfflineError,
    SpenderError,
)

EXPANSION = 16
"""Bytes that a byte of a gzipped file may become; those of real spectra become 1.3 to 9."""

LARGEST_STREAM = 4 << 30
"""Bytes that are taken from a server which does not say how many there are."""

_BLOCK = 4 << 20
_IN_MEMORY = 8 << 20
_TRANSPORT = ("aiohttp", "aiobotocore", "botocore", "s3fs", "httpx", "httpx2", "huggingface_hub")
"""Packages whose errors mean that a server could not be reached."""

_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")
_COMPRESSED = {b"BZh": "bzip2", b"PK\x03\x04": "zip", b"\xfd7zXZ": "xz", b"\x1f\x9d": "compress"}


@contextmanager
def open_fits(url: str, contents: bool = True) -> Iterator[fits.HDUList]:
    """Open a FITS file by path or URL, gzipped or not.

    What its headers claim is checked against its size first, so that reading any of it takes
    no more memory than the file is large, for each array that is read.

    Args:
        url: Its path or URL.
        contents: Check compressed images and arrays of variable length too. Needed unless
            only headers and plain tables are read.

    Raises:
        MissingFileError: The file does not exist.
        FileError: The file cannot be read, or is not FITS; or whoever reads it here fails.
        OfflineError: It is remote, and its server cannot be reached, or SPENDER_OFFLINE is set.
    """
    with reading(url), _strict(), _source(url) as given, _plain(given) as file:
        check(cast(BinaryIO, file), file.size, contents)
        file.seek(0)
        with fits.open(file, memmap=False, lazy_load_hdus=True) as hdus:
            yield hdus


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a SpenderError that names it.

    No message shows the secrets of a URL: user, password and the values of its query.

    Raises:
        MissingFileError: The file does not exist.
        FileError: Reading it failed.
        OfflineError: Its server could not be reached.
    """
    try:
        yield
    except DamagedFileError as error:
        raise _explained(error, url) from None
    except InputError as error:
        raise _explained(DamagedFileError(str(error)), url) from error
    except SpenderError as error:
        if redacted(url) != url:
            error.args = tuple(_clean(arg, url) for arg in error.args)
            error.__cause__, error.__suppress_context__ = None, True
        raise
    except Exception as error:
        made = _explained(error, url)
        raise made from (error if redacted(url) == url else None)


def _explained(error: Exception, url: str) -> SpenderError:
    shown = redacted(url)
    if isinstance(error, FileNotFoundError):
        if is_remote(url) and not is_absence(error):
            cause = _clean(str(error.__cause__), url)
            return OfflineError(f"cannot reach {shown}: {cause}; try again later")
        return MissingFileError(f"there is no file {shown}; check the path, or the root")
    cause = _clean(str(error), url) or type(error).__name__
    if type(error).__module__.partition(".")[0] in _TRANSPORT:
        return OfflineError(f"cannot reach {shown}: {cause}; try again later")
    if is_remote(url) and isinstance(error, TimeoutError):
        return OfflineError(f"cannot reach {shown}: no answer in time; try again later")
    if not isinstance(error, (OSError, fits.VerifyError, AstropyUserWarning)):
        cause = f"it seems damaged ({type(error).__name__}: {cause})"
    return FileError(f"cannot read {shown}: {cause}. If it was downloaded, remove it and try again")


def _clean(text: Any, url: str) -> Any:
    """Return a text with the secrets of all URLs in it left out."""
    if not isinstance(text, str):
        return text
    text = text.replace(url, redacted(url))
    return _URL.sub(lambda found: redacted(found[0]), text)


def is_absence(error: FileNotFoundError) -> bool:
    """Tell whether a server said that a file is absent; fsspec takes any failure for that."""
    if error.__cause__ is None:
        return True
    return getattr(error.__cause__, "status", None) in (404, 410)


class _Window:
    """A file of known size, of which no more is asked than there is, and which stays open."""

    mode = "rb"

    def __init__(self, file: Any, size: int, remote: bool = False) -> None:
        self._file, self.size, self.remote = file, size, remote

    def read(self, count: int = -1) -> bytes:
        left = max(self.size - self.tell(), 0)
        return bytes(self._file.read(left if count is None or count < 0 else min(count, left)))

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            place, whence = self.size + place, os.SEEK_SET
        return int(self._file.seek(place, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        """Stay open: whoever opened the file closes it."""


@contextmanager
def _source(url: str) -> Iterator[_Window]:
    """Open a file as it is, in bytes."""
    url = normal(url)
    if is_remote(url):
        require_network(url)
        filesystem, path = fsspec.url_to_fs(url, **storage_options(url))
        with filesystem.open(path, "rb", **_access(filesystem, path)) as file:
            if getattr(file, "size", None) is not None and file.seekable():
                yield _Window(file, file.size, remote=True)
            else:
                with _copied(file, LARGEST_STREAM, "has no end") as copy:
                    yield _Window(copy._file, copy.size, remote=True)
        return
    path = url
    kind = Path(path).stat().st_mode
    if stat.S_ISDIR(kind):
        raise FileError(f"{path} is a folder, not a file; give the files in it")
    if not stat.S_ISREG(kind):
        raise FileError(f"{path} is no regular file, so that it may have no end; make a copy")
    with open(path, "rb") as local:
        yield _Window(local, os.fstat(local.fileno()).st_size)


@contextmanager
def _plain(given: _Window) -> Iterator[_Window]:
    """Give a FITS file as it is, or decompressed; refuse what is something else."""
    start = given.read(512)
    given.seek(0)
    if not start:
        raise DamagedFileError("it is empty")
    if is_page(start) and given.remote:
        raise DamagedFileError(
            "the server sent a web page instead of a FITS file: it may ask for a login, or the "
            "address may be wrong; open it in a browser"
        )
    if is_page(start):
        raise DamagedFileError("it is a web page that was saved in place of a FITS file")
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise DamagedFileError(f"it is compressed with {name}; decompress it first")
    if not start.startswith(b"\x1f\x8b"):
        yield given
        return
    most = EXPANSION * given.size + (1 << 16)
    excess = f"expands to more than {EXPANSION} times its size; decompress it first"
    with gzip.GzipFile(fileobj=cast(BinaryIO, given)) as file, _copied(file, most, excess) as copy:
        yield copy


@contextmanager
def _copied(file: Any, most: int, excess: str) -> Iterator[_Window]:
    """Copy a stream to a temporary file, as far as it is not too long."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as copy:
        size = 0
        while part := file.read(1 << 18):
            size += len(part)
            if size > most:
                raise DamagedFileError(f"it {excess}")
            copy.write(part)
        copy.seek(0)
        yield _Window(copy, size)


def _access(filesystem: Any, path: str) -> dict[str, Any]:
    """Return how a file is read: by blocks, each once, or as one stream if need be."""
    blocks = {"cache_type": "blockcache", "block_size": _BLOCK}
    if "http" not in filesystem.protocol:
        return blocks if "s3" in filesystem.protocol else {}
    info = filesystem.info(path)
    return blocks | {"size": info["size"]} if info.get("partial") else {"block_size": 0}


@contextmanager
def _strict() -> Iterator[None]:
    """Let astropy raise where it would warn that a file is truncated or damaged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "File may have been truncated", AstropyUserWarning)
        warnings.filterwarnings("error", "(?s).*Error validating header", VerifyWarning)
        yield


def beside(url: str, start: str, other: str) -> str | None:
    """Return the path or URL of the file in the same folder whose name begins differently.

    None if the name of the file does not begin with `start`.
    """
    path, mark, query = url.partition("?") if is_remote(url) else (url, "", "")
    folder, slash, name = path.rpartition("/")
    if not name.startswith(start):
        return None
    return f"{folder}{slash}{other}{name.removeprefix(start)}{mark}{query}"
