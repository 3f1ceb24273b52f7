"""`spender mock`: files of spectra that know the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spender_core import registry
from spender_core.cli.outputs import check_outputs
from spender_core.cli.watched import watched
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.stream import MockSurvey
from spender_core.datasets.mock.writing import check_suffix, write_mocks
from spender_core.records import printable


@dataclass(frozen=True)
class Request:
    """What to make.

    Attributes:
        instrument: Name of the instrument.
        number: Spectra.
        what: Kind of object.
        templates: Folder of templates; parametric ones if None.
        conditions: Files of the instrument to take noise, masks and LSF from; parametric
            ones if there are none.
        seed: Of everything random.
        snr: Limits of the median signal-to-noise ratio a pixel; those of the survey if None.
        z: Limits of redshift; those of the survey if None.
        truth: Write the truth too.
    """

    instrument: str
    number: int
    what: str = "galaxies"
    templates: Path | None = None
    conditions: Sequence[str] = ()
    seed: int = 0
    snr: tuple[float, float] | None = None
    z: tuple[float, float] | None = None
    truth: bool = True


def run(request: Request, output: Path) -> None:
    """Make mocks and write them into a file."""
    check_suffix(output)
    check_outputs([output], request.conditions)
    instrument = registry.instrument(request.instrument)
    conditions = None
    if request.conditions:
        conditions = Conditions.from_files(instrument, list(request.conditions))
    survey = MockSurvey(
        instrument,
        request.what,
        n=request.number,
        templates=request.templates,
        conditions=conditions,
        seed=request.seed,
        z_range=request.z,
        snr_range=request.snr,
    )
    console = watched()
    columns = (TextColumn("mocks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as progress:
        task = progress.add_task("mocks", total=request.number)
        write_mocks(
            survey, output, truth=request.truth, done=lambda count: progress.advance(task, count)
        )
    size = output.stat().st_size / 1e6
    print(printable(f"{output}: {request.number} mock {request.what}, {size:.1f} MB"))
