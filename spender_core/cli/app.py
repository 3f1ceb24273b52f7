"""The commands, their options, and how errors are shown."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from spender_core.archives.location import redacted
from spender_core.cli.check import check
from spender_core.cli.encoding import encode
from spender_core.cli.finding import query, read
from spender_core.cli.making import mock, new_encoder, prepare, push, train
from spender_core.cli.new_plugin import new_plugin
from spender_core.cli.options import SEEDS, All, Files, ModelOption, Refine
from spender_core.errors import SpenderError
from spender_core.records import printable

app = typer.Typer(
    name="spender",
    help="Neural models of astronomical spectra.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

CORNERLESS = {
    "z": "z", "most": "most", "everything": "all", "per_page": "per-page", "zoom": "zoom",
    "rest": "rest", "smooth": "smooth", "refine": "refine",
}  # fmt: skip
"""Options of `plot` that mean nothing to pictures of latents."""


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Neural models of astronomical spectra."""


def main() -> None:
    """Run the command line; an error is one readable line, unless --debug is given, anywhere."""
    _never_fail_to_print()
    arguments, debug = _without_debug(sys.argv[1:])
    try:
        app(args=arguments)
    except Exception as error:
        if debug:
            raise
        kind = "" if isinstance(error, SpenderError) else f"{type(error).__name__}: "
        hint = "" if isinstance(error, SpenderError) else " (spender --debug ... shows where)"
        print(f"spender: error: {_shown(f'{kind}{error}')}{hint}", file=sys.stderr)
        sys.exit(1)


def _without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Return the arguments less --debug, which may stand anywhere before "--", and if it did."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [word for word in arguments[:end] if word != "--debug"]
    return [*kept, *arguments[end:]], len(kept) < end


def _shown(message: str) -> str:
    """Return a message on one line, without escapes and the secrets of URLs that were given."""
    for argument in sys.argv[1:]:
        for url in (argument, argument.partition("=")[2]):
            if redacted(url) != url:
                message = message.replace(url, redacted(url))
    return printable(message)


