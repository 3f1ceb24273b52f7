"""Where bars of progress are shown: on standard error, if somebody watches it."""

from __future__ import annotations

from rich.console import Console


def watched() -> Console:
    """Return the standard error for a bar of progress; nothing is written where it is no terminal.

    A bar that is disabled is not enough: rich before 14.3 ends it with an empty line.
    """
    console = Console(stderr=True)
    console.quiet = not console.is_terminal
    return console
