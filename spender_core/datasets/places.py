"""Where a dataset is read from: a folder, or a place that fsspec can read, such as hf:// or s3://."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from spender_core.archives.fits.opening import reading
from spender_core.archives.location import (
    hub,
    is_remote,
    join,
    normal,
    redacted,
    require_network,
    storage_options,
)
from spender_core.datasets.layout import MANIFEST, parquet, parse_shard_name, shard_name
from spender_core.datasets.manifest import Manifest, Shard
from spender_core.datasets.stores import check_bucket
from spender_core.errors import FileError, InputError, MissingFileError


class Place:
    """The files of a dataset below a root, for reading.

    Buckets on s3 are read as anybody, or with the user's credentials where they are private.

    Args:
        root: A folder, or a URL: s3://, https://, hf://datasets/owner/name.

    Raises:
        InputError: There is no root.
        OfflineError: It is remote, and SPENDER_OFFLINE is set.
    """

    def __init__(self, root: str | Path) -> None:
        if not str(root):
            raise InputError("no root was given for the dataset; give a folder or a URL")
        self.root = normal(str(root)).rstrip("/") or "/"
        check_bucket(self.root)
        self.shown = redacted(self.root)
        self.remote = is_remote(self.root)
        if self.remote:
            require_network(self.root, "read the dataset from a local copy")
        self._signed = False
        self.noted: dict[str, Shard] = {}
        """Shards as the manifest has them; none without one."""

    def path(self, name: str) -> str:
        """Return the path or URL of a file."""
        return join(self.root, name)

    def shards(self) -> list[str]:
        """Return the names of the shards, in order: those of the manifest, or of the folder.

        Raises:
            InputError: `spender prepare` has not come to its end.
            FileError: There are none, one is missing, or the place cannot be read.
            OfflineError: It cannot be reached.
        """
        manifest = self._manifest()
        if manifest is not None and not manifest.complete:
            raise InputError(
                f"the dataset {self.shown} is not complete: spender prepare was stopped; run it "
                "again as before, and it goes on from there"
            )
        self.noted = {} if manifest is None else manifest.shards
        names = sorted(self.noted if manifest is not None else self._listed())
        if not names:
            raise FileError(
                f"{self.shown} holds no dataset: there is no {shard_name('train', 0)}. "
                "Make one with spender prepare"
            )
        for name in names:
            split, number = parse_shard_name(name) or ("", 0)
            if number and shard_name(split, number - 1) not in names:
                raise FileError(
                    f"the shard {redacted(self.path(shard_name(split, number - 1)))} is missing, while "
                    f"{name} is there; spender prepare rebuilds it"
                )
        return names

    def _manifest(self) -> Manifest | None:
        try:
            with self.opened(MANIFEST) as file:
                return Manifest.from_json(file.read())
        except MissingFileError:
            return None

    def _listed(self) -> list[str]:
        """Return the shards in the folder `data`."""
        if not self.remote:
            found = [path.name for path in Path(self.path("data")).glob("[!.]*")]
        elif self.root.startswith(("http:", "https:")):
            raise FileError(
                f"there is no {redacted(self.path(MANIFEST))}, and a web server does not list its files; put "
                f"{MANIFEST} beside the shards, or read a local copy"
            )
        else:
            with reading(self.path("data")):
                filesystem, path = self._filesystem(self.path("data"))
                filesystem.invalidate_cache()
                try:
                    listing = filesystem.ls(path, detail=False)
                except FileNotFoundError:
                    listing = []
            found = [entry.rstrip("/").rpartition("/")[2] for entry in listing]
        return [name for name in (f"data/{entry}" for entry in found) if parse_shard_name(name)]

    def _filesystem(self, url: str) -> tuple[Any, str]:
        # made anew each time: fsspec keeps them, and gives others to another process
        options = {"endpoint": hub()} if url.startswith("hf:") else {}
        filesystem, path = fsspec.url_to_fs(url, **storage_options(url, self._signed), **options)
        return filesystem, path

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """Open a file for reading, in bytes.

        Raises:
            MissingFileError: It does not exist.
            FileError: It cannot be read; a shard whose content is damaged is named so.
            OfflineError: Its server cannot be reached.
        """
        url = self.path(name)
        with reading(url):
            opened = self._open_remote(url) if self.remote else _open_local(url)
            with opened as file, _naming(url):
                yield file

    def _open_remote(self, url: str) -> Any:
        """Open by ranges: what is asked for at once comes in one answer, and nothing else."""
        try:
            filesystem, path = self._filesystem(url)
            file = filesystem.open(path, "rb", cache_type="none")
        except FileNotFoundError as error:
            if not url.startswith("hf:"):
                raise
            # its cause is the answer of the Hub, which `reading` would take for a failure
            raise FileNotFoundError(str(error)) from None
        except PermissionError:
            if self._signed or not url.startswith("s3:"):
                raise
            self._signed = True
            return self._open_remote(url)
        if not file.seekable():
            file.close()
            raise FileError(
                f"the server of {redacted(url)} does not send parts of files; copy the dataset"
            )
        return file


def _open_local(path: str) -> Any:
    """Map a file into memory, since a copy of it takes a fifth of the time of decoding.

    It is opened for each row group, so that a file that was cut meanwhile is told.
    """
    pa, _ = parquet()
    try:
        return pa.memory_map(path)
    except UnicodeError:
        return open(path, "rb")  # pyarrow opens no path that is not UTF-8


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Turn what shows that a file is damaged into a FileError that says what to do."""
    pa, _ = parquet()
    try:
        yield
    except (pa.ArrowException, InputError, OSError) as error:
        # what the system or a server reports has a number; what pyarrow finds in a file has none
        foreign = isinstance(error, OSError) and (type(error) is not OSError or error.errno)
        if foreign and not isinstance(error, pa.ArrowException) and type(error) is not FileError:
            raise
        raise FileError(
            f"{redacted(url)} is damaged: {' '.join(str(error).split()):.200}. "
            "spender prepare rebuilds it; or copy it again"
        ) from error