def _never_fail_to_print() -> None:
    """Let names that the terminal's encoding cannot show be escaped, rather than raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The picture; another, of latents, beside it.")
    ] = Path("spender-demo.png"),
    number: Annotated[
        int, typer.Option("--number", "-n", min=1, help="Spectra of each instrument.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Seed of the mocks.")] = 1,
) -> None:
    """Encode and reconstruct mock galaxies with the embedded models; needs no data."""
    from spender_core.cli.demo import run

    run(output, number, seed)


@app.command(name="list")
def list_models() -> None:
    """List the models that the installed plugins offer."""
    from spender_core.cli.show import show_models

    show_models()


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A model, or the path of a weights file.")],
) -> None:
    """Show the card of a model: what it was trained on, and how it was judged."""
    from spender_core.cli.show import show_card

    show_card(name)


@app.command()
def plugins() -> None:
    """Show every installed plugin: its version, what it offers, or why it failed."""
    from spender_core.cli.show import show_plugins

    show_plugins()


@app.command()
def pull(
    names: Annotated[list[str] | None, typer.Argument(help="Models, or URLs of weights.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All models of the plugins.")] = False,
) -> None:
    """Bring the weights of models into the cache."""
    from spender_core.cli.cache import pull

    pull(names or [], everything)


store = typer.Typer(help="Look after the cache of weights and spectra.", no_args_is_help=True)
app.add_typer(store, name="cache")


@store.command(name="list")
def cache_list() -> None:
    """List what is in the cache, and where it came from."""
    from spender_core.cli.cache import show

    show()


@store.command(name="verify")
def cache_verify() -> None:
    """Check the hash of every file."""
    from spender_core.cli.cache import verify

    verify()


@store.command(name="prune")
def cache_prune(
    names: Annotated[list[str] | None, typer.Argument(help="Models to remove.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all models.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Forget their hashes too, and accept others.")
    ] = False,
    data: Annotated[bool, typer.Option("--data", help="Remove all files of archives.")] = False,
) -> None:
    """Remove damaged files and leftovers of downloads, and the models that are named."""
    from spender_core.cli.cache import prune

    prune(names or [], everything, forget, data)


@store.command(name="size")
def cache_size() -> None:
    """Show the size of the cache, and the space that is left."""
    from spender_core.cli.cache import size

    size()


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A .pt file of spender.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors file.")],
    instrument: Annotated[
        str | None, typer.Option(help="The instrument of the model, if its grid does not tell.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model, for its card.")] = None,
) -> None:
    """Convert weights of spender up to 0.3 to a safetensors file that describes itself."""
    from spender_core import registry
    from spender_core.cli.outputs import check_outputs
    from spender_core.errors import InputError

    if output.suffix != ".safetensors":
        raise InputError(f"the output must end in .safetensors, not {output.suffix or 'nothing'}")
    check_outputs([output], [str(source)])
    _, model = registry.load(str(source.absolute()), instrument=instrument)
    changes = {} if name is None else {"name": name}
    card = registry.save(
        output, model, type(model.card).model_validate(model.card.model_dump() | changes)
    )
    print(f"{output}: {card.kind} {card.name!r}, {card.latents} latents, sha256 {card.sha256}")


@app.command()
def plot(
    context: typer.Context,
    files: Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture: .png, .pdf or .svg.")],
    model: ModelOption = None,
    z: Annotated[float | None, typer.Option("--z", help="Redshift of spectra without one.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Spectra of each file to draw at most.")] = 6,
    everything: All = False,
    per_page: Annotated[
        int | None,
        typer.Option(min=1, help="Spectra on a page. Default: 3 in a .pdf, else 6 in a file."),
    ] = None,
    zoom: Annotated[
        str, typer.Option(help="Enlarge, e.g. 'Hα, [O III], 4000 break, 4861:80' (restframe Å).")
    ] = "",
    rest: Annotated[
        bool, typer.Option("--rest", help="Restframe, with the model beyond the observed range.")
    ] = False,
    smooth: Annotated[
        str, typer.Option(help="Smooth by a Gaussian, σ in pixels (3) or km/s (150km/s).")
    ] = "",
    style: Annotated[str, typer.Option(help="paper, column, talk or screen.")] = "paper",
    dpi: Annotated[int | None, typer.Option(min=30, max=600, help="Of a .png.")] = None,
    refine: Refine = 0,
    corner: Annotated[
        bool, typer.Option("--corner", help="Draw latents: files are tables of spender encode.")
    ] = False,
    colour: Annotated[
        str, typer.Option(help="With --corner: colour objects by a column, e.g. z.")
    ] = "",
) -> None:
    """Draw the spectra of files with their reconstructions and residuals, or their latents."""
    from spender_core.cli import corners, draw
    from spender_core.errors import InputError

    if corner:
        ignored = [
            f"--{CORNERLESS[name]}"
            for name in CORNERLESS
            if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
        ]
        if ignored:
            raise InputError(
                f"{', '.join(ignored)} goes with pictures of spectra, not with --corner, which "
                "draws the latents of tables"
            )
        corners.run(corners.Request(files, model, colour, style, dpi), output)
        return
    if colour:
        raise InputError("--colour goes with --corner, which draws latents")
    request = draw.Request(
        files=files,
        model=model,
        z=z,
        most=most,
        everything=everything,
        per_page=per_page,
        zoom=zoom,
        rest=rest,
        smooth=smooth,
        style=style,
        dpi=dpi,
        refine=refine,
    )
    draw.run(request, output)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A model: its name, path or URL.")],
    files: Annotated[
        list[str] | None, typer.Argument(help="Files of real spectra to judge it on too.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path(
        "spender-report"
    ),
    instrument: Annotated[
        str | None, typer.Option(help="Which of the model's instruments. Default: its first.")
    ] = None,
    mocks: Annotated[
        int | None,
        typer.Option(min=0, help="Number of mocks. Default: all of --mock-file, else 1000."),
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Folder of stellar populations. Default: parametric ones.")
    ] = None,
    conditions: Annotated[
        list[str] | None,
        typer.Option(help="A file to take noise, masks and LSF from; can be repeated."),
    ] = None,
    pca: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Components of the PCA beside it; can be repeated, 0 for none."),
    ] = None,
    mock_file: Annotated[
        Path | None, typer.Option(help="Mocks of `spender mock`, with truth, instead of new ones.")
    ] = None,
    refine: Refine = 0,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Seed of the mocks.")] = 0,
    everything: All = False,
) -> None:
    """Judge a model on mocks that know the truth, and on real spectra; write a report."""
    from spender_core.cli.evaluate import Request, run

    run(
        Request(
            model=model,
            instrument=instrument,
            files=files or [],
            mocks=mocks,
            templates=templates,
            conditions=conditions or [],
            pca=[6] if pca is None else pca,
            refine=refine,
            seed=seed,
            mock_file=mock_file,
            everything=everything,
        ),
        output,
    )


for command in (encode, query, read, mock, prepare, train, new_encoder, push, check, new_plugin):
    app.command()(command)
