"""Put a weights file where others can load it: in a folder, a bucket, or a Hub repository.

What is there under a name keeps its content: the same file again is no change, another one
is refused. On the Hub a branch that is named takes a new commit, beside which the old file stays.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spender_core.archives.downloads.transport import patience
from spender_core.archives.location import (
    is_file_name,
    join,
    normal,
    parse,
    redacted,
    require_network,
    storage_options,
    told,
)
from spender_core.archives.writing import file_sha256, replacing
from spender_core.errors import FileError, InputError, MissingFileError, OfflineError, SpenderError
from spender_core.records import ModelCard

SUFFIX = ".safetensors"

_FORMS = f"a folder, s3://bucket/prefix, or hf:owner/repository; a name in {SUFFIX} may follow"


@dataclass(frozen=True)
class Upload:
    """A file that was checked.

    Attributes:
        path: Where it is.
        sha256: Its hash, 64 hex digits.
        page: Makes the text that describes it on the Hub, from the location it gets there.
        summary: What the commit is called, unless the user says.
    """

    path: Path
    sha256: str
    page: Callable[[str], str]
    summary: str


@dataclass(frozen=True)
class Change:
    """What a user may say about a commit on the Hub.

    Attributes:
        branch: The branch; None for main, as long as that loses nothing.
        message: What the commit is called.
        private: Whether a repository that is made for it is private.
    """

    branch: str | None = None
    message: str = ""
    private: bool = False


def checked(
    path: Path, load: Callable[..., tuple[Any, Any]], page: Callable[[ModelCard, str], str]
) -> Upload:
    """Return a file as one that may be published, if it loads for each of its instruments.

    Args:
        path: The file.
        load: Loads it, as `registry.load`, and says what is wrong with it.
        page: Describes a model by its card and its location.

    Raises:
        InputError: It is a .pt file of spender.
        WeightsError: It is broken, or any other error of `load`.
    """
    if path.suffix != SUFFIX:
        raise InputError(
            f"{path} is not a {SUFFIX} file; `spender convert` makes one from a .pt file of spender"
        )
    try:
        sha256 = file_sha256(path)
    except SpenderError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    card: ModelCard = load(path)[1].card
    for other in card.instruments[1:]:
        load(path, other.name)
    return Upload(path, sha256, lambda location: page(card, location), f"Add {card.name}")


def publish(upload: Upload, destination: str, change: Change) -> str:
    """Put a file at its destination, whole or not at all.

    Returns:
        The location under which `registry.load` takes it, with its hash; for a folder, its path.

    Raises:
        InputError: The destination is of no known form, or does not go with `change`; or there
            are no credentials.
        FileError: It cannot be written, or another file is there.
        MissingFileError: There is no such bucket.
        OfflineError: SPENDER_OFFLINE is set, or the server cannot be reached, or fails.
    """
    destination = normal(destination)
    given = {"--revision": change.branch, "--message": change.message, "--private": change.private}
    named = [option for option, value in given.items() if value]
    if not destination.startswith("hf:") and named:
        raise InputError(f"{', '.join(named)} goes with hf:owner/repository, which has commits")
    if destination.startswith("hf:"):
        return _to_hub(upload, destination, change)
    if destination.startswith("s3://"):
        return _to_bucket(upload, destination)
    if not destination or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", destination):
        raise InputError(f"cannot push to {redacted(destination)!r:.200}; allowed is {_FORMS}")
    return _to_folder(upload, destination)


def _target(upload: Upload, destination: str) -> str:
    """Return the destination with the name of the file, which it may give itself."""
    if destination.endswith(SUFFIX):
        return destination
    if not is_file_name(upload.path.name):
        raise InputError(
            f"{upload.path.name!r:.80} cannot be part of a URL; give a name after the destination, "
            f"such as {redacted(join(destination, 'model'))}{SUFFIX}"
        )
    return join(destination, upload.path.name)


def _refusal(where: str, found: str, upload: Upload, remedy: str) -> FileError:
    return FileError(
        f"{where} is another file (sha256 {found[:16]}) than {upload.path} "
        f"({upload.sha256[:16]}), and is not overwritten, as others may rely on it; {remedy}"
    )


# -- a folder --------------------------------------------------------------------------------


def _to_folder(upload: Upload, destination: str) -> str:
    path = Path(_target(upload, destination)).expanduser().absolute()
    try:
        found = file_sha256(path)
    except FileNotFoundError:
        found = ""
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror}") from error
    if found and found != upload.sha256:
        raise _refusal(str(path), found, upload, f"give another name, {path.parent}/NAME{SUFFIX}")
    if not found:
        with replacing(path) as temporary:
            shutil.copyfile(upload.path, temporary)
            check_same(temporary, upload)
    return str(path)


def check_same(path: Path, upload: Upload) -> None:
    """Refuse a file that is not the one that was checked any more.

    Raises:
        FileError: It has another hash.
    """
    if file_sha256(path) != upload.sha256:
        raise FileError(f"{upload.path} was changed while it was pushed; push it again")


# -- a bucket --------------------------------------------------------------------------------


def _to_bucket(upload: Upload, destination: str) -> str:
    url = _target(upload, destination)
    if re.search(r"[?#@]", url) or not re.match(r"s3://[\w.-]+/", url):
        raise InputError(f"{redacted(url)!r:.200} is not of the form s3://bucket/prefix")
    location = f"{parse(url).url}#sha256={upload.sha256}"
    require_network(url, "push to a folder")
    try:
        found = _put(upload, url)
    except SpenderError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"cannot write {url}: there is no such bucket; make it") from error
    except Exception as error:  # s3fs and botocore have errors of their own
        raise _bucket_failure(url, error) from None
    if found:
        raise _refusal(
            url, found, upload, f"give another name, {url.rpartition('/')[0]}/NAME{SUFFIX}"
        )
    return location


def _put(upload: Upload, url: str) -> str:
    """Put a file in a bucket; if another one is there, leave it, and return its hash."""
    import fsspec

    options = storage_options(url, signed=True)
    if os.environ.get("SPENDER_TIMEOUT"):
        options["config_kwargs"]["read_timeout"] = patience()
    filesystem, key = fsspec.url_to_fs(url, **options, skip_instance_cache=True)
    filesystem.retries = 1  # botocore tries three times, which s3fs would do five times over
    try:
        there = filesystem.info(key)["type"] == "file"
    except FileNotFoundError:
        there = False
    if there:
        with filesystem.open(key, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return "" if found == upload.sha256 else found
    check_same(upload.path, upload)
    filesystem.put_file(str(upload.path), key)
    return ""


def _bucket_failure(url: str, error: Exception) -> SpenderError:
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return InputError(
            f"no credentials to write {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE"
        )
    if isinstance(error, PermissionError):
        return FileError(
            f"cannot write {url}: {told(error)}; the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE) "
            "must be of somebody who may read and write there"
        )
    return OfflineError(
        f"cannot write {url}: {told(error)}. A file appears there whole or not at all; push again"
    )


# -- the Hub ---------------------------------------------------------------------------------


def _to_hub(upload: Upload, destination: str, change: Change) -> str:
    target = destination
    if destination.count("/") < 2 or not destination.endswith(SUFFIX):
        target = _target(upload, destination.rstrip("/"))
    place = parse(target)
    owner, repository, *path = place.text.removeprefix("hf:").split("/")
    if "@" in repository:
        raise InputError(f"say the branch of {place.shown} with --revision, not with @")
    file = "/".join(path)
    branch = change.branch or "main"
    if parse(f"hf:{owner}/{repository}@{branch}/{file}").revision != branch:
        raise InputError(f"the branch {branch!r:.80} cannot be part of a location; it has no '/'")
    require_network(target, "push to a folder")
    from spender_core.archives.downloads import repository as hosted

    commit = hosted.commit(upload, f"{owner}/{repository}", file, change)
    return f"hf:{owner}/{repository}@{commit}/{file}#sha256={upload.sha256}"
