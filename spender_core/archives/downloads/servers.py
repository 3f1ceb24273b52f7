"""Bring files to the cache from servers, object stores and folders, one after the other."""

from __future__ import annotations

import errno
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from spender_core.archives.downloads import cache, transport
from spender_core.archives.location import Wanted, redacted, storage_options, told
from spender_core.archives.writing import file_sha256, settle
from spender_core.errors import (
    FileError,
    MissingFileError,
    OfflineError,
    SpenderError,
    WeightsError,
)

_log = logging.getLogger(__name__)


def bring(wanted: Wanted, one: cache.Entry, found: cache.Lookup, hold: cache.Hold) -> Path:
    """Bring a file to its place in the cache, from the first source that has the right one.

    Args:
        wanted: The file.
        one: Its place.
        hold: The right to write there.
        found: Where it was looked for before, for the message of a failure.

    Raises:
        OfflineError: No server gives it.
        MissingFileError: No server has it.
        WeightsError: The hash differs; nothing is kept.
        FileError: The cache cannot be written.
    """
    troubles: list[SpenderError] = []
    for source in wanted.sources:
        try:
            record = _from(source, wanted, one, hold)
        except (OfflineError, MissingFileError, WeightsError) as error:
            troubles.append(error)
            _log.info("%s", error)
            continue
        try:
            # first the record: whatever happens now, the file must have this hash
            one.remember(record)
            settle(one.part, one.path)
        except OSError as error:
            transport.discard(one.part)
            raise FileError(f"cannot write {one.path}: {error}") from error
        transport.discard(one.part)
        return one.path
    causes = "; ".join(dict.fromkeys(str(error) for error in troubles))
    for kind in (WeightsError, OfflineError):
        if any(isinstance(error, kind) for error in troubles):
            if kind is OfflineError:
                raise cache.miss(wanted.name, found, causes) from troubles[0]
            raise kind(causes) from troubles[0]
    raise MissingFileError(causes) from troubles[0]


def _from(source: str, wanted: Wanted, one: cache.Entry, hold: cache.Hold) -> cache.Record:
    """Bring a file from one source to `one.part`, and check it; begin anew if resuming failed."""
    expected, pinned = cache.expected(wanted.location, wanted.sha256)
    answer = _retrieve(source, one.part, wanted.name, hold)
    sha256 = file_sha256(one.part)
    if not sha256.startswith(expected) and answer.resumed:
        transport.discard(one.part)
        answer = _retrieve(source, one.part, wanted.name, hold)
        sha256 = file_sha256(one.part)
    if not expected and not answer.whole:
        transport.discard(one.part)
        raise OfflineError(
            f"cannot download {redacted(source)}: its server does not tell how long it is, so that "
            f"half of it would not be noticed; give its hash, as {redacted(source)}#sha256=..."
        )
    if not sha256.startswith(expected):
        size = one.part.stat().st_size
        transport.discard(one.part)
        says = "the first download from there had" if pinned else "expected"
        raise WeightsError(
            f"{redacted(source)} has sha256 {sha256} ({size} bytes), {says} {expected}; it was "
            "removed. If this stays, the file on the server is not the one of the model card"
            + (f"; to accept it, `spender cache prune --forget {wanted.name}`" if pinned else "")
        )
    return cache.Record(
        location=wanted.location.shown,
        file=wanted.location.file,
        sha256=sha256,
        size=one.part.stat().st_size,
        url=redacted(source),
        revision=wanted.location.revision if source == wanted.location.url else "",
        commit=answer.commit,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _retrieve(source: str, part: Path, name: str, hold: cache.Hold) -> transport.Answer:
    hold.alive()
    if source.startswith(("http://", "https://")):
        with _progress(name) as report:
            return transport.retrieve(source, part, report, hold.alive)
    transport.discard(part)
    if source.startswith("s3://"):
        _from_store(source, part)
    else:
        _from_folder(source, part)
    return transport.Answer()


def _from_folder(source: str, part: Path) -> None:
    try:
        given = open(source, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {redacted(source)}") from error
    except OSError as error:
        raise OfflineError(f"cannot read {redacted(source)}: {error.strerror}") from error
    try:
        with given, open(part, "wb") as file:
            shutil.copyfileobj(given, file, 1 << 20)
    except OSError as error:
        transport.discard(part)
        raise FileError(f"cannot copy {redacted(source)} to {part}: {error}") from error


def _from_store(source: str, part: Path) -> None:
    """Copy a file from a bucket: as anybody, or with the user's credentials where it is private."""
    try:
        try:
            _copy(source, part, signed=False)
        except PermissionError:
            _copy(source, part, signed=True)
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {redacted(source)}") from error
    except Exception as error:  # s3fs and botocore have errors of their own
        transport.discard(part)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise FileError(f"cannot write {part}: {error}") from error
        hint = ""
        if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
            hint = (
                "; if it is private, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_PROFILE, to those of somebody who may read it"
            )
        raise OfflineError(f"cannot download {redacted(source)}: {told(error)}{hint}") from error


def _copy(source: str, part: Path, signed: bool) -> None:
    import fsspec

    filesystem, path = fsspec.url_to_fs(source, **storage_options(source, signed))
    filesystem.get_file(path, str(part))


@contextmanager
def _progress(name: str) -> Iterator[transport.Report | None]:
    """Show a progress bar, on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"downloading {name}", total=None)
        yield lambda size, total: bar.update(task, completed=size, total=total)
