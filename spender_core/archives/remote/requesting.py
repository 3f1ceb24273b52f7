"""One request for a file or a part of it, over http, from S3, or through fsspec."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies

import aiohttp
from requests.utils import get_netrc_auth, should_bypass_proxies

from spender_core.archives.downloads.asking import (
    MOST_STEPS,
    PassingError,
    is_hub,
    split_login,
    token,
)
from spender_core.archives.downloads.transport import AGAIN, patience
from spender_core.archives.location import redacted, told
from spender_core.archives.remote.answers import TRIES_SILENT, Answer, Found, Part, Trouble, taken
from spender_core.archives.remote.stores import CONNECTING, Buckets, through_fsspec
from spender_core.errors import OfflineError, SpenderError

_VARIABLES = (
    *("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
    *("no_proxy", "NO_PROXY", "NETRC", "HOME"),
)

SILENCE = 30.0
"""Seconds without a byte after which a server is given up, unless SPENDER_TIMEOUT says otherwise."""


class Requester:
    """What makes requests, on one event loop.

    Args:
        asked: Called at each request.
        came: Called with the number of bytes as they come.
    """

    def __init__(self, asked: Callable[[], None], came: Callable[[int], None]) -> None:
        self._asked, self._came = asked, came
        self._session: aiohttp.ClientSession | None = None
        self._buckets = Buckets(asked)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
        await self._buckets.close()

    async def get(self, part: Part) -> Found:
        """Make one request.

        Raises:
            Trouble: It failed, and may go well the next time.
            SpenderError: It failed, and always will.
        """
        scheme = part.url.partition("://")[0]
        if scheme not in ("http", "https", "s3"):
            self._asked()
            found = await asyncio.to_thread(through_fsspec, part)
            self._came(len(found.data))
            return found
        stall = patience() if os.environ.get("SPENDER_TIMEOUT") else SILENCE
        try:
            get = self._buckets.get if scheme == "s3" else self._http
            async with get(part, stall) as answer:
                return await taken(part, answer, stall, self._came)
        except (SpenderError, PassingError):
            raise
        except Exception as error:  # of aiohttp, ssl, ...
            raise _told(error, part.url, stall) from None

    @asynccontextmanager
    async def _http(self, part: Part, stall: float) -> AsyncIterator[Answer]:
        """Ask a server, and follow wherever it leads."""
        if self._session is None:
            self._session = _session()
        wait = aiohttp.ClientTimeout(
            total=None, connect=2 * CONNECTING, sock_connect=CONNECTING, sock_read=stall
        )
        url = part.url
        for _ in range(MOST_STEPS):
            bare, login = split_login(url)
            headers = {"Accept-Encoding": "identity"}
            if part.header:
                headers["Range"] = part.header
            if login is not None:
                headers["Authorization"] = _basic(str(login.username), str(login.password))
            elif is_hub(url) and token():
                headers["Authorization"] = f"Bearer {token()}"
            proxy, known = _settings(urlsplit(url)[:2], _environment())
            if known and "Authorization" not in headers:
                headers["Authorization"] = known
            self._asked()
            async with self._session.get(
                bare, headers=headers, allow_redirects=False, timeout=wait, proxy=proxy
            ) as response:
                if response.status not in (301, 302, 303, 307, 308):
                    said = {name.lower(): value for name, value in response.headers.items()}
                    body = response.content.iter_any()
                    yield Answer(response.status, response.reason or "", said, body)
                    return
                target = response.headers.get("Location", "")
            url = following(part.url, url, target)
        raise OfflineError(
            f"cannot reach {redacted(part.url)}: it leads on more than {MOST_STEPS} times"
        )


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=1 << 20,
    )


def _basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def _environment() -> tuple[str, ...]:
    """Return what proxies and logins follow from."""
    return tuple(os.environ.get(name, "") for name in _VARIABLES)


@lru_cache(maxsize=256)
def _settings(server: tuple[str, str], environment: tuple[str, ...]) -> tuple[str | None, str]:
    """Return the proxy for a server, if any, and the login that ~/.netrc has for it, or "".

    aiohttp finds both too, with two threads a request.
    """
    scheme, host = server
    url = f"{scheme}://{host.rpartition('@')[2]}"
    proxies = {} if should_bypass_proxies(url, None) else getproxies()
    found = get_netrc_auth(url)
    login = "" if found is None else _basic(*found)
    return proxies.get(scheme) or proxies.get("all"), login


def following(start: str, url: str, target: str) -> str:
    """Return where an answer leads.

    Args:
        start: The address that was wanted.
        url: The one that gave the answer.
        target: Where the answer says it leads.

    Raises:
        OfflineError: That is nothing that may be followed.
    """
    try:
        address = urljoin(url, target)
        scheme = urlsplit(address).scheme
    except ValueError:
        scheme = address = ""
    if scheme not in ("http", "https") or not target:
        raise OfflineError(f"cannot reach {redacted(start)}: it leads to no address of http")
    if url.startswith("https:") and scheme != "https":
        raise OfflineError(
            f"cannot reach {redacted(start)}: it leads to {redacted(address)}, which is not "
            "encrypted"
        )
    return address


def _told(error: Exception, url: str, stall: float) -> Exception:
    """Return what the caller is to know of a failure; it has no cause, which may hold a secret."""
    text = told(error)
    final = (aiohttp.ClientSSLError, aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)
    if isinstance(error, (*final, ValueError)):
        return OfflineError(f"cannot reach {redacted(url)}: {text}")
    if isinstance(error, aiohttp.ClientHttpProxyError) and error.status not in AGAIN:
        return OfflineError(f"cannot reach {redacted(url)}: the proxy answered {error.status}")
    never = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    if isinstance(error, never):
        return Trouble(f"no connection ({text})", unconnected=True)
    if isinstance(error, TimeoutError):
        return Trouble(f"nothing came for {stall:.0f} s", tries=TRIES_SILENT)
    if isinstance(error, (aiohttp.ClientError, OSError)):
        return Trouble(f"the connection was lost ({text})")
    return OfflineError(f"cannot reach {redacted(url)}: {text}")
