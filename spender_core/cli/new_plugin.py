"""`spender new-plugin`: a package for a new instrument, ready to be edited."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new_plugin(
    name: Annotated[str, typer.Argument(help="The instrument's name, e.g. lamost.")],
    grid: Annotated[
        str, typer.Option(help="linear or log: pixels of equal width in wavelength or its log10.")
    ] = "linear",
    first: Annotated[
        float | None, typer.Option(help="First pixel: vacuum Å, or log10 of it for log.")
    ] = None,
    step: Annotated[
        float | None, typer.Option(help="From pixel to pixel: Å, or log10 for log.")
    ] = None,
    pixels: Annotated[int | None, typer.Option(help="Number of pixels.")] = None,
    to: Annotated[Path, typer.Option("--to", help="Folder in which the new one is made.")] = Path(),
    author: Annotated[str | None, typer.Option(help="For the licence and the metadata.")] = None,
) -> None:
    """Write a plugin for a new instrument: a package that passes its tests, to be edited."""
    from spender_core.cli.outputs import terminable
    from spender_core.records import printable
    from spender_core.scaffold import Settings, write

    settings = Settings(grid, first, step, pixels, author)
    with terminable():
        made = write(name, to, settings)
    print(
        f"{printable(str(made))}\n"
        "Next, in that folder:\n"
        '  pip install -e ".[test]"\n'
        "  pytest\n"
        f"  spender check {name}\n"
        '  grep -rn "EDIT:" .     each place to edit; README.md goes through them'
    )
