"""Data releases as data: where a survey's archive is, and where in it each file is.

A plugin brings a file `releases.toml` (`Archive`). A user may add releases, layouts and roots in
a file of the same kind, `~/.config/spender/config.toml` or what SPENDER_CONFIG names (`Config`):

    [roots]
    desi = "/data/desi/public"          # a folder, a URL, or the name of one of the survey's roots
    [defaults]
    desi = "mine"                       # the release, where none is asked for
    [releases.desi.mine]
    root = "https://example.org/desi"   # only if it lies elsewhere than the survey's releases
    collections.healpix = [{ folder = "mine", layout = "healpix", values = { survey = ["main"] } }]

A root is taken from what the caller gives, else from the environment (SPENDER_ROOT_DESI for
`desi`), else from the release, else from the user's file, else from the plugin.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from spender_core.archives.location import is_remote, join
from spender_core.archives.templates import PathTemplate, UrlTemplate, Value, fill
from spender_core.errors import InputError
from spender_core.records import printable

_LARGEST_FILE = 1 << 20
"""Bytes of the largest file of a user that is read."""


def _root(root: str) -> str:
    if not root.strip() or not root.isprintable():
        raise ValueError(f"{root!r:.200} is no folder or URL")
    return _expanded(root)


def _expanded(root: str) -> str:
    """Return a root with ~ replaced; a Path would shorten the slashes of a URL."""
    return str(Path(root).expanduser()) if root.startswith("~") else root


Root = Annotated[str, AfterValidator(_root)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Kind = TypeVar("_Kind", bound=_Strict)


class Collection(_Strict):
    """Files of one kind in a release.

    Attributes:
        folder: Where they are, below the root.
        layout: Name of the layout of the paths below that folder.
        values: What fields of text may be; of others, anything.
        limits: Least and largest value of fields that are numbers.
    """

    folder: PathTemplate
    layout: str
    values: Mapping[str, tuple[str, ...]] = {}
    limits: Mapping[str, tuple[int, int]] = {}

    def beyond(self, fields: Mapping[str, Value]) -> str:
        """Return how the numbers go beyond the limits; "" if they do not."""
        bad = [
            f"{name} {fields[name]} is not between {least} and {most}"
            for name, (least, most) in self.limits.items()
            if name in fields and not least <= fields[name] <= most  # type: ignore[operator]
        ]
        return ", ".join(bad)


class Release(_Strict):
    """A data release.

    Attributes:
        collections: Its spectra, by a name that the plugin knows.
        catalogues: Paths of its catalogues, below the root.
        root: Where it is, if not where the survey's releases are.
    """

    collections: Mapping[str, tuple[Collection, ...]] = {}
    catalogues: Mapping[str, PathTemplate] = {}
    root: Root = ""


class Cutouts(_Strict):
    """A public service that cuts images out of a survey of the sky.

    Attributes:
        url: With the fields ra and dec (degrees), pixel_scale (arcsec), size (pixels), layer.
        layers: Names of the images it has; the first is the default.
        sizes: Least and largest width and height, pixels.
        pixel_scale: The default, arcsec.
    """

    url: UrlTemplate
    layers: tuple[str, ...]
    sizes: tuple[int, int]
    pixel_scale: float


class Archive(_Strict):
    """A survey's archive.

    Attributes:
        default: The release that is meant where none is named.
        roots: Where the archive is, by name; the first is used where none is asked for.
        layouts: Paths of files by kind of file, the preferred one first.
        releases: By name, oldest first.
        cutouts: Where images of its objects come from.
        survey: Its name, in lower case.
        user_root: What the user's file says of the root.
    """

    survey: str
    default: str
    roots: Mapping[str, Root]
    layouts: Mapping[str, Mapping[str, tuple[PathTemplate, ...]]]
    releases: Mapping[str, Release]
    cutouts: Cutouts | None = None
    user_root: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.default not in self.releases:
            raise ValueError(
                f"the default release {self.default!r} of {self.survey} is none of "
                f"{list(self.releases)}"
            )
        for name, release in self.releases.items():
            for collection in sum(release.collections.values(), ()):
                if collection.layout not in self.layouts:
                    raise ValueError(
                        f"release {name} of {self.survey} has a collection of layout "
                        f"{collection.layout!r}, which is none of {list(self.layouts)}"
                    )
        return self

    def release(self, name: str | None, has: str | None = None) -> tuple[str, Release]:
        """Return a release and its name.

        Args:
            name: Its name; None for the default.
            has: Name of a collection that it must have.

        Raises:
            InputError: There is no such release, or it has no such collection.
        """
        name = self.default if name is None else name
        found = self.releases.get(name)
        if found is None or (has is not None and not found.collections.get(has)):
            known = [
                k for k, one in self.releases.items() if has is None or one.collections.get(has)
            ]
            what = f"has no {has} data" if has else "is not known"
            raise InputError(f"release {name!r:.80} {what}; known: {known}")
        return name, found

    def root(self, given: str | None, release: Release) -> str:
        """Return the root of a release.

        Args:
            given: A folder, a URL, or the name of one of the survey's roots; None for what the
                environment, the release, the user's file or the survey says.
            release: One of the archive's.

        Raises:
            InputError: It is none of these.
        """
        variable = f"SPENDER_ROOT_{self.survey.upper()}"
        said = (
            ("root", given or ""),
            (variable, os.environ.get(variable, "")),
            ("the release's root", release.root),
            (f"roots.{self.survey} of your configuration", self.user_root),
            ("the archive's root", next(iter(self.roots.values()))),
        )
        source, root = next((source, root) for source, root in said if root)
        if root in self.roots:
            return self.roots[root]
        if not root.isprintable() or not root.strip():
            raise InputError(f"{source} must be a folder or a URL, not {printable(root)!r:.80}")
        if is_remote(root):
            return root
        if root.isidentifier() and not Path(root).is_dir():
            raise InputError(
                f"{source} is {root!r:.80}, which is neither a folder nor the name of a root of "
                f"{self.survey}; names are {list(self.roots)}"
            )
        return _expanded(root)

    def paths(self, collection: Collection, kind: str, fields: Mapping[str, Value]) -> list[str]:
        """Return where a file of a collection may be, below the root; the preferred path first.

        Args:
            collection: One of the archive's.
            kind: Kind of file, a name in its layout.
            fields: What the paths are filled with.

        Raises:
            InputError: The collection has no such files, or a value cannot be in a path.
        """
        layout = self.layouts[collection.layout]
        if kind not in layout:
            raise InputError(
                f"{collection.folder} has no files of the kind {kind!r:.80}; it has {list(layout)}"
            )
        folder = fill(collection.folder, fields)
        return [f"{folder}/{fill(template, fields)}" for template in layout[kind]]

    def catalogue(
        self, name: str, root: str | None, release: str | None, fields: Mapping[str, Value]
    ) -> str:
        """Return where a catalogue of a release is.

        Args:
            name: Name of the catalogue.
            root: As of `root`.
            release: Name of the release; None for the default.
            fields: What its path is filled with.

        Raises:
            InputError: There is no such release, or it has no such catalogue.
        """
        title, found = self.release(release)
        if name not in found.catalogues:
            raise InputError(
                f"release {title} of {self.survey} has no catalogue {name!r:.80}; it has "
                f"{list(found.catalogues)}. Give the path or URL of one of your own"
            )
        return join(self.root(root, found), fill(found.catalogues[name], fields))


class Config(_Strict):
    """A user's own file; each table has one entry a survey, e.g. `desi` or `sdss`."""

    roots: Mapping[str, Root] = {}
    defaults: Mapping[str, str] = {}
    layouts: Mapping[str, Mapping[str, Mapping[str, tuple[PathTemplate, ...]]]] = {}
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
    path = Path(named or os.path.join(folder, "spender", "config.toml")).expanduser()
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
        "releases": plain["releases"] | dict(config.releases.get(survey, {})),
        "default": config.defaults.get(survey, plain["default"]),
        "user_root": config.roots.get(survey, ""),
    }
    if survey in config.cutouts:
        added["cutouts"] = config.cutouts[survey]
    return _checked(Archive, plain | added | {"survey": survey}, path or str(own))


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
    kinds: dict[int, type[_Strict]] = {1: Config, 3: Cutouts, 4: Release, 7: Collection}
    kind = kinds.get(len(place))
    return list(kind.model_fields) if kind else []
