"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

SEEDS = 2**31 - 1
"""Largest seed: streams of random numbers derive others from it, of 64 bits."""

Files = Annotated[list[str], typer.Argument(help="Files of spectra, paths or URLs.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Model to use. Default: the instrument's embedded one."),
]
All = Annotated[
    bool, typer.Option("--all", help="Keep spectra that fail the survey's quality cuts.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are there.")]
Refine = Annotated[
    int,
    typer.Option(
        min=0, help="Steps from the encoder's latents to those that fit each spectrum best; try 6."
    ),
]
