"""Commit a weights file to a model repository on the Hugging Face Hub, with a page about it.

A commit is made whole or not at all, and only upon the one that was looked at. The library
huggingface_hub speaks with the server; its transfers end after as long a silence as downloads do.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from spender_core.archives.downloads import asking, transport
from spender_core.archives.location import hub, told
from spender_core.errors import FileError, InputError, OfflineError, SpenderError
from spender_core.records import printable

if TYPE_CHECKING:
    from spender_core.archives.downloads.publishing import Change, Upload

_MAIN = "main"
_AGAIN = "Push again: if the commit was made all the same, that is found, and nothing is done"


def commit(upload: Upload, name: str, file: str, change: Change) -> str:
    """Commit a file to a repository, which is made if there is none.

    Args:
        upload: The file.
        name: The repository, as owner/repository.
        file: Path of the file in it.
        change: The branch, and what else the user says.

    Returns:
        The commit that holds the file: a new one, or the branch's own if the file is there.

    Raises:
        InputError: There is no token, huggingface_hub is not installed, `change` does not fit the
            repository.
        FileError: The Hub refuses, or there is another file, and no branch was named.
        OfflineError: The Hub fails, or cannot be reached.
    """
    library = _library()
    token = asking.token()
    if not token:
        raise InputError(
            f"pushing to hf:{name} needs a token: make one with write permission at "
            f"{hub()}/settings/tokens, and set HF_TOKEN"
        )
    api = library.HfApi(endpoint=hub(), token=token)
    with _explained(name), _patient():
        head = _head(api, name, change)
        there = _entry(api, name, file, head)
        if there is not None and _holds(there, upload):
            return head
        if there is not None and change.branch is None:
            raise FileError(
                f"hf:{name}/{file} is another file than {upload.path}, and is not replaced "
                f"unasked; with --revision {_MAIN} a new commit has the new one, and the old one "
                "stays loadable by its commit; or push to another branch, or under another name"
            )
        operations = [library.CommitOperationAdd(file, str(upload.path))]
        page = _page(api, name, file, head, upload)
        operations += [library.CommitOperationAdd(*page)] if page else []
        made = api.create_commit(
            name,
            operations,
            commit_message=change.message or upload.summary,
            revision=change.branch or _MAIN,
            parent_commit=head,
        )
        stored = _entry(api, name, file, made.oid)
        if stored is None or not _holds(stored, upload):
            raise FileError(
                f"commit {made.oid} of hf:{name} does not hold {file} as it was pushed; see if its "
                ".gitignore excludes the file, and if the file was changed meanwhile"
            )
        return str(made.oid)


def _library() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            'pushing to the Hub needs huggingface_hub: pip install "spender-core[push]"'
        ) from error


# -- what is there ---------------------------------------------------------------------------


def _head(api: Any, name: str, change: Change) -> str:
    """Return the newest commit of the branch; make the repository or the branch if need be."""
    missing = importlib.import_module("huggingface_hub.errors").RepositoryNotFoundError
    wanted = change.branch or _MAIN
    if re.fullmatch(r"[0-9a-f]{40}", wanted):
        raise InputError(f"{wanted} is a commit, which never changes; name a branch of hf:{name}")
    try:
        refs = api.list_repo_refs(name)
    except missing:
        api.create_repo(name, private=change.private)
        refs = api.list_repo_refs(name)
    else:
        if change.private and not api.model_info(name).private:
            raise InputError(f"hf:{name} is public; make it private on the Hub, or push elsewhere")
    heads = _heads(refs)
    if wanted not in heads:
        if any(tag.name == wanted for tag in refs.tags):
            raise InputError(f"{wanted} is a tag of hf:{name}, which stays; name a branch")
        api.create_branch(name, branch=wanted)
        heads = _heads(api.list_repo_refs(name))
    return heads[wanted]


def _heads(refs: Any) -> dict[str, str]:
    return {branch.name: str(branch.target_commit) for branch in refs.branches}


def _entry(api: Any, name: str, file: str, commit: str) -> Any:
    """Return what the Hub knows of a file in a commit; None if it is not there."""
    found = [one for one in api.get_paths_info(name, [file], revision=commit) if one.path == file]
    return found[0] if found else None


def _holds(entry: Any, upload: Upload) -> bool:
    """Tell whether an entry of a repository is the file, by the hash that it is stored under."""
    lfs = getattr(entry, "lfs", None)
    if lfs is not None:
        return bool(lfs.sha256 == upload.sha256)
    if getattr(entry, "size", None) != upload.path.stat().st_size:
        return False
    # git's name of a file: the sha1 of its kind, its size and its content
    content = upload.path.read_bytes()
    name = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return bool(entry.blob_id == name.hexdigest())


# -- the page --------------------------------------------------------------------------------


def _page(api: Any, name: str, file: str, head: str, upload: Upload) -> tuple[str, bytes] | None:
    """Return path and content of the page about a file, where no text of others is in its place.

    That is README.md, or beside the file one of its name; both may be taken.
    """
    text = upload.page(f"hf:{name}/{file}#sha256={upload.sha256}")
    mark = (
        f"<!-- written by spender from the card of {file}; without this line, it stays as it is -->"
    )
    front, _, body = text.partition("\n---\n")
    content = f"{front}\n---\n{mark}\n{body}".encode()
    for path in ("README.md", str(PurePosixPath(file).with_suffix(".md"))):
        if _entry(api, name, path, head) is None or mark in _text(name, path, head):
            return path, content
    return None


def _text(name: str, path: str, commit: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "page"
        transport.retrieve(f"{hub()}/{name}/resolve/{commit}/{path}", part)
        return part.read_text(encoding="utf-8", errors="replace")


# -- the library -----------------------------------------------------------------------------


@contextmanager
def _patient() -> Iterator[None]:
    """Bound the silence of a server; no progress bars where no terminal is, no signed URLs."""
    utils: Any = importlib.import_module("huggingface_hub.utils")
    session = utils.get_session()
    before, session.timeout = session.timeout, transport.patience()
    quiet = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if quiet:
        utils.disable_progress_bars()
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # its warnings hold addresses that let anybody write
    try:
        yield
    finally:
        session.timeout = before
        log.setLevel(level)
        if quiet:
            utils.enable_progress_bars()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Say in our own words what the library and the server object to."""
    try:
        yield
    except SpenderError:
        raise
    except Exception as error:  # huggingface_hub, its transports and the disk have their own
        raise _failure(name, error) from None  # what it holds may tell the token


def _failure(name: str, error: Exception) -> SpenderError:
    start = f"cannot push to hf:{name}"
    causes = list(_causes(error))
    response = next(
        (r for one in causes if (r := getattr(one, "response", None)) is not None), None
    )
    if response is None:
        return OfflineError(f"{start}: {told(causes[-1]).rstrip('.')}. {_AGAIN}")
    status = response.status_code
    reason = printable(str(response.headers.get("X-Error-Message") or ""))[:200]
    said = f"the Hub answered {status}" + (f" ({reason})" if reason else "")
    reasons = {
        400: "it does not take what was sent",
        401: f"HF_TOKEN is not valid; make one with write permission at {hub()}/settings/tokens",
        403: "the owner of HF_TOKEN may not write there, or the token has no write permission",
        404: "there is no such repository, or HF_TOKEN may not see it",
        409: "it was changed by somebody else meanwhile; push again",
        412: "it was changed by somebody else meanwhile; push again",
    }
    if status in reasons:
        return FileError(f"{start}: {said}: {reasons[status]}")
    return OfflineError(f"{start}: {said}. {_AGAIN}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__
