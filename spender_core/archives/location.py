"""Where a file is: paths, URLs and places on the Hugging Face Hub, and how to show them.

A location is `hf:owner/repository[@revision]/file` or a URL, which may end in
`#sha256=` and the hash of the file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from spender_core.errors import InputError, OfflineError
from spender_core.records import printable

HUB = "https://huggingface.co"

_PART = re.compile(r"[A-Za-z0-9][\w.-]*")
_FILE = re.compile(r"[A-Za-z0-9_][\w .+-]*")
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s|html|head|body|\?xml)", re.IGNORECASE)
_LONGEST = 200
_SCHEMES = ("https://", "http://", "s3://")
_SECRETS = ("HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SHORTEST = 8
"""Characters that a secret has at least; a shorter one is a placeholder, and part of words."""
RESERVED = "record.json"
"""Name of a file in the cache that holds what is remembered of another."""


def join(root: str, *parts: str) -> str:
    """Join a root (folder or URL) and the parts of a path below it."""
    return "/".join([str(root).rstrip("/"), *parts])


def is_remote(url: str) -> bool:
    """Tell whether `url` names something that is not a local path."""
    return "://" in url and not url.lower().startswith("file://")


def normal(url: str) -> str:
    """Return a URL with its scheme in lower case, and a path for one of a local file."""
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return url
    if scheme.lower() == "file":
        return unquote(rest.removeprefix("localhost"))
    return f"{scheme.lower()}://{rest}"


def redacted(url: str) -> str:
    """Return a URL as it may be shown: without user, password, fragment and values of its query.

    Anything but a URL is returned as it is. One of fsspec's chains, "a::b://c", counts in its
    parts.
    """
    parts = re.split(r"::(?=[A-Za-z][\w+.-]*(?:://|::))", url)
    return "::".join(map(_redacted, parts))


def _redacted(url: str) -> str:
    if url.startswith("hf:"):
        return re.split(r"[?#]", url)[0]
    scheme, separator, _ = url.partition("://")
    if not separator:
        return url
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  refuses one that is no number, such as a stray password
    except ValueError:
        return f"{scheme}://..."
    host = parts.netloc.rpartition("@")[2]
    pairs = parts.query.split("&") if parts.query else []
    query = "&".join(f"{p.partition('=')[0]}=..." if "=" in p else "..." for p in pairs)
    return urlunsplit((parts.scheme, host, parts.path, query, ""))


def told(error: BaseException) -> str:
    """Return an error of a foreign library as it may be shown: on one line, without secrets."""
    text = re.sub(r"[\w+.-]+://\S+", lambda url: redacted(url[0]), " ".join(str(error).split()))
    for name in _SECRETS:
        secret = os.environ.get(name, "").strip()
        text = text.replace(secret, "...") if len(secret) >= _SHORTEST else text
    return printable(f"{type(error).__name__}: {text}"[:400])


def hub() -> str:
    """Return the address of the Hugging Face Hub, or of what HF_ENDPOINT puts in its place.

    Raises:
        InputError: HF_ENDPOINT is not a URL of http or https.
    """
    address = normal(os.environ.get("HF_ENDPOINT", "").strip()).rstrip("/") or HUB
    if not re.match(r"https?://[^/]", address):
        raise InputError(f"HF_ENDPOINT must begin with https://, not be {redacted(address)!r:.80}")
    return address


def is_page(start: bytes) -> bool:
    """Tell whether a file that begins like this is a web page."""
    return _PAGE.match(start) is not None


def storage_options(url: str, signed: bool = False) -> dict[str, Any]:
    """Return what fsspec needs for this URL: how long to wait, and if buckets are told who asks.

    Args:
        url: A URL.
        signed: Use the credentials for buckets that this machine has, wherever botocore finds
            them.
    """
    if url.startswith(("http:", "https:")):
        from aiohttp import ClientTimeout

        wait = ClientTimeout(total=None, sock_connect=10, sock_read=30)
        return {"client_kwargs": {"timeout": wait}}
    if url.startswith("s3:"):
        wait_s3 = {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 2}}
        return {"anon": not signed, "config_kwargs": wait_s3}
    return {}


def offline() -> bool:
    """Tell whether the environment variable SPENDER_OFFLINE is set, to anything but 0."""
    return os.environ.get("SPENDER_OFFLINE", "") not in ("", "0")


def require_network(url: str, hint: str = "read it from a local copy") -> None:
    """Refuse to touch the network where SPENDER_OFFLINE is set.

    Raises:
        OfflineError: It is set.
    """
    if offline():
        raise OfflineError(f"{redacted(url)} is remote and SPENDER_OFFLINE is set; {hint}")


def mirrors() -> list[str]:
    """Return the user's own mirrors: roots in SPENDER_MIRRORS, with commas between them."""
    roots = os.environ.get("SPENDER_MIRRORS", "").split(",")
    return [normal(root.strip()) for root in roots if root.strip()]


