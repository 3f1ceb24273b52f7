"""Drawings of the page: an SVG of `_static` is put into the page, so that it follows its theme."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def inline(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Replace images that are SVG files of `_static` by the drawings themselves, in HTML."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        path = Path(app.srcdir) / str(image["uri"])
        if path.suffix != ".svg" or path.parent.name != "_static":
            continue
        drawing = re.sub(r"<\?xml.*?\?>\s*", "", path.read_text(encoding="utf-8"))
        holder: Any = nodes.container(classes=["drawing"])
        holder += nodes.raw("", drawing, format="html")
        parent = image.parent
        if isinstance(parent, nodes.paragraph) and len(parent) == 1:
            parent.replace_self(holder)
        else:
            image.replace_self(holder)


def setup(app: Sphinx) -> dict[str, bool]:
    """Listen for pages that are read whole."""
    app.connect("doctree-resolved", inline)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
