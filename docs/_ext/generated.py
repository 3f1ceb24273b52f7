"""Parts of pages that are written when the site is built, each at a comment in its page.

`<!-- written at build: models -->` becomes the cards of the installed models, and
`<!-- written at build: commands -->` the commands of `spender` with their options.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sphinx.application import Sphinx

_MARK = re.compile(r"<!-- written at build: (\w+) -->")
_ESCAPED = re.compile(r"([*_`|\[\]{}#\\])")
_LSF = {
    "none": "none: the restframe has the resolution of the training data",
    "constant": "a learned kernel for each instrument",
    "per_spectrum": "that of each spectrum, read with `lsf=True`",
}


def text(value: Any) -> str:
    """Return a value as Markdown that is no markup."""
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _ESCAPED.sub(r"\\\1", html.escape(" ".join(shown.split()), quote=False))


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def linked(citation: str) -> str:
    """Return a citation whose DOI is a link."""
    words, _, doi = citation.partition(", doi:")
    return f"[{text(words)}](https://doi.org/{doi})" if doi else text(citation)


def items(content: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Yield the lines of a nested list of what a card says."""
    for name, value in content.items():
        start = f"{'  ' * depth}- {text(str(name))}:"
        if isinstance(value, Mapping) and value:
            yield start
            yield from items(value, depth + 1)
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            yield f"{start} {text(shown)}"


def chi2(evaluation: Mapping[str, Any]) -> str:
    """Return the percentiles of reduced chi square that a card states, as a table, or nothing."""
    parts = {"mocks": evaluation, "real spectra": evaluation.get("real spectra", {})}
    rows = [
        (
            text(data),
            text(what),
            str(found["n"]),
            *(f"{found[p]:.2f}" for p in ("p16", "p50", "p84")),
        )
        for data, part in parts.items()
        for what, found in part.get("reduced chi square", {}).items()
    ]
    header = ("reduced χ²", "", "spectra", "16 %", "median", "84 %")
    return table(header, rows) if rows else ""


def card_of(name: str) -> str:
    """Return the section of one model."""
    from spender_core import registry

    card = registry.info(name)
    embedded = card.weights.startswith("package:")
    span = "" if card.z_range is None else f"{card.z_range[0]:g} to {card.z_range[1]:g}"
    facts = {
        "also called": ", ".join(f"`{alias}`" for alias in card.aliases),
        "instruments": ", ".join(f"`{one.name}`" for one in card.instruments),
        "latents": str(card.latents),
        "redshifts": span,
        "line spread function": _LSF[card.lsf] if card.kind == "autoencoder" else "",
        "architecture": f"`{card.architecture}`",
        "weights": "inside the plugin" if embedded else f"downloaded: `{card.weights}`",
        "sha256": f"`{card.sha256[:16]}`" + ("…" if len(card.sha256) > 16 else ""),
        "licence": text(card.licence),
        "cite": "; ".join(map(linked, card.citation)),
    }
    detail = "\n".join(
        f":::{{dropdown}} {title}\n" + "\n".join(items(content)) + "\n:::\n"
        for title, content in (("Training", card.training), ("Evaluation", card.evaluation))
        if content
    )
    parts = [
        f"### {name}",
        f"{text(card.description)}.",
        table(("", ""), [(key, value) for key, value in facts.items() if value]),
        chi2(card.evaluation),
        detail,
    ]
    return "\n\n".join(part for part in parts if part)


def models() -> str:
    """Return the cards of all installed models, in groups, behind a table of them."""
    from spender_core import registry

    groups: dict[str, list[str]] = {"Embedded": [], "Published": [], "Flows": []}
    for name in registry.list():
        card = registry.info(name)
        embedded = card.weights.startswith("package:")
        kind = "Flows" if card.kind == "flow" else "Embedded" if embedded else "Published"
        groups[kind].append(name)
    rows = []
    for kind, names in groups.items():
        for name in names:
            card = registry.info(name)
            served = ", ".join(f"`{one.name}`" for one in card.instruments)
            link = f"[`{name}`](#{name.lower()})"
            rows.append((link, kind.lower(), served, str(card.latents)))
    sections = [table(("model", "", "instruments", "latents"), rows)]
    for kind, names in groups.items():
        sections += [f"## {kind}", *map(card_of, names)]
    return "\n\n".join(sections)


def commands() -> str:
    """Return every command of `spender`, with its arguments and options."""
    import typer

    from spender_core.cli.app import app

    return "\n\n".join(_described("spender", typer.main.get_command(app)))


def _described(path: str, command: Any, depth: int = 1) -> Iterator[str]:
    inner = getattr(command, "commands", None)
    if depth > 1:
        yield f"## {path}"
        yield text(command.help or "")
    if inner is not None:
        for name in sorted(inner):
            yield from _described(f"{path} {name}", inner[name], depth + 1)
        return
    words = [path]
    rows = []
    for option in command.params:
        if option.name == "help" or getattr(option, "hidden", False):
            continue
        if option.param_type_name == "argument":
            shown = (option.metavar or option.name).upper()
            shown += "..." if option.nargs == -1 else ""
            words.append(shown if option.required else f"[{shown}]")
            rows.append((f"`{shown}`", text(option.help or "")))
        else:
            names = ", ".join(f"`{one}`" for one in (*option.opts, *option.secondary_opts))
            rows.append((names, _told(option)))
    if any(option.param_type_name == "option" for option in command.params):
        words.append("[OPTIONS]")
    yield "```text\n" + " ".join(words) + "\n```"
    if rows:
        yield table(("", ""), rows)


def _told(option: Any) -> str:
    """Return the help of an option, and its default where that says something."""
    told = text(option.help or "")
    if option.required:
        return f"{told} **Required.**"
    default = option.default
    if isinstance(default, bool) or default is None or callable(default) or default in ("", [], ()):
        return told
    return f"{told} Default: `{default}`."


WRITERS: dict[str, Callable[[], str]] = {"models": models, "commands": commands}


def write(app: Sphinx, page: str, source: list[str]) -> None:
    """Put what is generated in the place of its comment."""
    source[0] = _MARK.sub(lambda mark: WRITERS[mark[1]](), source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Listen for pages that are read."""
    app.connect("source-read", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
