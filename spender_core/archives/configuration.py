"""The user's own file: roots, releases and layouts beside those that plugins bring.

It is `~/.config/spender/config.toml`, or what SPENDER_CONFIG names:

    [roots]
    desi = "/data/desi/public"          # a folder, a URL, or the name of one of the survey's roots
    [defaults]
    desi = "mine"                       # the release, where none is asked for
    [releases.desi.mine]
    root = "https://example.org/desi"   # only if it lies elsewhere than the survey's releases
    collections.pixels = [{ folder = "mine", layout = "healpix", values = { survey = ["main"] } }]

What it says of a release that the plugin has, such as its root, is added to what the plugin says.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from spender_core.archives.location import is_remote, normal
from spender_core.archives.releases import (
    Archive,
    Collection,
    Cutouts,
    Layout,
    Release,
    Root,
    Strict,
    home,
)
from spender_core.errors import InputError
from spender_core.records import printable

_LARGEST_FILE = 1 << 20
"""Bytes of the largest file of a user that is read."""

_Kind = TypeVar("_Kind", bound=Strict)


class Config(Strict):
    """A user's own file; each table has one entry a survey, e.g. `desi` or `sdss`."""

    roots: Mapping[str, Root] = {}
    defaults: Mapping[str, str] = {}
    layouts: Mapping[str, Mapping[str, Layout]] = {}
    releases: Mapping[str, Mapping[str, Release]] = {}
    cutouts: Mapping[str, Cutouts] = {}


def archive(survey: str, own: Traversable) -> Archive:
    """Return a survey's archive, with what the user's file adds to it.

    Args:
        survey: Name of the survey, in lower case.
        own: The plugin's file of releases.

    Raises:
        InputError: The user's file cannot be read, or says what makes no sense.
    """
    return _archive(survey, own, _user_file())  # type: ignore[arg-type]  # paths have a hash


def _user_file() -> tuple[str, str]:
    """Return path and content of the user's file; "" for both if there is none."""
    named = os.environ.get("SPENDER_CONFIG", "")
    folder = os.environ.get("XDG_CONFIG_HOME", "") or "~/.config"
    try:
        path = Path(home(named or os.path.join(folder, "spender", "config.toml")))
    except ValueError as error:
        raise InputError(f"the configuration cannot be read: {error}") from None
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        if not named and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return "", ""
        raise InputError(
            f"the configuration {path} cannot be read ({error.strerror}); correct "
            f"{'SPENDER_CONFIG' if named else 'its permissions'}"
        ) from error
    if len(content) > _LARGEST_FILE:
        raise InputError(f"the configuration {path} is longer than {_LARGEST_FILE} bytes")
    try:
        return str(path), content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"the configuration {path} is not text in UTF-8") from error


@lru_cache(maxsize=64)
def _archive(survey: str, own: Traversable, user: tuple[str, str]) -> Archive:
    plain = tomllib.loads(own.read_text(encoding="utf-8"))
    path, text = user
    config = _config(path, text)
    added = {
        "layouts": plain["layouts"] | dict(config.layouts.get(survey, {})),
        "releases": plain["releases"] | _merged(plain["releases"], config.releases.get(survey, {})),
        "default": config.defaults.get(survey, plain["default"]),
        "user_root": config.roots.get(survey, ""),
    }
    if survey in config.cutouts:
        added["cutouts"] = config.cutouts[survey]
    return _checked(Archive, plain | added | {"survey": survey}, path or str(own))


def _merged(own: Mapping[str, Any], users: Mapping[str, Release]) -> dict[str, Any]:
    """Return the user's releases; of one that the plugin has, too, with what that says of it."""
    merged = {}
    for name, release in users.items():
        said, known = release.model_dump(exclude_unset=True), own.get(name, {})
        merged[name] = {
            **known,
            **said,
            "collections": {**known.get("collections", {}), **said.get("collections", {})},
            "catalogues": {**known.get("catalogues", {}), **said.get("catalogues", {})},
        }
    return merged


def local_roots(given: str | None) -> list[Path]:
    """Return the folders that may be the root of an archive.

    Args:
        given: What the caller gives: a folder, a URL, a name or None.
    """
    named = [given or "", *(v for k, v in os.environ.items() if k.startswith("SPENDER_ROOT_"))]
    named += _config(*_user_file()).roots.values()
    local = [normal(root) for root in named if root and not is_remote(root)]
    return [path for path in (Path(home(root)) for root in local) if path.is_dir()]


@lru_cache(maxsize=8)
def _config(path: str, text: str) -> Config:
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"the configuration {path} is not TOML: {error}") from error
    return _checked(Config, content, path)


def _checked(kind: type[_Kind], content: Mapping[str, Any], path: str) -> _Kind:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError(f"the configuration {path}: {_told(error)}") from None


def _told(error: ValidationError) -> str:
    """Return the first faults of a file, each with its key."""
    lines = []
    for fault in error.errors()[:3]:
        key = ".".join(map(str, fault["loc"])) or "it"
        allowed = ""
        if fault["type"] == "extra_forbidden":
            known = _known(fault["loc"])
            allowed = f" (allowed: {', '.join(known)})" if known else ""
        text = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{key}: {text}{allowed}")
    return printable("; ".join(lines))


def _known(place: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed where a user's file has an unknown one, by its depth."""
    kinds: dict[int, type[Strict]] = {1: Config, 3: Cutouts, 4: Release, 7: Collection}
    kind = kinds.get(len(place))
    return list(kind.model_fields) if kind else []
