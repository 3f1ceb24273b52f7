"""Tables and cards on the terminal; needs neither torch nor astropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spender_core import registry
from spender_core.records import printable


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """Print a table; on a pipe, wide enough for all of it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(value))) for value in row))
    console.print(table)


def show_models() -> None:
    """Print one line a model."""
    rows = []
    for name in registry.list():
        card = registry.info(name)
        served = ", ".join(one.name for one in card.instruments)
        where = "embedded" if card.weights.startswith("package:") else "download"
        title = ", ".join([name, *card.aliases])
        rows.append((title, card.kind, served, card.latents, where, card.description))
    print_table(("model", "kind", "instrument", "latents", "weights", "description"), rows)
    _report_problems()


def show_card(name: str) -> None:
    """Print a model card, field by field."""
    print(registry.info(name))


def show_plugins() -> None:
    """Print one line a plugin, and the problems below."""
    rows = [
        (
            status.name,
            f"{status.distribution} {status.version}",
            "ok" if status.ok else "failed",
            ", ".join(status.instruments),
            ", ".join(status.models),
            ", ".join(status.architectures),
        )
        for status in registry.plugins()
    ]
    columns = ("plugin", "distribution", "status", "instruments", "models", "architectures")
    print_table(columns, rows)
    _report_problems()


def _report_problems() -> None:
    for status in registry.plugins():
        for problem in status.problems:
            told = f"{status.distribution} {status.version} (plugin {status.name!r}): {problem}"
            print(printable(told))
