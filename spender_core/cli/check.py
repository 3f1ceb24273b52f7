"""`spender check`: the checks of a plugin, outside pytest."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from spender_core.cli.watched import watched
from spender_core.records import printable


def check(
    name: Annotated[str, typer.Argument(help="An instrument of an installed plugin.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files of it. Default: the plugin's own example.")
    ] = None,
    line: Annotated[
        str,
        typer.Option(
            help="WAVE,FLUX of a line in the first spectrum: vacuum Å; flux unit times Å."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Results for scripts.")] = False,
) -> None:
    """Check an instrument: grid, loader, ids, LSF, remote reading, processes, models."""
    from spender_core.errors import MissingFileError
    from spender_core.testing.running import run

    if line and not files:
        raise typer.BadParameter("--line goes with files: an example knows its own lines")
    for file in files or ():
        if not file.is_file():
            raise MissingFileError(f"no file {file}; give files of {name!r} on this machine")
    with tempfile.TemporaryDirectory(prefix="spender-check-") as folder, _counting() as done:
        results = run(_subject(name, files or [], line, Path(folder)), done)
    show = _print_json if as_json else _print_table
    show(results)
    raise typer.Exit(1 if any(result.outcome == "failed" for result in results) else 0)


@contextmanager
def _counting() -> Iterator[Callable[[Any], None]]:
    """Show how many checks were made, on a terminal; yields what to call after each."""
    from rich.progress import Progress

    from spender_core.testing.checks import CHECKS

    console = watched()
    with Progress(console=console, transient=True, disable=console.quiet) as progress:
        task = progress.add_task("checks", total=len(CHECKS))
        yield lambda result: progress.advance(task)


def _subject(name: str, files: Sequence[Path], line: str, folder: Path) -> Any:
    """Return what to check: the plugin's example, or files that were given."""
    from spender_core import registry
    from spender_core.testing.example import Example
    from spender_core.testing.subject import Subject

    found, statuses = registry.discovery(), registry.plugins()
    known = name in found.names("instrument")
    spec = None
    if known or not any(name == status.name for status in statuses):
        told = [f"{one.name}: {problem}." for one in statuses for problem in one.problems]
        spec = found.get("instrument", name, f"Plugins that failed: {' '.join(told)}" * bool(told))
    example: Example | Callable[[], Example] | None = None
    if files:
        example = Example(tuple(file.absolute() for file in files), line=_line(line))
    elif spec is not None and spec.example is not None:
        place = folder / "example"
        place.mkdir()
        example = partial(_written, spec.example, place)
    return Subject(
        lambda: registry.instrument(name), folder, example, name=name, spec=spec, statuses=statuses
    )


def _written(target: str, folder: Path) -> Any:
    """Write the example of a plugin, and return it."""
    from spender_core.plugins.manager import import_target

    return import_target(target)(folder)


def _line(text: str) -> Any:
    from spender_core.testing.example import Line

    if not text:
        return None
    try:
        wave, flux = map(float, text.split(","))
    except ValueError:
        wave = flux = math.nan
    if not (0 < wave < math.inf and 0 < flux < math.inf):
        raise typer.BadParameter(f"--line is WAVE,FLUX, both > 0, e.g. 6564.6,120, not {text!r}")
    return Line(wave, flux)


def _print_table(results: Sequence[Any]) -> None:
    from spender_core.cli.show import print_table

    rows = [(one.group, one.name, one.outcome, one.reason) for one in results]
    print_table(("group", "check", "outcome", "why skipped"), rows)
    for one in results:
        if one.error is not None:
            print(f"\n{one.group}: {one.name}")
            for text in str(one.error).splitlines():
                print(f"  {printable(text)}")
    counts = {kind: sum(one.outcome == kind for one in results) for kind in _OUTCOMES}
    print("\n" + ", ".join(f"{count} {kind}" for kind, count in counts.items()))


_OUTCOMES = ("passed", "failed", "skipped")


def _print_json(results: Sequence[Any]) -> None:
    print(json.dumps([_plain(one) for one in results], indent=2))


def _plain(one: Any) -> dict[str, Any]:
    error = one.error
    told = (
        {}
        if error is None
        else {"expected": error.expected, "found": error.found, "fix": error.fix}
    )
    return {
        "group": one.group,
        "check": one.name,
        "outcome": one.outcome,
        "reason": one.reason,
        **told,
    }
