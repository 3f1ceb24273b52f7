"""Ask a server for a file, wherever it leads, and take what it sends within a stated time."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth

from spender_core.archives.location import hub, redacted
from spender_core.errors import InputError, OfflineError, SpenderError
from spender_core.records import printable

MOST_STEPS = 10
"""Addresses to which a server may lead on, one after the other."""

PIECE = 1 << 16
"""Bytes of a body that are taken together."""

_HELD = 64
_END = b""


class PassingError(Exception):
    """A failure that may pass: what happened, how long to wait, how often to try again."""

    def __init__(self, text: str, wait: float = 0.0, tries: int = 1000) -> None:
        super().__init__(text)
        self.wait, self.tries = wait, tries


class Session(requests.Session):
    """Follows nobody by itself: requests would read what comes on the way, however long."""

    def get_redirect_target(self, response: requests.Response) -> None:  # noqa: D102
        return None


@dataclass(frozen=True)
class Reply:
    """The head of an answer, and the commit of a repository on the Hugging Face Hub."""

    status: int
    reason: str
    headers: Mapping[str, str]
    commit: str


class Conversation:
    """One request, made by a thread of its own, and what comes of it.

    A name server that is silent, or an answer that comes byte by byte, outlasts any timeout of
    a socket; here it is the caller who stops waiting.

    Args:
        session: For connections.
        url: Its address, with user and password if need be.
        headers: What else to say. A token is added for the Hub, and for it alone.
        stall: Seconds of silence that are borne.
    """

    def __init__(
        self, session: Session, url: str, headers: Mapping[str, str], stall: float
    ) -> None:
        self._stall = stall
        self._items: Queue[Reply | bytes | BaseException] = Queue(_HELD)
        self._left = threading.Event()
        arguments = (session, url, headers, token())
        threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def reply(self) -> Reply:
        """Return the head of the answer.

        Raises:
            PassingError: There is none.
            OfflineError: The address leads too far, or to where nothing is encrypted.
        """
        found = self._next(2 * self._stall, f"no answer for {2 * self._stall:.0f} s")
        assert isinstance(found, Reply)
        return found

    def body(self) -> Iterator[bytes]:
        """Yield the body as it comes.

        Raises:
            PassingError: The connection was lost, or nothing came in time.
        """
        text = f"nothing came for {self._stall:.0f} s"
        while (piece := self._next(1.5 * self._stall, text)) != _END:
            assert isinstance(piece, bytes)
            yield piece

    def close(self) -> None:
        """Wait no longer."""
        self._left.set()

    def _next(self, seconds: float, otherwise: str) -> Reply | bytes:
        try:
            found = self._items.get(timeout=seconds)
        except Empty:
            self.close()
            raise PassingError(otherwise) from None
        if isinstance(found, BaseException):
            raise found
        return found

    def _put(self, item: Reply | bytes | BaseException) -> bool:
        """Hand something to the caller, as soon as there is room; tell if the caller is there."""
        while not self._left.is_set():
            try:
                self._items.put(item, timeout=0.2)
                return True
            except Full:
                continue
        return False

    def _run(self, session: Session, url: str, headers: Mapping[str, str], token: str) -> None:
        try:
            response, commit = _follow(session, url, headers, token, self._stall)
            with response:
                reply = Reply(response.status_code, response.reason or "", response.headers, commit)
                if self._put(reply):
                    while self._put(piece := response.raw.read1(PIECE)) and piece:
                        pass
        except BaseException as error:
            self._put(_told(error, url, self._stall))


def _told(error: BaseException, url: str, stall: float) -> BaseException:
    """Return what the caller is to know of a failure; it has no cause, which may hold a secret."""
    if isinstance(error, SpenderError | PassingError):
        return error
    late = (requests.Timeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)
    if isinstance(error, requests.ConnectTimeout):
        return PassingError("the connection timed out", tries=0)
    if isinstance(error, late):
        return PassingError(f"nothing came for {stall:.0f} s")
    final = (requests.exceptions.SSLError, requests.exceptions.ProxyError)
    if isinstance(error, final):
        return OfflineError(f"cannot download {redacted(url)}: {_reason(error)}")
    lost = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
    if isinstance(error, lost):
        never = isinstance(_cause(error), urllib3.exceptions.NewConnectionError)
        return PassingError(_reason(error), tries=0 if never else 1000)
    if isinstance(error, urllib3.exceptions.ProtocolError | ConnectionError):
        return PassingError("the connection was lost")
    # what a server says, or a setting, can be nonsense in many ways: ValueError, OSError, ...
    return OfflineError(f"cannot download {redacted(url)}: {_reason(error)}")


def _follow(
    session: Session, url: str, headers: Mapping[str, str], token: str, stall: float
) -> tuple[requests.Response, str]:
    """Return the answer, wherever the address leads, and the commit that was told on the way."""
    commit, start = "", url
    for _ in range(MOST_STEPS):
        bare, login = split_login(url)
        told = {"Authorization": f"Bearer {token}"} if token and is_hub(url) else {}
        response = session.get(
            bare,
            headers={**headers, **told},
            auth=login,
            stream=True,
            allow_redirects=False,
            timeout=(min(10.0, stall), stall),
        )
        said = str(response.headers.get("X-Repo-Commit", ""))
        commit = commit or (said if re.fullmatch(r"[0-9a-f]{40}", said) else "")
        target = requests.Session.get_redirect_target(session, response)
        if target is None:
            return response, commit
        response.close()  # whatever its body may be
        following = urljoin(url, target)
        if url.startswith("https:") and not following.startswith("https:"):
            raise OfflineError(
                f"cannot download {redacted(start)}: it leads to {redacted(following)}, which is "
                "not encrypted"
            )
        url = following
    raise OfflineError(
        f"cannot download {redacted(start)}: it leads on more than {MOST_STEPS} times"
    )


def token() -> str:
    """Return the user's token for the Hub; "" if there is none.

    Raises:
        InputError: HF_TOKEN cannot be one.
    """
    given = os.environ.get("HF_TOKEN", "").strip()
    if not re.fullmatch(r"[!-~]*", given):
        raise InputError("HF_TOKEN has characters that no token has; copy it again")
    return given


def split_login(url: str) -> tuple[str, HTTPBasicAuth | None]:
    """Split user and password from a URL."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, None
    host = parts.netloc.rpartition("@")[2]
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return urlunsplit(parts._replace(netloc=host)), HTTPBasicAuth(user, password)


def is_hub(url: str) -> bool:
    """Tell whether a URL is on the Hugging Face Hub, which alone is told the user's token."""
    return urlsplit(url)[:2] == urlsplit(hub())[:2]


def _cause(error: BaseException) -> Any:
    inner = error.args[0] if error.args else None
    return getattr(inner, "reason", inner)


def _reason(error: BaseException) -> str:
    """Return the cause of a failure without its URL, which may hold a secret."""
    cause = _cause(error)
    text = str(error if cause is None else cause).rpartition("): ")[2]
    text = re.sub(r"\S+://\S+|with url: \S+", "...", text)
    kind = type(cause) if isinstance(cause, Exception) else type(error)
    return printable(f"{kind.__name__}: {text}"[:300])
