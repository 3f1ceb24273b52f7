"""Docstrings as they are written here: plain text, with names in single backticks.

A name in backticks becomes a link where it is one of ours, and stays code otherwise. Names in
signatures are those under which modules import them; they are linked to where they are documented.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxRole

_CODE = re.compile(r"(``.+?``|`[^`]+`)")
_MARKUP = re.compile(r"([*|]|(?<=\w)_(?=\W|$))")
_INLINE, _COLON = ("attribute", "data", "property"), "\ue000"
"""In the docstrings of these, napoleon would take what is before a colon for the type."""
_UNPACKED = re.compile(r"=\(\*[^()]*\)")
_NAME = re.compile(r"[A-Za-z_][\w.]*(\(\))?")

_TELLING = re.compile(r"([A-Z]\w+|[A-Za-z]\w*(\.\w+)+)(\(\))?")
"""Names that are more than a word: of a class, or with a dot."""
_LINKED = (nodes.reference, nodes.title, addnodes.pending_xref)

PAGES = {"README.md": "index", "CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing"}
"""Files of the repository's root, and their pages."""


class Name(SphinxRole):
    """Code, and a link where it names something that is documented here."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the node."""
        literal = nodes.literal(self.rawtext, self.text, classes=["xref", "py"])
        if not _NAME.fullmatch(self.text):
            return [literal], []
        reference = pending(self.text.removesuffix("()"), self.env.docname)
        reference += literal
        for context in ("py:module", "py:class"):
            reference[context] = self.env.ref_context.get(context)
        return [reference], []


def pending(target: str, page: str) -> addnodes.pending_xref:
    """Return a reference that may lead nowhere."""
    about = {"refdomain": "py", "reftype": "obj", "refexplicit": False, "optional": True}
    return addnodes.pending_xref("", reftarget=target, refdoc=page, **about)


class Naming(SphinxPostTransform):
    """Give every reference to a Python object the full name under which it is documented.

    Code of the guides that is such a name, as `SpectrumBatch` or `registry.load`, becomes a
    reference; and so do files of the repository's root, which pages include.
    """

    default_priority = 5  # before references are resolved

    def run(self, **options: Any) -> None:
        """Change the targets of pending references."""
        for literal in list(self.document.findall(nodes.literal)):
            self._link(literal)
        for node in self.document.findall(addnodes.pending_xref):
            if node.get("refdomain") == "py":
                node["reftarget"] = self._full(node) or node["reftarget"]
                for guess in ("refspecific", "py:module", "py:class"):
                    node.attributes.pop(guess, None)
            elif node.get("reftype") == "myst" and node["reftarget"] in PAGES:
                node.attributes.update(refdomain="doc", reftargetid=None)
                node["reftarget"] = PAGES[node["reftarget"]]

    def _link(self, literal: nodes.literal) -> None:
        """Put code into a reference, if it is a name that means one thing."""
        text = literal.astext()
        if isinstance(literal.parent, _LINKED) or not _TELLING.fullmatch(text):
            return
        target = unique(self.env.domains.python_domain, text.removesuffix("()"))
        if target is not None:
            reference = pending(target, self.env.docname)
            literal.replace_self(reference)
            reference += literal

    def _full(self, node: addnodes.pending_xref) -> str | None:
        domain = self.env.domains.python_domain
        target, module, owner = (node.get(key) for key in ("reftarget", "py:module", "py:class"))
        contexts = (f"{module}.{owner}.", f"{owner}.", f"{module}.", "")
        for name in (f"{context}{target}" for context in contexts):
            if name in domain.objects and suits(node, domain.objects[name].objtype):
                return name
        found = unique(domain, str(target))
        return found if found and suits(node, domain.objects[found].objtype) else None


def suits(node: addnodes.pending_xref, kind: str) -> bool:
    """Tell whether a reference may mean an object of some kind: types are no functions."""
    return node.get("reftype") not in ("class", "exc") or kind in ("class", "exception", "data")


def unique(domain: PythonDomain, target: str) -> str | None:
    """Return the documented name that ends as a target does, if it means one thing.

    Modules and members of classes are found by their last two parts, not by the last alone. An
    alias is on the page of what it stands for.
    """
    end = target.rpartition(".")[2] if target.startswith("spender_core.") else target
    homes: dict[tuple[str, str], str] = {}
    for name, entry in domain.objects.items():
        inner = entry.objtype in ("method", "attribute", "property", "module")
        if name.endswith(f".{end}") and ("." in end or not inner):
            home = (entry.docname, name.rpartition(".")[2])
            homes[home] = min(homes.get(home, name), name, key=len)
    return next(iter(homes.values())) if len(homes) == 1 else None


def missing(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """Leave an optional name that is not ours as code."""
    return content if node.get("optional") else None


def plain(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep plain text from being read as markup, and mark what it introduces as literal."""
    literal: int | None = None
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None and not line.lstrip().startswith((">>>", "...", ".. ", ":")):
            parts = _CODE.split(line)
            parts[::2] = [_MARKUP.sub(r"\\\1", part) for part in parts[::2]]
            lines[number] = "".join(parts)
            if introduces(lines, number):
                lines[number] += ":"
        if literal is None and lines[number].rstrip().endswith("::"):
            literal = indent
    if what in _INLINE:
        lines[:] = [line.replace(": ", _COLON) for line in lines]


def restored(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Put colons back into the docstrings of attributes."""
    lines[:] = [line.replace(_COLON, ": ") for line in lines]


def introduces(lines: list[str], number: int) -> bool:
    """Tell whether a line ends in a colon and an indented block follows after an empty line."""
    line, after = lines[number], lines[number + 1 : number + 3]
    ends = line.endswith(":") and not line.endswith("::")
    if not ends or len(after) < 2 or after[0].strip() or not after[1].strip():
        return False
    return len(after[1]) - len(after[1].lstrip()) > len(line) - len(line.lstrip())


def named(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Show the fields of a record by name alone; what they are is said below.

    Defaults that unpack others are left out: Sphinx 8 cannot read them.
    """
    record = getattr(obj, "model_fields", None)
    if record is None and is_dataclass(obj):
        record = [field.name for field in fields(obj) if field.init]
    if what == "class" and record is not None:
        return f"({', '.join(record)})", returns
    return (_UNPACKED.sub("=...", signature), returns) if signature else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the role, the transform and the listeners."""
    app.add_role("name", Name())
    app.add_post_transform(Naming)
    app.connect("missing-reference", missing)
    app.connect("autodoc-process-signature", named)
    app.connect("autodoc-process-docstring", plain, priority=100)
    app.connect("autodoc-process-docstring", restored, priority=900)  # after napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