@dataclass(frozen=True)
class Location:
    """A file to download.

    Attributes:
        text: As it was given, less the hash.
        url: Where it is.
        file: Its name, safe to use in a folder.
        revision: Branch, tag or commit on the Hub; "" elsewhere.
        sha256: The hash given with it, or "".
    """

    text: str
    url: str
    file: str
    revision: str = ""
    sha256: str = ""

    @property
    def shown(self) -> str:
        """The location without secrets."""
        return redacted(self.text)


def parse(text: str) -> Location:
    """Read a location.

    Raises:
        InputError: It is malformed, or its file name could lead out of a folder.
    """
    bare, _, fragment = text.partition("#")
    bare = normal(bare)
    sha256 = fragment.removeprefix("sha256=").lower() if fragment.startswith("sha256=") else ""
    if fragment and not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        raise InputError(f"after {redacted(bare)}, only #sha256= and 8 to 64 hex digits may follow")
    if bare.startswith("hf:"):
        return _on_hub(bare, sha256)
    if not bare.startswith(_SCHEMES):
        raise InputError(
            f"{redacted(bare)!r:.200} is neither of the form 'hf:owner/repository/file' nor a URL "
            f"that begins with {', '.join(_SCHEMES)}"
        )
    try:
        parts = urlsplit(bare)
        name = unquote(parts.path.rpartition("/")[2])
    except ValueError:
        raise InputError(f"{redacted(bare)} is not a URL") from None
    return Location(bare, bare, _safe(name, bare), "", sha256)


def _on_hub(text: str, sha256: str) -> Location:
    parts = text.removeprefix("hf:").split("/")
    repository, _, revision = parts[1].partition("@") if len(parts) > 1 else ("", "", "")
    names = [parts[0], repository, *([revision] if "@" in "".join(parts[1:2]) else [])]
    if len(parts) < 3 or not all(_PART.fullmatch(name) for name in names):
        raise InputError(
            f"{redacted(text)!r:.200} is not of the form 'hf:owner/repository/file' or "
            "'hf:owner/repository@revision/file'"
        )
    for part in parts[2:]:
        _safe(part, text)
    revision = revision or "main"
    path = quote("/".join(parts[2:]))
    url = f"{hub()}/{parts[0]}/{repository}/resolve/{revision}/{path}"
    return Location(text, url, parts[-1], revision, sha256)


def is_file_name(name: str) -> bool:
    """Tell whether a file of the cache may have this name."""
    fits = _FILE.fullmatch(name) is not None and len(name) <= _LONGEST
    return fits and name.strip() == name and name != RESERVED


def _safe(name: str, text: str) -> str:
    if not is_file_name(name):
        shown = name.partition("?")[0][:60]
        raise InputError(
            f"{redacted(text)} names the file {shown!r}; a file name has letters, digits and "
            f"' ._+-', begins with a letter, a digit or '_', and has at most {_LONGEST} characters"
        )
    return name


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: where it is, the hash that is known, its name, other places."""

    location: Location
    sha256: str
    name: str
    mirrors: tuple[str, ...]

    @property
    def sources(self) -> list[str]:
        """URLs and paths, in the order in which they are tried."""
        own = [join(root, self.location.file) for root in mirrors()]
        return [self.location.url, *self.mirrors, *own]
