"""The command `encode`: to a table, or to a catalogue in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spender_core.cli.options import All, ModelOption, Overwrite, Refine

CATALOGUE = "Catalogue"
"""Panel of the options that go with a catalogue."""

_ALONE = {
    "ids": "ids", "instrument": "instrument", "root": "root", "release": "release", "flow": "flow",
    "redshift": "redshift", "workers": "workers", "scheduler": "scheduler", "size": "partition",
    "retry": "retry-failed",
}  # fmt: skip
"""Options that mean nothing to a table."""


def encode(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files of spectra, paths or URLs; for a catalogue, also @LIST or a dataset."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Table: .fits, .ecsv or .parquet; or a catalogue: FOLDER/.",
        ),
    ] = None,
    model: ModelOption = None,
    everything: All = False,
    device: Annotated[
        str, typer.Option(help="Device of torch; with cuda, each worker takes a GPU.")
    ] = "cpu",
    failures: Annotated[
        Path | None,
        typer.Option(help="Table of the files that could not be read: .ecsv, .fits or .csv."),
    ] = None,
    refine: Refine = 0,
    overwrite: Overwrite = False,
    ids: Annotated[
        Path | None,
        typer.Option(
            help="A table of ids, e.g. of `spender query`, in place of files.",
            rich_help_panel=CATALOGUE,
        ),
    ] = None,
    instrument: Annotated[
        str | None,
        typer.Option(help="The instrument. Default: the files tell it.", rich_help_panel=CATALOGUE),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            help="With --ids: a copy of the archive, a folder or URL.", rich_help_panel=CATALOGUE
        ),
    ] = None,
    release: Annotated[
        str | None, typer.Option(help="With --ids: the data release.", rich_help_panel=CATALOGUE)
    ] = None,
    flow: Annotated[
        str | None,
        typer.Option(help="A flow of the latents, for logP.", rich_help_panel=CATALOGUE),
    ] = None,
    redshift: Annotated[
        bool, typer.Option("--redshift", help="Measure redshifts.", rich_help_panel=CATALOGUE)
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes; 0: this one, without Dask. Default: as many as processors.",
            rich_help_panel=CATALOGUE,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler to use instead.", rich_help_panel=CATALOGUE),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--partition",
            min=1,
            help="Files or ids of a partition; spectra of a dataset.",
            rich_help_panel=CATALOGUE,
        ),
    ] = None,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Read again what could not be read.",
            rich_help_panel=CATALOGUE,
        ),
    ] = False,
) -> None:
    """Encode the spectra of files: latents and reduced chi square, to a table.

    With -o FOLDER/, of any number of spectra, on workers of Dask: a catalogue of Parquet files, which
    goes on where it was stopped. Exit status then: 0 if every partition is finished, 3 if some
    failed, 130 or 143 if interrupted.
    """
    from spender_core.cli import catalogue
    from spender_core.errors import InputError

    if output is not None and catalogue.is_folder(output):
        catalogue.run(
            catalogue.Request(
                sources=files or [],
                ids=ids,
                instrument=instrument,
                model=model,
                flow=flow,
                redshift=redshift,
                refine=refine,
                everything=everything,
                root=root,
                release=release,
                size=size,
                workers=workers,
                scheduler=scheduler,
                device=device,
                failures=failures,
                retry=retry,
                overwrite=overwrite,
            ),
            Path(output),
        )
        return
    given = [
        f"--{_ALONE[name]}"
        for name in _ALONE
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    if given:
        raise InputError(
            f"{', '.join(given)} goes with a catalogue, whose name ends in /: -o FOLDER/"
        )
    if not files:
        message = "give FILES of spectra, paths or URLs"
        raise typer.BadParameter(message, ctx=context, param_hint="FILES")
    from spender_core.cli.encode import run

    run(
        files,
        None if output is None else Path(output),
        model,
        everything,
        device,
        failures,
        refine,
        overwrite,
    )
