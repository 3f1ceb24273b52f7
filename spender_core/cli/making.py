"""The commands that make data and models: mock, prepare, train, new-encoder and push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spender_core.cli.options import SEEDS, All


def mock(
    instrument: Annotated[str, typer.Argument(help="Name of the instrument.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .fits or .parquet.")
    ] = Path("mocks.fits"),
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Number of spectra.")] = 1000,
    what: Annotated[
        str, typer.Option(help="galaxies, quasars, stars, or mixed: all of them.")
    ] = "galaxies",
    templates: Annotated[
        Path | None,
        typer.Option(help="Folder of redmonster's and redrock's templates. Default: parametric."),
    ] = None,
    conditions: Annotated[
        list[str] | None,
        typer.Option(help="A file to take noise, masks and LSF from; can be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Seed of everything random.")] = 0,
    snr: Annotated[
        tuple[float, float] | None, typer.Option(help="Lowest and highest S/N a pixel.")
    ] = None,
    z: Annotated[
        tuple[float, float] | None, typer.Option(help="Lowest and highest redshift.")
    ] = None,
    truth: Annotated[
        bool, typer.Option(help="Write what the spectra are without noise, and made from.")
    ] = True,
) -> None:
    """Write a file of mock spectra of an instrument, with the truth beside."""
    from spender_core.cli.mock import Request, run

    run(
        Request(
            instrument=instrument,
            number=number,
            what=what,
            templates=templates,
            conditions=conditions or [],
            seed=seed,
            snr=snr,
            z=z,
            truth=truth,
        ),
        output,
    )


def prepare(
    instrument: Annotated[str, typer.Argument(help="Name of the instrument.")],
    files: Annotated[
        list[str] | None, typer.Argument(help="Files of spectra, paths or URLs, in an order.")
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Root of the dataset: a folder, or s3://...")
    ] = "",
    lsf: Annotated[
        bool, typer.Option("--lsf", help="Store line spread functions; DESI's are large.")
    ] = False,
    everything: All = False,
    listing: Annotated[
        Path | None, typer.Option("--list", help="A text file with one path or URL a line.")
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="A table of ids in place of files, with the survey's own columns."),
    ] = None,
    archive: Annotated[
        str | None, typer.Option(help="With --ids: a copy of the archive, a folder or URL.")
    ] = None,
    release: Annotated[str | None, typer.Option(help="With --ids: the data release.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first file that cannot be read.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, whatever is there.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Files that are read at once.")] = 2,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check the shards that are there.")
    ] = False,
) -> None:
    """Make a dataset of a survey's files; or go on where an earlier run ended."""
    from spender_core.cli.prepare import Request, run

    run(
        Request(
            instrument=instrument,
            files=files or [],
            listing=listing,
            ids=ids,
            lsf=lsf,
            everything=everything,
            archive=archive,
            release=release,
            strict=strict,
            overwrite=overwrite,
            threads=threads,
            verify=verify,
        ),
        output,
    )


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe: a .toml file, or the name of one.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run and its model.")
    ] = Path("spender-run"),
    data: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH: an instrument's dataset; can be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, and say what would be done.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the folder.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE: change the recipe; can be repeated."),
    ] = None,
) -> None:
    """Train a model by a recipe."""
    from spender_core.cli.train import run

    run(recipe, output, data or [], dry_run, resume, settings or [])


def new_encoder(
    instrument: Annotated[str, typer.Argument(help="Name of the new instrument.")],
    model: Annotated[str, typer.Argument(help="A model, or the path or URL of its weights.")],
    data: Annotated[str, typer.Option(help="The instrument's dataset: a folder or URL.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run and its model.")
    ] = Path("spender-run"),
    like: Annotated[
        str | None,
        typer.Option(help="Instrument of the model whose encoder it begins with."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the optimiser.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=1, help="Spectra of a step.")] = 64,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, and say what would be done.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE: change the recipe; can be repeated."),
    ] = None,
) -> None:
    """Train an encoder of one more instrument for the decoder of a model."""
    from spender_core.cli.train import begin
    from spender_core.training.adding import encoder_recipe
    from spender_core.training.config import Recipe

    made = encoder_recipe(
        instrument, model, like=like, steps=steps, batch_size=batch_size, lr=lr
    ).with_paths({instrument: data})
    recipe = Recipe.parse(made.to_toml(), "the recipe", settings or [])
    begin(recipe, output, dry_run, resume=False)


def push(
    file: Annotated[str, typer.Argument(help="A model: its name, or its .safetensors file.")],
    destination: Annotated[
        str,
        typer.Argument(
            help="A folder, s3://bucket/prefix, or hf:owner/repository; a file name may follow."
        ),
    ],
    revision: Annotated[
        str | None,
        typer.Option(help="Branch on the Hub that takes the commit, even over another file."),
    ] = None,
    message: Annotated[str, typer.Option("--message", help="Of the commit.")] = "",
    private: Annotated[
        bool, typer.Option("--private", help="Keep a repository that is made private.")
    ] = False,
) -> None:
    """Publish a model, whence `registry.load` takes it by its URL."""
    from spender_core.cli.push import run

    run(file, destination, revision, message, private)
