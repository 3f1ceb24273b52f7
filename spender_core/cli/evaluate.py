"""`spender evaluate`: a model judged on mocks that know the truth, and on real spectra."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from spender_core import registry
from spender_core.archives.location import redacted
from spender_core.cli.outputs import check_outputs
from spender_core.cli.show import print_table
from spender_core.cli.spectra import read
from spender_core.cli.watched import watched
from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.galaxies import prepare
from spender_core.datasets.mock.templates import read_populations
from spender_core.datasets.mock.writing import read_mocks
from spender_core.errors import InputError, NoSpectraError, SpenderError
from spender_core.evaluation.baseline import learn_pca
from spender_core.evaluation.invariance import (
    SHIFTS,
    Invariance,
    MockViews,
    invariance,
    with_room,
)
from spender_core.evaluation.judging import Part, evaluate
from spender_core.evaluation.measures import Mock
from spender_core.evaluation.pca import RestframePCA
from spender_core.evaluation.real import RealSpectrum, judge_real, usable
from spender_core.evaluation.report import Report
from spender_core.evaluation.universe import SNR, Universe
from spender_core.interfaces import Instrument, Model
from spender_core.records import printable

_MOCKS = 1000
"""Mocks to judge by, if no number is given."""
_CONDITIONS = 64
"""Parametric conditions to draw from."""
_LEARNED = 2000
"""Mocks from which the components of the PCA are learned."""
_OBJECTS = 256
"""Objects whose latents are compared in several views."""
_Z_RANGE = (0.0, 0.4)
"""Redshifts of mocks for a model whose card does not tell its own."""


@dataclass(frozen=True)
class Request:
    """What to judge a model by.

    Attributes:
        model: Its name, path or URL.
        instrument: Name of the instrument; the model's first if None.
        files: Files of real spectra.
        mocks: Number of mocks; 0 for none. None for all of `mock_file`, or else 1000.
        templates: Folder of stellar populations; parametric ones if None.
        conditions: Files of the instrument to take noise, masks and LSF from; parametric
            ones if there are none.
        pca: Numbers of components of the baseline; none if 0.
        refine: Steps towards the best latents of each spectrum; 0 judges the encoder alone.
        seed: Of the mocks.
        everything: Judge real spectra that fail the quality cuts too.
        mock_file: Mocks with their truth, judged instead of new ones.
    """

    model: str
    instrument: str | None
    files: Sequence[str]
    mocks: int | None
    templates: Path | None
    conditions: Sequence[str]
    pca: Sequence[int]
    refine: int
    seed: int
    everything: bool
    mock_file: Path | None = None


@dataclass(frozen=True)
class _Mocks:
    """Mocks to judge by, and others to learn from.

    Attributes:
        judged: Those to judge by.
        number: How many of them.
        learned: Others, from which the PCA learns.
        about: What the report says of them.
        universe: Where they come from; None if from a file.
    """

    judged: Iterable[Mock]
    number: int
    learned: Iterable[Mock]
    about: dict[str, Any]
    universe: Universe | None = None


def run(request: Request, output: Path) -> None:
    """Judge a model, print the tables, and write the report into a folder."""
    _check(request)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; give the name of a folder for the report")
    check_outputs([output / "report.json"], [*request.files, *request.conditions])
    instrument, model = _loaded(request)
    sizes = _sizes(request, model)
    mocks = _mocks(request, instrument, model, sizes)
    pca, about = None, {} if mocks is None else dict(mocks.about)
    if mocks is not None and sizes:
        pca = learn_pca(model, instrument, mocks.learned, max(sizes), _LEARNED)
    real = _real(request, model, instrument, pca, sizes)
    if mocks is not None and mocks.number:
        report = _on_mocks(request, instrument, model, mocks, pca, sizes, real)
    else:
        report = Report(_name(model), instrument.name, about, real=tuple(real))
    for table in report.tables().values():
        print_table(table.columns, table.text(), table.title)
    files = report.write(output)
    print(printable(f"{output}: report.md, report.json and {len(files) - 2} pictures"))


def _check(request: Request) -> None:
    """Refuse requests that contradict themselves."""
    if request.mock_file is None:
        if request.mocks == 0 and not request.files:
            raise InputError("nothing to judge by: give files of spectra, or --mocks above 0")
        return
    if request.mocks == 0:
        raise InputError("--mocks 0 leaves none of --mock-file to judge by; leave one of them out")
    if request.templates is not None or request.conditions:
        raise InputError(
            "--templates and --conditions make new mocks, which --mock-file replaces; leave them out"
        )


def _loaded(request: Request) -> tuple[Instrument, Model]:
    instrument, model = registry.load(request.model, instrument=request.instrument)
    if not isinstance(model, Model):
        raise InputError(
            f"{redacted(request.model)!r} is a flow of latents; only models of spectra are judged"
        )
    if _of_stars(model) and request.mock_file is None and request.mocks != 0:
        raise InputError(
            f"{_name(model)} is a model of stars, and new mocks are galaxies; make stars by "
            f"`spender mock {instrument.name} --what stars -o stars.fits`, and judge it by "
            "--mock-file stars.fits, or by files of real stars and --mocks 0"
        )
    return instrument, model


def _of_stars(model: Model) -> bool:
    """Tell whether a card says so, by what it was trained on or redshifts below 3000 km/s."""
    card = model.card
    if card is None:
        return False
    near = card.z_range is not None and card.z_range[1] < 0.01
    return near or "stars" in str(card.training.get("data", ""))


def _name(model: Model) -> str:
    return model.card.name if model.card else type(model).__name__


def _sizes(request: Request, model: Model) -> tuple[int, ...]:
    """Return the sizes asked for, and one with as many numbers as the model has."""
    asked = sorted({size for size in request.pca if size})
    if asked and _of_stars(model) and request.mock_file is None:
        print("not used: PCA: it would learn from galaxies; give --mock-file", file=sys.stderr)
        return ()
    if not asked or model.card is None:
        return tuple(asked)
    return tuple(dict.fromkeys([*asked, model.card.latents + 1]))


def _mocks(
    request: Request, instrument: Instrument, model: Model, sizes: Sequence[int]
) -> _Mocks | None:
    """Return mocks to judge by and to learn from; none if neither is wanted."""
    if request.mock_file is not None:
        return _from_file(request, request.mock_file, instrument, bool(sizes))
    number = _MOCKS if request.mocks is None else request.mocks
    if not (number or sizes):
        return None
    universe = _universe(request, instrument, model)
    about: dict[str, Any] = {
        "seed": request.seed,
        "templates": "parametric" if request.templates is None else "from files",
        "conditions": f"{len(request.conditions)} files" if request.conditions else "parametric",
        "S/N": f"log-uniform, {SNR[0]:g} to {SNR[1]:g} a pixel",
    }
    if sizes:
        about["PCA"] = f"learned from {_LEARNED} {'other ' if number else ''}mock galaxies"
    return _Mocks(universe, number, replace(universe, seed=universe.seed + 1), about, universe)


def _universe(request: Request, instrument: Instrument, model: Model) -> Universe:
    """Return the mocks to judge by; the PCA learns from the same, with another seed."""
    if request.templates is None:
        populations = parametric.populations()
    else:
        populations = read_populations(request.templates)
    if request.conditions:
        conditions = Conditions.from_files(instrument, list(request.conditions))
    else:
        generator = torch.Generator().manual_seed(request.seed)
        conditions = Conditions.parametric(instrument, _CONDITIONS, generator)
    z_range = _Z_RANGE if model.card is None else model.card.z_range or _Z_RANGE
    return Universe(
        instrument, prepare(populations), conditions, z_range, seed=2 * request.seed + 1
    )


def _from_file(request: Request, path: Path, instrument: Instrument, learns: bool) -> _Mocks:
    """Read mocks that know their truth; if a PCA learns from them, from rows not judged."""
    file = read_mocks(path)
    if file.batch.instrument != instrument.name:
        raise InputError(
            f"{path} holds mocks of {file.batch.instrument}, not of {instrument.name}; choose "
            "another of the model's instruments by --instrument"
        )
    if file.truth is None or file.sources is None:
        raise InputError(
            f"{path} holds no truth to judge by, or no restframes; write it by spender mock "
            "--truth, with one kind of object"
        )
    count = len(file.batch)
    first = min(count // 2, _LEARNED) if learns else 0
    learned, judged = (
        Part(file.batch[rows], file.truth[rows], file.sources[rows])
        for rows in (slice(0, first), slice(first, count))
    )
    number = count - first if request.mocks is None else min(request.mocks, count - first)
    about: dict[str, Any] = {"file": path.name, "rows judged": f"{first} to {first + number - 1}"}
    if learns:
        about["PCA"] = f"learned from rows 0 to {first - 1} of the file"
    return _Mocks([judged], number, [learned], about)


def _on_mocks(
    request: Request,
    instrument: Instrument,
    model: Model,
    mocks: _Mocks,
    pca: RestframePCA | None,
    sizes: tuple[int, ...],
    real: list[RealSpectrum],
) -> Report:
    console = watched()
    with Progress(console=console, transient=True, disable=console.quiet) as progress:
        task = progress.add_task("mocks", total=mocks.number)
        return evaluate(
            model,
            instrument,
            mocks.judged,
            mocks.number,
            pca,
            sizes,
            None if mocks.universe is None else _invariance(model, mocks.universe),
            real,
            mocks.about,
            lambda count: progress.advance(task, count),
            request.refine,
        )


def _invariance(model: Model, universe: Universe) -> Invariance | None:
    low, high = universe.z_range
    shifts = [shift for shift in SHIFTS if shift < high - low]
    if not shifts:
        return None
    sources = with_room(universe.sources(_OBJECTS), universe.z_range, max(shifts))
    views = MockViews(sources, universe.instrument, universe.conditions, universe.seed)
    return invariance(model, views, shifts)


def _real(
    request: Request,
    model: Model,
    instrument: Instrument,
    pca: RestframePCA | None,
    sizes: tuple[int, ...],
) -> list[RealSpectrum]:
    """Judge real spectra; say which ones could not be used, and why."""
    found: list[RealSpectrum] = []
    unused: list[tuple[str, str]] = []
    for file in request.files:
        name = redacted(file)
        try:
            seen = registry.recognise(file)
            if seen.name != instrument.name:
                unused.append((name, f"of {seen.name}, not {instrument.name}; see --instrument"))
                continue
            content = read(instrument, file, request.everything, model.uses_lsf)
        except SpenderError as error:
            unused.append((name, str(error)))
            continue
        unused += [(f"{name}: {label}", cause) for label, cause in content.rejected]
        if not content.rows:
            continue
        batch = content.batch[content.rows]
        good = usable(model, batch)
        outside = [batch.label(row) for row in (~good).nonzero()[:, 0].tolist()]
        unused += [(f"{name}: {label}", "its z is none of the model's") for label in outside]
        if bool(good.any()):
            found += judge_real(model, instrument, batch[good], pca, sizes, refine=request.refine)
    for name, cause in unused:
        print(printable(f"not used: {name}: {cause}"), file=sys.stderr)
    if request.files and not found and request.mocks == 0:
        raise NoSpectraError(
            f"no spectrum of {instrument.name} in {len(request.files)} file(s) with a redshift of "
            "the model's; --all keeps flagged ones"
        )
    return found
