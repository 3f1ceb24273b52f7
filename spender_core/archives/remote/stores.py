"""Requests to object stores: to S3 through s3fs, to others through whatever fsspec knows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from spender_core.archives.location import redacted, storage_options, told
from spender_core.archives.remote.answers import (
    LARGEST,
    STEP,
    TRIES_SILENT,
    Answer,
    Found,
    Part,
    Trouble,
)
from spender_core.errors import (
    DamagedFileError,
    FileError,
    InputError,
    MissingFileError,
    SpenderError,
)

CONNECTING = 10.0
"""Seconds for a connection."""


class Buckets:
    """Object stores that speak S3, asked on one event loop.

    Args:
        asked: Called at each request.
    """

    def __init__(self, asked: Callable[[], None]) -> None:
        self._asked = asked
        self._stores: dict[Any, Any] = {}
        self._signed: set[str] = set()

    async def close(self) -> None:
        """Close all connections."""
        for store in self._stores.values():
            await store._s3creator.__aexit__(None, None, None)

    @asynccontextmanager
    async def get(self, part: Part, stall: float) -> AsyncIterator[Answer]:
        """Ask an object store: as anybody, or with the user's credentials where it is private."""
        bucket, _, key = part.url.removeprefix("s3://").partition("/")
        if "@" in bucket:
            raise InputError(
                f"{redacted(part.url)} was given with a login, which buckets do not take; set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        reply: dict[str, Any]
        if bucket in self._signed:
            reply = await self._ask(part, bucket, key, stall, signed=True)
        else:
            reply = await self._ask(part, bucket, key, stall, signed=False)
            if reply["status"] in (401, 403):
                reply = await self._ask(part, bucket, key, stall, signed=True)
                if reply["status"] in (200, 206):
                    self._signed.add(bucket)
        async with AsyncExitStack() as stack:
            body = reply.get("body")
            if body is not None:
                stack.callback(body.close)
            yield Answer(
                reply["status"],
                reply["reason"],
                {name.lower(): str(value) for name, value in reply["headers"].items()},
                _pieces(body, stall),
            )

    async def _ask(
        self, part: Part, bucket: str, key: str, stall: float, signed: bool
    ) -> dict[str, Any]:
        import botocore.exceptions as boto

        self._asked()
        wanted = {"Range": part.header} if part.header else {}
        try:
            store = await self._connected(signed, stall)
            made = asyncio.wait_for(
                store._call_s3("get_object", Bucket=bucket, Key=key, **wanted), stall + CONNECTING
            )
            reply = await made
        except Exception as error:
            cause = error if isinstance(error, boto.ClientError) else error.__cause__
            if isinstance(error, boto.NoCredentialsError):
                return {"status": 403, "reason": "no credentials", "headers": {}}
            if _is_unconnected(error):
                raise Trouble(f"no connection ({told(error)})", unconnected=True) from None
            if isinstance(error, (TimeoutError, boto.ReadTimeoutError)):
                raise Trouble(f"nothing came for {stall:.0f} s", tries=TRIES_SILENT) from None
            if isinstance(error, (boto.HTTPClientError, boto.ConnectionError)):
                raise Trouble(f"the connection was lost ({told(error)})") from None
            if not isinstance(cause, boto.ClientError):
                raise
            meta = cause.response.get("ResponseMetadata", {})
            reason = str(cause.response.get("Error", {}).get("Code", ""))
            headers = meta.get("HTTPHeaders", {})
            return {"status": meta.get("HTTPStatusCode", 0), "reason": reason, "headers": headers}
        meta = reply["ResponseMetadata"]
        found = {"status": meta["HTTPStatusCode"], "reason": "", "headers": meta["HTTPHeaders"]}
        return found | {"body": reply["Body"]}

    async def _connected(self, signed: bool, stall: float) -> Any:
        import s3fs

        settings = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
        known = (signed, stall, settings)
        if known not in self._stores:
            options = storage_options("s3://", signed)
            options["config_kwargs"] |= {
                "read_timeout": stall,
                "retries": {"max_attempts": 0},  # tried again here, where the tries are counted
                "max_pool_connections": 64,
            }
            store = s3fs.S3FileSystem(
                **options,
                asynchronous=True,
                loop=asyncio.get_running_loop(),
                skip_instance_cache=True,
                use_listings_cache=False,
            )
            store.retries = 1
            self._stores[known] = store
        await self._stores[known].set_session()
        return self._stores[known]


def _is_unconnected(error: Exception) -> bool:
    """Tell whether there was no connection at all; botocore says so of lost ones too."""
    import aiohttp
    import botocore.exceptions as boto

    if isinstance(error, boto.EndpointConnectionError):
        cause = error.kwargs.get("error")
        return isinstance(cause, aiohttp.ClientConnectorError)
    return isinstance(error, boto.ConnectTimeoutError)


async def _pieces(body: Any, stall: float) -> AsyncIterator[bytes]:
    """Yield the body of an answer."""
    import botocore.exceptions as boto

    while body is not None:
        try:
            piece = await asyncio.wait_for(body.read(16 * STEP), stall)
        except boto.ReadTimeoutError as error:
            raise TimeoutError(str(error)) from None
        except (boto.HTTPClientError, boto.IncompleteReadError) as error:
            raise ConnectionError(str(error)) from None
        if not piece:
            return
        yield piece


# -- other stores ----------------------------------------------------------------------------


def through_fsspec(part: Part) -> Found:
    """Read from whatever store fsspec knows."""
    import fsspec

    from spender_core.archives.fits.opening import is_absence

    shown = redacted(part.url)
    try:
        filesystem, path = fsspec.url_to_fs(part.url, **storage_options(part.url))
        about = filesystem.info(path)
        size = about.get("size")
        size = -1 if size is None else int(size)
        stop = size if part.stop is None else min(part.stop, size) if size >= 0 else part.stop
        if stop - (part.start or 0) > LARGEST:
            raise FileError(
                f"cannot read {shown}: at most {LARGEST / 1e6:.0f} MB are read at once; download "
                "it, and read the copy"
            )
        data = bytes(filesystem.cat_file(path, part.start, None if stop < 0 else stop))
    except SpenderError:
        raise
    except FileNotFoundError as error:
        if is_absence(error):
            raise MissingFileError(
                f"there is no file {shown}; check the path, or the root"
            ) from None
        raise Trouble(told(error)) from None
    except (ImportError, ValueError, IsADirectoryError, PermissionError) as error:
        raise FileError(f"cannot read {shown}: {told(error)}") from None
    except Exception as error:
        raise Trouble(told(error)) from None
    if size >= 0 and (part.start or 0) > size:
        raise DamagedFileError(f"{shown} is shorter than byte {part.start}, which was asked for")
    versions = (about.get(name) for name in ("ETag", "etag", "LastModified", "mtime", "created"))
    version = str(next((one for one in versions if one), ""))
    return Found(data, part.start or 0, size, version[:200])
