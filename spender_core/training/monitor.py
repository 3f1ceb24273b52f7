"""What a person sees of a training: a progress bar, a log, TensorBoard, and its curves."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spender_core.archives.writing import replacing
from spender_core.errors import FileError, InputError

LOG = "log.jsonl"
CURVES = "curves.png"


class Log:
    """A file of JSON, one object a line, which a resumed training continues without a gap.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, kind: str, step: int, **values: Any) -> dict[str, Any]:
        """Append a line, and return what it says.

        Raises:
            FileError: The file cannot be written.
        """
        line: dict[str, Any] = {"kind": kind, "step": step, **_with_null(values)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
                file.flush()
                if kind != "look":  # looks are many, and are on the disk with the next line
                    os.fsync(file.fileno())
        except OSError as error:
            raise FileError(f"cannot write {self.path}: {error}") from error
        return line

    def lines(self) -> list[dict[str, Any]]:
        """Return what the lines say; one that a killed process left by half is passed over."""
        if not self.path.exists():
            return []
        found = []
        for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                found.append(line)
        return found

    def rewind(self, step: int) -> None:
        """Remove the lines beyond a step, which is done again.

        Raises:
            FileError: The file cannot be written.
        """
        kept = [line for line in self.lines() if line["step"] <= step]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))


