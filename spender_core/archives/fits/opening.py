"""Open files on disk, over https or on s3, with errors a person can act on."""

from __future__ import annotations

import gzip
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, cast

from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning

from spender_core.archives.fits.claims import check
from spender_core.archives.location import (
    is_page,
    is_remote,
    redacted,
)
from spender_core.archives.remote.bytefile import ByteFile, Range, Reader, check_range
from spender_core.archives.remote.files import forget, open_bytes
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
    with reading(url), _strict(), open_bytes(url) as given, plain(given) as content:
        file = content.as_file()
        check(cast(BinaryIO, file), file.size, contents)
        file.seek(0)
        with fits.open(file, memmap=False, lazy_load_hdus=True) as hdus:
            yield hdus


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a SpenderError that names it.

    No message shows the secrets of a URL: user, password and the values of its query. What the
    cache has of a damaged file is removed.

    Raises:
        MissingFileError: The file does not exist.
        FileError: Reading it failed.
        OfflineError: Its server could not be reached.
    """
    try:
        yield
    except DamagedFileError as error:
        forget(url)
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


@contextmanager
def plain(given: ByteFile) -> Iterator[ByteFile]:
    """Give a FITS file as it is, or decompressed.

    Raises:
        DamagedFileError: It is something else, or becomes too long.
    """
    start = given.read_at(0, min(given.size, 512))
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
    packed = cast(BinaryIO, given.as_file())
    with gzip.GzipFile(fileobj=packed) as file, _copied(file, given.url, most, excess) as copy:
        yield copy


@contextmanager
def _copied(file: Any, url: str, most: int, excess: str) -> Iterator[_Copy]:
    """Copy a stream to a temporary file, as far as it is not too long."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as copy:
        size = 0
        while part := file.read(1 << 18):
            size += len(part)
            if size > most:
                raise DamagedFileError(f"it {excess}")
            copy.write(part)
        yield _Copy(url, copy, size)


class _Copy:
    """A temporary file, in memory or on disk."""

    remote = False

    def __init__(self, url: str, file: IO[bytes], size: int) -> None:
        self.url, self.size = url, size
        self._file, self._lock = file, threading.Lock()

    def read_at(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`; see `ByteFile`."""
        check_range(start, stop, self.size)
        with self._lock:
            self._file.seek(start)
            return self._file.read(stop - start)

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return several parts; see `ByteFile`."""
        return [self.read_at(start, stop) for start, stop in ranges]

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """Do nothing: it is all there."""

    def as_file(self) -> Reader:
        """Return it as a file with a position."""
        return Reader(self)

    def close(self) -> None:
        """Do nothing: whoever made it closes it."""


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
