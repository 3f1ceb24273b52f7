"""The commands that find spectra in archives and read them: query and read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spender_core.cli.options import All, Overwrite

Root = Annotated[
    str | None,
    typer.Option(help="A copy of the archive: a folder, a URL, or a name such as s3."),
]
Release = Annotated[str | None, typer.Option(help="The data release. Default: the newest.")]


def query(
    instrument: Annotated[str, typer.Argument(help="Name of the instrument.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Table of ids: .fits, .ecsv, .parquet or .csv."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Conditions, e.g. \"Z > 0.1 and SPECTYPE == 'GALAXY'\".")
    ] = None,
    cone: Annotated[
        str | None, typer.Option(help="RA,DEC,RADIUS in degrees; --cone=-... if it is negative.")
    ] = None,
    box: Annotated[str | None, typer.Option(help="RA1,RA2,DEC1,DEC2 in degrees.")] = None,
    healpix: Annotated[str | None, typer.Option(help="NSIDE,PIXEL[,PIXEL...], nested.")] = None,
    target: Annotated[
        str | None, typer.Option(help="A class of targets of the survey, e.g. LRG.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns of the catalogue to keep, with commas.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows at most.")] = None,
    everything: All = False,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Keep more than the primary spectrum of an object.")
    ] = False,
    root: Root = None,
    release: Release = None,
    catalogue: Annotated[
        str | None, typer.Option(help="A catalogue of your own, path or URL, of the same columns.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Find spectra in a survey's catalogues; the table of their ids is for `spender read`."""
    from spender_core.cli.query import Request, run

    run(
        Request(
            instrument=instrument,
            where=where,
            cone=cone,
            box=box,
            healpix=healpix,
            target=target,
            columns=columns,
            limit=limit,
            everything=everything,
            duplicates=duplicates,
            root=root,
            release=release,
            catalogue=catalogue,
            overwrite=overwrite,
        ),
        output,
    )


def read(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="File of spectra: .fits, .parquet or .ecsv."),
    ],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Paths, URLs, or ids: PLATE-MJD-FIBER; SURVEY,PROGRAM,HEALPIX[,TARGETID]."
        ),
    ] = None,
    instrument: Annotated[
        str | None, typer.Option(help="The instrument. Needed for ids; files tell it themselves.")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="A table of ids, e.g. of `spender query`.")
    ] = None,
    root: Root = None,
    release: Release = None,
    lsf: Annotated[
        bool, typer.Option("--lsf", help="Line spread functions too; DESI's are large.")
    ] = False,
    everything: All = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first source that cannot be read.")
    ] = False,
    failures: Annotated[
        Path | None,
        typer.Option(help="Table of what could not be read: .ecsv, .fits or .csv."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Read spectra from archives or files into one file.

    Exit status: 0 if all sources were read, 3 if some were, 1 if none was, 130 if interrupted.
    """
    from spender_core.cli.read import Request, run

    run(
        Request(
            sources=sources or [],
            instrument=instrument,
            ids=ids,
            root=root,
            release=release,
            lsf=lsf,
            everything=everything,
            strict=strict,
            failures=failures,
            overwrite=overwrite,
        ),
        output,
    )
