"""`spender encode`: latents and reduced chi square of the spectra of files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spender_core import registry
from spender_core.archives.location import redacted
from spender_core.batch import SpectrumBatch
from spender_core.cataloguing.measuring import Encoded, encode, remark
from spender_core.cli.outputs import Terminated, check_outputs, terminable
from spender_core.cli.show import print_table
from spender_core.cli.spectra import Models, read
from spender_core.cli.tables import (
    FORMATS,
    LISTING_FORMATS,
    check_format,
    write_failures,
    write_table,
)
from spender_core.errors import Failure, NoSpectraError, SpenderError
from spender_core.records import ModelCard, printable


@dataclass
class _Done:
    """What has come of the files so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    unused: list[tuple[str, str]] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    broken: dict[str, SpenderError] = field(default_factory=dict)
    """Why an instrument has no model, by its name."""
    files: int = 0
    refine: int = 0


def run(
    files: list[str],
    output: Path | None,
    wanted: str | None,
    everything: bool,
    device: str,
    failures: Path | None = None,
    refine: int = 0,
    overwrite: bool = False,
) -> None:
    """Encode the files, write or print the table, and list what could not be used.

    Whatever ends it early, Ctrl-C and SIGTERM too, the spectra that are done are written.
    """
    _check(files, output, wanted, failures, overwrite)
    models = Models(wanted, device)
    models.check()
    done = _Done(refine=refine)
    stopped: BaseException | None = None
    try:
        with terminable():
            for file in files:
                _take(file, models, everything, done)
                done.files += 1
    except (Exception, KeyboardInterrupt) as error:
        stopped = error
    problems = _deliver(done, output, failures)
    if isinstance(stopped, KeyboardInterrupt):
        _tell(problems)
        print(f"interrupted after {done.files} of {len(files)} file(s)", file=sys.stderr)
        raise SystemExit(143 if isinstance(stopped, Terminated) else 130) from stopped
    if stopped is not None:
        problems.insert(0, stopped)
    if not (problems or done.rows):
        raise NoSpectraError(
            f"no usable spectrum in {len(files)} file(s); --all keeps flagged ones"
        )
    _tell(problems[1:])
    if problems:
        raise problems[0]


def _check(
    files: list[str],
    output: Path | None,
    wanted: str | None,
    failures: Path | None,
    overwrite: bool,
) -> None:
    """Refuse outputs that could not be written at the end, before any file is read."""
    outputs = [
        (path, formats)
        for path, formats in ((output, FORMATS), (failures, LISTING_FORMATS))
        if path is not None
    ]
    for path, formats in outputs:
        check_format(path, formats)
    inputs = files if wanted is None else [*files, wanted]
    check_outputs([path for path, _ in outputs], inputs, overwrite)


def _take(file: str, models: Models, everything: bool, done: _Done) -> None:
    """Encode the spectra of one file, or note why it cannot be done."""
    shown = printable(redacted(file))
    try:
        instrument = registry.recognise(file)
        content = read(instrument, file, everything, models.use_lsf(instrument))
    except SpenderError as error:
        done.unused.append((shown, str(error)))
        done.failed.append(Failure(shown, type(error).__name__, printable(str(error))))
        return
    done.unused += [(f"{shown}: {name}", cause) for name, cause in content.rejected]
    if not content.rows:
        return
    try:
        model = models.for_instrument(instrument)
    except SpenderError as error:
        if models.wanted is None:  # else it was loaded, and is one for other instruments
            done.broken.setdefault(instrument.name, error)
            error = SpenderError(f"there is no model for {instrument.name} to encode it with")
        done.unused.append((shown, str(error)))
        return
    batch = content.batch[content.rows]
    try:
        result = encode(model, batch, refine=done.refine)
        done.rows += _rows(shown, batch, model.card, result, bool(done.refine))
    except SpenderError as error:
        done.unused.append((shown, str(error)))


def _deliver(done: _Done, output: Path | None, failures: Path | None) -> list[BaseException]:
    """Write the tables, then tell what they leave out; return the errors met on the way."""
    problems: list[BaseException] = []
    written = False
    if done.rows and output:
        try:
            _write(done.rows, output, done.refine)
            written = True
        except Exception as error:
            problems.append(error)
    if failures:
        try:
            write_failures(done.failed, failures)
        except Exception as error:
            problems.append(error)
    problems += done.broken.values()
    if written:
        print(printable(f"{output}: {len(done.rows)} spectra"))
    elif done.rows:
        _print(done.rows)
    for name, cause in done.unused:
        print(printable(f"not used: {name}: {cause}"), file=sys.stderr)
    print(f"{len(done.rows)} spectra encoded, {len(done.unused)} not used", file=sys.stderr)
    return problems


def _tell(problems: Sequence[BaseException]) -> None:
    for problem in problems:
        print(printable(f"error: {problem}"), file=sys.stderr)


def _rows(
    file: str, batch: SpectrumBatch, card: ModelCard | None, result: Encoded, refine: bool
) -> list[dict[str, Any]]:
    refined = result.reached & ~batch.z.cpu().isnan()
    return [
        {
            "file": file,
            "object": printable(batch.label(row)),
            "ids": _ids(batch, row),
            "instrument": batch.instrument,
            "model": card.name if card else "",
            "z": float(batch.z[row]),
            "zerr": float(batch.zerr[row]),
            "snr": float(batch.snr[row]),
            "chi2": float(result.chi2[row]),
            **({"refined": bool(refined[row])} if refine else {}),
            "latents": result.latents[row].numpy(),
            "norm": float(batch.norm[row]),
            "flags": int(batch.flags[row]),
            "remark": remark(card, batch, row, bool(result.reached[row])),
        }
        for row in range(len(batch))
    ]


def _ids(batch: SpectrumBatch, row: int) -> dict[str, Any]:
    """Return the id of a row by the survey's own names."""
    if batch.ids is None:
        return {}
    names = batch.ids.dtype.names or ()
    values = {name: batch.ids[row][name].item() for name in names}
    return {n: printable(v) if isinstance(v, str) else v for n, v in values.items()}


def _print(rows: list[dict[str, Any]]) -> None:
    shown = [
        (
            row["object"],
            "unknown" if np.isnan(row["z"]) else f"{row['z']:.4f}",
            f"{row['snr']:.1f}",
            "" if np.isnan(row["chi2"]) else f"{row['chi2']:.2f}",
            " ".join(f"{value:+.3f}" for value in row["latents"]),
            row["remark"],
        )
        for row in rows
    ]
    print_table(("object", "z", "S/N", "reduced chi2", "latents", "remark"), shown)


def _write(rows: list[dict[str, Any]], output: Path, refine: int = 0) -> None:
    """Write the table, whole or not at all: ids by their names, latents as s_0, s_1, ..."""
    from astropy.table import Table

    most = max(len(row["latents"]) for row in rows)
    columns: dict[str, Any] = {
        name: [row[name] for row in rows] for name in rows[0] if name not in ("latents", "ids")
    }
    fields = {name: value for row in rows for name, value in row["ids"].items()}
    for name, example in fields.items():
        absent = "" if isinstance(example, str) else -1
        columns[name] = [row["ids"].get(name, absent) for row in rows]
    padded = np.full((len(rows), most), np.nan, dtype=np.float32)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row["latents"])] = row["latents"]
    columns |= {f"s_{k}": padded[:, k] for k in range(most)}
    table = Table(columns)
    table.meta["chi2"] = "reduced chi square with fitted amplitude; NaN where z is unknown"
    if refine:
        table.meta["refine"] = refine
    write_table(table, output)