def _with_null(value: Any) -> Any:
    """Return plain data with None for what is NaN or infinite, for which JSON has no form."""
    if isinstance(value, Mapping):
        return {key: _with_null(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_null(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Monitor:
    """Log, progress bar and TensorBoard of a training; in all processes but one it does nothing.

    Args:
        output: Folder of the training.
        active: Whether this process is the one.
        quiet: Show no progress bar. There is none either where stderr is no terminal.
        tensorboard: Write events for TensorBoard into `output/tensorboard`.
        done: Steps that were done before, which events beyond are dropped.
    """

    def __init__(
        self,
        output: Path,
        active: bool = True,
        quiet: bool = False,
        tensorboard: bool = False,
        done: int = 0,
    ) -> None:
        self.active = active
        self._log = Log(output / LOG)
        self._quiet = quiet or not active
        self._bar: _Bar | None = None
        self._board = _board(output, done) if tensorboard and active else None

    @contextmanager
    def shown(self, total: int, done: int) -> Iterator[None]:
        """Show a progress bar meanwhile, and close everything afterwards.

        Args:
            total: Steps of the whole training.
            done: Those done before.
        """
        with _Bar(total, done, self._quiet) as self._bar:
            try:
                yield
            finally:
                self._bar = None
                if self._board is not None:
                    self._board.close()

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Tell about a step: a look at the losses, a validation, a checkpoint.

        Raises:
            FileError: The log cannot be written.
        """
        if not self.active:
            return
        self._log.write(kind, step, **values)
        if self._board is not None:
            for name, value in _numbers(values):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def say(self, text: str) -> None:
        """Print a line on stderr, above the progress bar; unless it is quiet."""
        if self._bar is not None and not self._quiet:
            self._bar.say(text)

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        if self._bar is not None:
            self._bar.advance(step)

    def describe(self, phase: str, loss: float, speed: float, waiting: float) -> None:
        """Show the loss, spectra a second, and the share of time spent waiting for data."""
        if self._bar is not None:
            self._bar.describe(phase, loss, speed, waiting)

    def has(self, kind: str, step: int) -> bool:
        """Tell whether the log has such a line."""
        return any(line["kind"] == kind and line["step"] == step for line in self.history())

    def history(self) -> list[dict[str, Any]]:
        """Return all lines of the log."""
        return self._log.lines()

    def rewind(self, step: int) -> None:
        """Remove lines of the log beyond a step."""
        if self.active:
            self._log.rewind(step)


class _Bar:
    """A progress bar on stderr, nothing where that is no terminal."""

    def __init__(self, total: int, done: int, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True, quiet=quiet)
        watched = self._console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(),
            # rich before 14.3 ends a bar that is disabled with an empty line
            console=self._console if watched else Console(quiet=True),
            disable=not watched,
        )
        self._task = self._progress.add_task("training", total=total, completed=done, figures="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def describe(self, phase: str, loss: float, speed: float, waiting: float) -> None:
        figures = f"loss {loss:.4g}  {speed:.0f} spectra/s  waiting {waiting:.0%}"
        self._progress.update(self._task, description=phase or "training", figures=figures)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _board(output: Path, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "the recipe asks for TensorBoard, which is not installed: "
            'pip install "spender-core[tensorboard]", or set engine.tensorboard = false'
        ) from error
    factory: Any = SummaryWriter
    return factory(str(output / "tensorboard"), purge_step=done + 1 if done else None)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested values, by name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Draw losses and learning rates against the step.

    Args:
        history: Lines of the log.
        path: Of the picture.
        title: What was trained.

    Raises:
        FileError: The picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from spender_core.plot.styles import style

    looks = [line for line in history if line["kind"] == "look"]
    validations = [line for line in history if line["kind"] == "validation"]
    names = [
        name
        for name in ("fidelity", "similarity", "consistency")
        if any(line.get(name) for line in (*looks, *validations))
    ]
    look = style("screen")
    with look.context(), replacing(path) as temporary:
        rows = len(names) + 1
        figure = Figure(figsize=(look.width, look.row * rows + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels[:-1], names, strict=True):
            _draw_loss(axes, name, looks, validations)
        _draw_rates(panels[-1], looks)
        if names:
            panels[0].legend(loc="upper right")
        for axes in panels:
            _draw_phases(axes, looks, named=axes is panels[-1])
        figure.align_ylabels(panels)
        panels[-1].set_xlabel("step")
        if title:
            panels[0].set_title(title, loc="left")
        figure.savefig(temporary)


def _draw_loss(
    axes: Any,
    name: str,
    looks: Sequence[Mapping[str, Any]],
    validations: Sequence[Mapping[str, Any]],
) -> None:
    from spender_core.plot.styles import Colours

    drawn = [
        ("training", looks, {"color": Colours.RAW, "linestyle": "-"}),
        ("validation", validations, {"color": Colours.MODEL, "linestyle": "-", "marker": "o"}),
    ]
    low, high = [], []
    for label, lines, look in drawn:
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, label=label, markersize=3, **look)
            low.append(min(values))
            high.append(max(values))
    if low and min(low) > 0 and max(high) > 5 * min(low):
        axes.set_yscale("log")
    axes.set_ylabel(name)


def _draw_rates(axes: Any, looks: Sequence[Mapping[str, Any]]) -> None:
    from spender_core.plot.styles import Colours

    parts = list(dict.fromkeys(name for line in looks for name in line.get("lr", {})))
    shades = [Colours.DATA, Colours.MODEL, Colours.ABSORPTION, Colours.EMISSION, Colours.BEYOND]
    curves: dict[tuple[Any, ...], list[str]] = {}
    for part in parts:  # parts of one rate share a curve
        key = tuple((line["step"], line["lr"][part]) for line in looks if part in line["lr"])
        curves.setdefault(key, []).append(part)
    for number, (points, names) in enumerate(curves.items()):
        dashes = ["-", "--", ":", "-."][number % 4]
        steps, values = zip(*points, strict=True)
        colour = shades[number % len(shades)]
        axes.plot(steps, values, color=colour, linestyle=dashes, label=", ".join(names))
    axes.set_ylabel("learning rate")
    if curves:
        highest = max(rate for points in curves for _, rate in points)
        axes.set_ylim(0, 1.6 * highest or None)  # with room for the legend and names of phases
        axes.legend(loc="upper right", ncols=len(curves))


def _draw_phases(axes: Any, looks: Sequence[Mapping[str, Any]], named: bool) -> None:
    """Mark where a phase ends and the next one begins, with their names if wanted."""
    from spender_core.plot.styles import Colours

    begins = {line.get("phase"): line["step"] for line in reversed(looks)}
    for phase, step in begins.items() if named and len(begins) > 1 else ():
        at = axes.get_xaxis_transform()
        axes.text(step, 0.8, f" {phase}", transform=at, va="top", clip_on=True)
    for before, after in itertools.pairwise(looks):
        if before.get("phase") != after.get("phase"):
            axes.axvline(before["step"], color=Colours.ZERO, linestyle=(0, (2, 2)), linewidth=0.8)
