"""Where a dataset is written: a folder, or a place that fsspec can write to, such as s3://."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock, Timeout

from spender_core.archives.location import (
    is_remote,
    join,
    normal,
    redacted,
    require_network,
    storage_options,
    told,
)
from spender_core.archives.writing import file_sha256, replacing
from spender_core.errors import FileError, InputError, SpenderError

_LOCK = ".lock"
_PIECE = 1 << 22
_READ_ONLY = ("http://", "https://")


def check_bucket(root: str) -> None:
    """Refuse credentials in the URL of a bucket, which nothing reads, and errors would show.

    Raises:
        InputError: It has some.
    """
    if root.startswith(("s3:", "gs:", "gcs:")) and "@" in root.split("/", 3)[2]:
        raise InputError(
            f"{redacted(root)} was given with credentials in its URL; give it without, and put them "
            "where its library looks, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


class Store:
    """Files below a root, each written whole or not at all.

    Args:
        root: A folder, or a URL that fsspec can write to; credentials are those of its own
            configuration, e.g. the usual ones of AWS for s3://.

    Raises:
        InputError: Nothing can be written there.
    """

    def __init__(self, root: str | Path) -> None:
        if not str(root):
            raise InputError("no root was given for the dataset; give a folder or a URL")
        self.root = normal(str(root)).rstrip("/") or "/"
        self.shown = redacted(self.root)
        self.remote = is_remote(self.root)
        self._fs: Any = None
        check_bucket(self.root)
        if self.root.startswith(_READ_ONLY):
            raise InputError(
                f"{self.shown} cannot be written to; give a folder, or a URL such as s3://"
            )
        if self.remote:
            require_network(self.root, "write to a folder")
            with self._explained("reach", ""):
                self._fs, _ = fsspec.url_to_fs(self.root, **storage_options(self.root, signed=True))

    def path(self, name: str) -> str:
        """Return the path or URL of a file."""
        return join(self.root, name)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes from writing to the same folder; object stores have no such lock.

        Raises:
            InputError: Another process is writing.
            FileError: The folder cannot be written.
        """
        if self.remote:
            yield
            return
        with self._explained("write", ""):
            Path(self.root).mkdir(parents=True, exist_ok=True)
            lock = FileLock(Path(self.root) / _LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise InputError(
                    f"another process is writing the dataset {self.shown}; wait for its end"
                ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Give a temporary file that takes the place of a file if all goes well.

        Raises:
            FileError: It cannot be written.
        """
        if not self.remote:
            with replacing(self.path(name)) as temporary:
                yield temporary
            return
        with (
            self._explained("write", name),
            tempfile.TemporaryDirectory(prefix="spender-") as folder,
        ):
            temporary = Path(folder) / Path(name).name
            yield temporary
            try:
                self._fs.put_file(str(temporary), self.path(name))
            except FileNotFoundError as error:  # there is no such bucket
                raise FileError(
                    f"cannot write {redacted(self.path(name))}: {told(error)}"
                ) from None

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None if there is none."""
        try:
            if not self.remote:
                return Path(self.path(name)).stat().st_size
            self._fs.invalidate_cache()
            with self._explained("read", name):
                return int(self._fs.info(self.path(name))["size"])
        except FileNotFoundError:
            return None

    def sha256(self, name: str) -> str:
        """Return the hash of a file, read in full.

        Raises:
            FileError: It cannot be read.
        """
        with self._explained("read", name):
            if not self.remote:
                return file_sha256(self.path(name))
            digest = hashlib.sha256()
            with self._fs.open(self.path(name), "rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
            return digest.hexdigest()

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Open a file for reading, in bytes.

        Raises:
            FileError: It cannot be read.
        """
        with self._explained("read", name):
            if self.remote:
                self._fs.invalidate_cache()
            reader = self._fs.open if self.remote else open
            with reader(self.path(name), "rb") as file:
                yield file

    def names(self) -> list[str]:
        """Return the names of the files in the folder `data`, in order."""
        if not self.remote:
            return sorted(f"data/{path.name}" for path in Path(self.path("data")).glob("[!.]*"))
        self._fs.invalidate_cache()
        try:
            with self._explained("list", "data"):
                found = self._fs.ls(self.path("data"), detail=False)
        except FileNotFoundError:
            return []
        return sorted(f"data/{path.rpartition('/')[2]}" for path in found)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            FileError: It cannot be.
        """
        try:
            with self._explained("remove", name):
                if self.remote:
                    self._fs.rm_file(self.path(name))
                else:
                    Path(self.path(name)).unlink()
        except FileNotFoundError:
            return

    @contextmanager
    def _explained(self, verb: str, name: str) -> Iterator[None]:
        """Turn what goes wrong into a FileError that names the file; leave absence as it is."""
        try:
            yield
        except (SpenderError, FileNotFoundError):
            raise
        except Exception as error:
            module = type(error).__module__.partition(".")[0]
            if not isinstance(error, (OSError, ValueError, ImportError)) and (
                module not in ("botocore", "aiobotocore", "aiohttp", "huggingface_hub", "httpx")
            ):
                raise
            where = redacted(self.path(name)) if name else self.shown
            cause = told(error) if self.remote else error or type(error).__name__
            # the cause of a remote error may show what its URL has of secrets
            raise FileError(f"cannot {verb} {where}: {cause}") from (
                None if self.shown != self.root else error
            )
