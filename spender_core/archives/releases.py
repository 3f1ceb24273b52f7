"""Data releases as data: where a survey's archive is, and where in it each file is.

A plugin brings a file `releases.toml` (`Archive`); a user may add to it (`configuration`). A root
is taken from what the caller gives, else from the environment (SPENDER_ROOT_DESI for `desi`),
else from the release, else from the user's file, else from the plugin.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from spender_core.archives.location import is_remote, join, redacted
from spender_core.archives.templates import PathTemplate, UrlTemplate, Value, fill
from spender_core.errors import InputError
from spender_core.records import printable


def _root(root: str) -> str:
    """Return a root with ~ replaced; a Path would shorten the slashes of a URL."""
    if not root.strip() or not root.isprintable():
        raise ValueError(f"{_shown(root)} is no folder or URL")
    if is_remote(root) and ("?" in root or "#" in root):
        raise ValueError(f"{_shown(root)} has a query or fragment, where paths go on; leave it out")
    return home(root)


def _shown(text: str) -> str:
    """Return what may be a URL with a password as it may be shown."""
    return repr(printable(redacted(text)))[:200]


def home(path: str) -> str:
    """Return a path with ~ replaced.

    Raises:
        ValueError: There is no such user.
    """
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise ValueError(f"{path!r:.200}: there is no home folder of that name") from None


Root = Annotated[str, AfterValidator(_root)]

Layout = Mapping[str, Annotated[tuple[PathTemplate, ...], Field(min_length=1)]]
"""Paths of files by kind of file, the preferred one first."""


class Strict(BaseModel):
    """A part of a file that may hold what is known only."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Collection(Strict):
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
        bad = []
        for name, (least, most) in self.limits.items():
            value = fields.get(name, least)
            if isinstance(value, str) or not least <= value <= most:
                bad.append(f"{name} {value} is not between {least} and {most}")
        return ", ".join(bad)

    @field_validator("limits")
    @classmethod
    def _check(cls, limits: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, int]]:
        for name, (least, most) in limits.items():
            if least > most:
                raise ValueError(f"{name} cannot be from {least} to {most}")
        return limits


class Release(Strict):
    """A data release.

    Attributes:
        collections: Its spectra, by a name that the plugin knows.
        catalogues: Paths of its catalogues, below the root.
        root: Where it is, if not where the survey's releases are.
    """

    collections: Mapping[str, tuple[Collection, ...]] = {}
    catalogues: Mapping[str, PathTemplate] = {}
    root: Root = ""


class Cutouts(Strict):
    """A public service that cuts images out of a survey of the sky.

    Attributes:
        url: With the fields ra and dec (degrees), pixel_scale (arcsec), size (pixels), layer.
        layers: Names of the images it has; the first is the default.
        sizes: Least and largest width and height, pixels.
        pixel_scale: The default, arcsec.
    """

    url: UrlTemplate
    layers: Annotated[tuple[str, ...], Field(min_length=1)]
    sizes: tuple[int, int]
    pixel_scale: float


class Archive(Strict):
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
    layouts: Mapping[str, Layout]
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
        try:
            root = _root(root)
        except ValueError as error:
            raise InputError(f"{source} must be a folder or a URL: {error}") from None
        if not is_remote(root) and root.isidentifier() and not Path(root).is_dir():
            raise InputError(
                f"{source} is {root!r:.80}, which is neither a folder nor the name of a root of "
                f"{self.survey}; names are {list(self.roots)}"
            )
        return root

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
