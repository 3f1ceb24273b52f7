"""Ask a server for a file, wherever it leads, within a stated time."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth

from spender_core.archives.location import hub, redacted
from spender_core.errors import OfflineError

MOST_STEPS = 10
"""Addresses to which a server may lead on, one after the other."""


class PassingError(Exception):
    """A failure that may pass: what happened, how long to wait, how often to try again."""

    def __init__(self, text: str, wait: float = 0.0, tries: int = 1000) -> None:
        super().__init__(text)
        self.wait, self.tries = wait, tries


class Session(requests.Session):
    """Follows nobody by itself: requests would read what comes on the way, however long."""

    def get_redirect_target(self, response: requests.Response) -> None:  # noqa: D102
        return None


def ask(
    session: Session, url: str, headers: Mapping[str, str], stall: float
) -> tuple[requests.Response, str]:
    """Ask for a file, wherever that leads.

    Args:
        session: For connections.
        url: Its address, with user and password if need be.
        headers: What else to say. A token is added for the Hugging Face Hub, and for it alone.
        stall: Seconds of silence that are borne.

    Returns:
        The answer, whose body has not been read, and the commit of a repository on the Hub.

    Raises:
        PassingError: There is no answer.
        OfflineError: It leads too far, or to where nothing is encrypted.
    """
    commit, start = "", url
    token = os.environ.get("HF_TOKEN", "").strip()
    for _ in range(MOST_STEPS):
        login = {"Authorization": f"Bearer {token}"} if token and _is_hub(url) else {}
        response = _ask_within(session, url, {**headers, **login}, stall)
        commit = commit or _commit(response)
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


def _ask_one(
    session: Session, url: str, headers: Mapping[str, str], stall: float
) -> requests.Response:
    bare, login = _login(url)
    try:
        return session.get(
            bare,
            headers=headers,
            auth=login,
            stream=True,
            allow_redirects=False,
            timeout=(min(10.0, stall), stall),
        )
    except requests.ConnectTimeout:
        raise PassingError("the connection timed out", tries=0) from None
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError):
        raise
    except requests.Timeout:
        raise PassingError(f"no answer for {stall:.0f} s") from None
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        never = isinstance(_cause(error), urllib3.exceptions.NewConnectionError)
        raise PassingError(reason(error), tries=0 if never else 1000) from None


def _ask_within(
    session: Session, url: str, headers: Mapping[str, str], stall: float
) -> requests.Response:
    """Return the answer, or raise what went wrong, if either comes in time.

    A name server that is silent, or a header that comes byte by byte, outlasts any timeout of
    a socket.
    """
    outcome: list[requests.Response | BaseException] = []
    given_up = threading.Event()

    def run() -> None:
        try:
            response = _ask_one(session, url, headers, stall)
        except BaseException as error:
            outcome.append(error)
            return
        outcome.append(response)
        if given_up.is_set():
            response.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * stall)
    if not outcome:
        given_up.set()
        raise PassingError(f"no answer for {2 * stall:.0f} s", tries=0)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _commit(response: requests.Response) -> str:
    """Return the commit of a Hugging Face repository, if the answer tells it."""
    commit = str(response.headers.get("X-Repo-Commit", ""))
    return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else ""


def _login(url: str) -> tuple[str, HTTPBasicAuth | None]:
    """Split user and password from a URL."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, None
    host = parts.netloc.rpartition("@")[2]
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return urlunsplit(parts._replace(netloc=host)), HTTPBasicAuth(user, password)


def _is_hub(url: str) -> bool:
    return urlsplit(url)[:2] == urlsplit(hub())[:2]


def _cause(error: requests.RequestException) -> Any:
    inner = error.args[0] if error.args else None
    return getattr(inner, "reason", inner)


def reason(error: requests.RequestException) -> str:
    """Return the cause of a failure without its URL, which may hold a secret."""
    cause = _cause(error)
    text = str(error if cause is None else cause).rpartition("): ")[2]
    return re.sub(r"\S+://\S+|with url: \S+", "...", f"{type(cause or error).__name__}: {text}")
