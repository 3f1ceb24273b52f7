"""`spender train`: a model trained by a recipe, or a table of what would be done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from spender_core.archives.location import redacted
from spender_core.cli.show import print_table
from spender_core.errors import InputError
from spender_core.records import printable
from spender_core.training.checks import check, open_datasets
from spender_core.training.config import Recipe
from spender_core.training.planning import Memory, PhasePlan, Plan, memory_of


def run(
    recipe: str,
    output: Path,
    data: list[str],
    dry_run: bool,
    resume: bool,
    settings: list[str],
) -> None:
    """Train by a recipe, or only say what would be done.

    Args:
        recipe: A file, or the name of a recipe that comes with spender.
        output: Folder of the run.
        data: Where datasets are, each as "instrument=PATH".
        dry_run: Check everything, print the plan, and train nothing.
        resume: Go on from the newest checkpoint in the folder.
        settings: Values put in place of those of the recipe, each as "dotted.key=value".
    """
    begin(Recipe.read(recipe, settings).with_paths(paths(data)), output, dry_run, resume)


def begin(recipe: Recipe, output: Path, dry_run: bool, resume: bool) -> None:
    """Train by a recipe that was read, or only say what would be done; as `run`."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; give the name of a folder for the run")
    if dry_run:
        show(check(recipe, open_datasets(recipe)), output)
        return
    from spender_core.training import Trainer

    result = Trainer(recipe, output, resume=resume).run()
    print(printable(f"the model is in {result.path}"))


def paths(data: Sequence[str]) -> dict[str, str]:
    """Return paths by instrument, from "instrument=PATH" each.

    Raises:
        InputError: One has another form, or an instrument comes twice.
    """
    found: dict[str, str] = {}
    for entry in data:
        name, equals, path = entry.partition("=")
        if not equals or not name or not path:
            raise InputError(f"--data {entry!r:.200} is not of the form sdss=PATH")
        if name in found:
            raise InputError(f"--data names {name!r} twice; a recipe takes one dataset of it")
        found[name] = path
    return found


def show(plan: Plan, output: Path) -> None:
    """Print what a training would do."""
    recipe = plan.recipe
    rest = recipe.model.rest
    print(printable(f"{recipe.name}: {recipe.description}".rstrip(": ")))
    print(
        f"{recipe.model.architecture}, {recipe.model.latents} latents, {rest.size} {rest.spacing} "
        f"restframe pixels from {rest.low:g} to {rest.high:g} Angstrom"
    )
    print_table(("part", "parameters", "trained in"), list(_parts(plan)), "Model")
    columns = ("instrument", "dataset", "train", "validation", "left out", "z", "batches an epoch")
    print_table(columns, list(_data(plan)), "Data")
    rates = ("learning rate: start", "peak", "end")
    heads = ("phase", "data", "losses", "steps", "epochs", "part", *rates)
    print_table(heads, list(_phases(plan)), "Phases")
    print(f"{plan.steps} steps in all")
    for line in _memory(memory_of(plan)):
        print(line)
    for remark in plan.remarks:
        print(printable(f"remark: {remark}"))
    there = "is there" if output.exists() else "will be made"
    print(printable(f"output folder {output} {there}"))


def _parts(plan: Plan) -> Iterator[tuple[str, ...]]:
    for name, number in plan.parameters.items():
        phases = [phase.name for phase in plan.phases if name in phase.parts]
        yield name, f"{number:,}", ", ".join(phases) or "no phase"
    yield "all", f"{sum(plan.parameters.values()):,}", ""


def _data(plan: Plan) -> Iterator[tuple[str, ...]]:
    for name, one in plan.data.items():
        z = f"{one.z[0]:.4g} to {one.z[1]:.4g}" if one.z else "unknown"
        yield (
            name,
            redacted(one.path),
            f"{one.spectra['train']:,}",
            f"{one.spectra['validation']:,}",
            f"{sum(one.left_out.values()):,}",
            z,
            f"{one.batches:,}",
        )


def _phases(plan: Plan) -> Iterator[tuple[str, ...]]:
    for phase in plan.phases:
        about: tuple[str, ...] = _about(phase)
        for part, rate in phase.rates.items():
            yield *about, part, f"{rate.start:.3g}", f"{rate.peak:.3g}", f"{rate.end:.3g}"
            about = ("",) * len(about)


def _about(phase: PhasePlan) -> tuple[str, ...]:
    return (
        phase.name,
        ", ".join(phase.data),
        ", ".join(phase.losses),
        f"{phase.steps:,}",
        f"{phase.epochs:.3g}",
    )


def _memory(memory: Memory | None) -> Iterator[str]:
    if memory is None:
        yield "memory of a step: cannot be counted for this architecture"
        return
    yield (
        f"memory of a step, in one process: about {memory.total / 2**30:.2g} GiB "
        f"(weights, gradients and moments of Adam {memory.weights / 2**30:.2g}; what the backward "
        f"pass needs {memory.activations / 2**30:.2g}; pairs {memory.pairs / 2**30:.2g})"
    )
    yield (
        "  estimated: tensors that autograd keeps, counted for two spectra without computing, in "
        "float32, times the batch; what libraries take comes on top"
    )
