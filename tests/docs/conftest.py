"""The documentation's site, built once for all tests of it, and its pages as data."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT_ONLY = {"genindex.html", "search.html", "py-modindex.html"}
"""Pages that the theme itself makes."""


@dataclass
class Page(HTMLParser):
    """A page: what it links to, what can be linked to, and what it loads."""

    path: str
    links: set[str] = field(default_factory=set)
    anchors: set[str] = field(default_factory=set)
    loads: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if given.get("id"):
            self.anchors.add(str(given["id"]))
        if tag == "a" and given.get("href"):
            self.links.add(str(given["href"]))
        source = given.get("href") if tag == "link" else given.get("src")
        if source and tag in ("link", "script", "img", "source", "iframe"):
            self.loads.add(source)

    def targets(self) -> set[tuple[str, str]]:
        """Return the pages of the site that are linked to, and the anchors in them."""
        found = set()
        for link in self.links:
            if not link.startswith(("http://", "https://", "mailto:")):
                path, anchor = urldefrag(urljoin(self.path, link))
                found.add((path, unquote(anchor)))
        return found


@dataclass
class Site:
    """The site on the disk."""

    folder: Path
    told: str
    """What the build wrote to its standard error."""

    def __post_init__(self) -> None:
        self.pages: dict[str, Page] = {}
        for file in sorted(self.folder.rglob("*.html")):
            path = file.relative_to(self.folder).as_posix()
            if not path.startswith("_") and path not in TEXT_ONLY:
                self.pages[path] = Page(path)
                self.pages[path].feed(self.text(path))

    def text(self, path: str) -> str:
        """Return a page as it is."""
        return (self.folder / path).read_text(encoding="utf-8")

    def entries(self) -> dict[str, str]:
        """Return what the API reference documents, with the kind of each."""
        content = (self.folder / "objects.inv").read_bytes()
        lines = zlib.decompress(content.split(b"\n", 4)[4]).decode().splitlines()
        return {
            line.split()[0]: line.split()[1].removeprefix("py:")
            for line in lines
            if line.split()[1].startswith("py:")
        }


def build(source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """Build a site with warnings as errors, without the network."""
    if find_spec("sphinx") is None:
        pytest.skip("the site needs Sphinx: pip install 'spender-core[docs]'")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    return subprocess.run(
        [*command, str(source), str(output)],
        env=os.environ | {"SPENDER_OFFLINE": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    done = build(DOCS, folder)
    if done.returncode:
        pytest.fail(f"the site does not build:\n{done.stderr[-4000:]}", pytrace=False)
    return Site(folder, done.stderr)


@pytest.fixture
def builds() -> object:
    """The function that builds a site from a folder."""
    return build
