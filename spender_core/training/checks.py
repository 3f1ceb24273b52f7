"""Recipes and datasets refused before the first step, where they cannot be what is meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spender_core import registry
from spender_core.archives.location import is_remote, redacted
from spender_core.batch import Flag
from spender_core.errors import GridError, InputError, UnknownNameError
from spender_core.interfaces import Instrument, Model
from spender_core.training.building import (
    make_instruments,
    matching,
    parts,
    untrained,
    without_values,
)
from spender_core.training.config import DataConfig, Phase, Recipe
from spender_core.training.planning import (
    DataPlan,
    PhasePlan,
    Plan,
    check_rest,
    losses_of,
    rates_of,
    reached,
    steps_of,
)
from spender_core.training.ramps import positive

if TYPE_CHECKING:
    from spender_core.datasets.reading import Dataset
    from spender_core.datasets.stream import Selection

_USED = ("train", "validation")
"""Splits that training needs."""


_MOST = 0.9
"""Share of an instrument's pixels; a restframe that reaches fewer of them is remarked upon."""


def open_datasets(recipe: Recipe) -> dict[str, Dataset]:
    """Open the datasets of a recipe, each as one of its instrument.

    Raises:
        InputError: A path is not given, or a dataset is of another instrument or grid.
        FileError: There is no dataset.
    """
    from spender_core.datasets.reading import Dataset

    instruments = make_instruments(recipe)
    for name, entry in recipe.data.items():
        if not entry.path:
            raise InputError(
                f"data.{name}.path is not given: say where the dataset of {name} is, with --data "
                f"{name}=PATH or in the recipe; `spender prepare` makes one"
            )
    opened = {}
    for name, instrument in instruments.items():
        try:
            opened[name] = Dataset(recipe.data[name].path, instrument)
        except InputError as error:
            raise InputError(f"data.{name}.path: {error}") from error
    return opened


def check(recipe: Recipe, datasets: Mapping[str, Dataset]) -> Plan:
    """Refuse what cannot be trained, and tell what else would be done.

    Args:
        recipe: What is to be trained.
        datasets: On what, by instrument.

    Raises:
        InputError: The recipe is impossible or does not fit the datasets; the key is named.
        UnknownNameError: An instrument, part or architecture does not exist.
        GridError: A dataset is on another grid.
    """
    model = check_recipe(recipe)
    data = {
        name: _check_dataset(model, recipe, name, entry, datasets)
        for name, entry in recipe.data.items()
    }
    planned = tuple(
        _plan_phase(model, recipe, number, {name: plan.batches for name, plan in data.items()})
        for number in range(len(recipe.phases))
    )
    return Plan(
        recipe,
        {name: sum(one.numel() for one in group) for name, group in parts(model).items()},
        planned,
        data,
        tuple(_remarks(recipe, model, planned, data)),
    )


def check_recipe(recipe: Recipe) -> Model:
    """Refuse a recipe that is impossible whatever the data; return its model without values.

    Raises:
        InputError: The recipe contradicts itself; the key is named.
        UnknownNameError: An instrument, part or architecture does not exist.
    """
    instruments = make_instruments(recipe)
    _check_parent(recipe)
    with without_values():
        model = untrained(recipe, instruments)
    check_rest(recipe)
    for number in range(len(recipe.phases)):
        _check_phase(recipe, number, list(parts(model)))
    return model


def _check_parent(recipe: Recipe) -> None:
    """Refuse a parent that does not exist; one elsewhere is looked at when it is loaded."""
    parent = recipe.model.parent
    for name in recipe.model.encoders_from:
        if name not in recipe.data:
            key = "instrument of the recipe (in model.encoders_from)"
            raise UnknownNameError(key, name, recipe.data)
    if parent is None or parent.startswith("hf:") or is_remote(parent) or parent.endswith(".pt"):
        return
    card = registry.info(parent)
    if card.kind != "autoencoder":
        raise InputError(f"model.parent = {parent!r} is a {card.kind}, not a model of spectra")


def _check_phase(recipe: Recipe, number: int, names: list[str]) -> tuple[str, ...]:
    """Refuse an impossible phase; return the parts that it trains."""
    phase, key = recipe.phases[number], f"phases.{number}"
    for name in phase.data:
        if name not in recipe.data:
            raise UnknownNameError(f"instrument of the recipe ({key}.data)", name, recipe.data)
    config = recipe.loss_of(phase)
    losses, data = losses_of(config), recipe.data_of(phase)
    if not losses:
        raise InputError(f"{key} has no loss: fidelity, similarity and consistency are all 0")
    if isinstance(phase.lr, dict):
        matching(names, phase.lr, f"{key}.lr")
    chosen: set[str] = set()
    for pattern in phase.train:
        wanted = matching(names, [pattern], f"{key}.train")
        taught = {n for n in wanted if reached(n, losses, config.similarity_form, data)}
        if not taught:
            raise InputError(
                f"{key} trains {pattern!r}, which none of its losses reaches: "
                f"{' and '.join(losses)} of {', '.join(data)}. {_reason(pattern, losses, data)}"
            )
        chosen |= taught
    _check_pairs(recipe, phase, key, losses)
    return tuple(name for name in names if name in chosen)


def _reason(pattern: str, losses: tuple[str, ...], data: tuple[str, ...]) -> str:
    _, _, instrument = pattern.partition(".")
    if instrument and instrument not in data:
        return f"Add {instrument!r} to the data of the phase, or leave {pattern!r} out"
    return "Give fidelity an amplitude above 0 there, or leave it out"


def _check_pairs(recipe: Recipe, phase: Phase, key: str, losses: tuple[str, ...]) -> None:
    """Refuse losses that compare spectra where there is nothing to compare."""
    for name in recipe.data_of(phase):
        entry = recipe.data[name]
        batchwise = [loss for loss in losses if loss != "fidelity"]
        if batchwise and entry.batch_size < 2:
            raise InputError(
                f"{key} has a {batchwise[0]} loss, which compares the spectra of a batch, but "
                f"data.{name}.batch_size is {entry.batch_size}; it must be 2 or more"
            )
        changed = entry.augmentation
        noisy = changed.noise > 0 and changed.amplitude > 0
        if "consistency" in losses and changed.redshifts == "keep" and not (noisy or changed.mask):
            raise InputError(
                f"{key} has a consistency loss, but data.{name}.augmentation alters nothing; give "
                "it redshifts, noise or a mask"
            )


def _plan_phase(model: Model, recipe: Recipe, number: int, batches: Mapping[str, int]) -> PhasePlan:
    phase = recipe.phases[number]
    trained = _check_phase(recipe, number, list(parts(model)))
    data = recipe.data_of(phase)
    longest = max(batches[name] for name in data)
    steps = steps_of(phase, longest)
    name = phase.name or str(number)
    rates = rates_of(phase.model_copy(update={"name": name}), trained, steps)
    losses = losses_of(recipe.loss_of(phase))
    return PhasePlan(name, trained, data, losses, longest, steps, phase.accumulation, rates)


def _check_dataset(
    model: Model, recipe: Recipe, name: str, entry: DataConfig, datasets: Mapping[str, Dataset]
) -> DataPlan:
    """Refuse a dataset that does not fit; return what is used of it."""
    if name not in datasets:
        raise InputError(f"no dataset is given for {name!r}; give those of {list(recipe.data)}")
    dataset, instrument = datasets[name], model.instruments[name]
    _check_instrument(dataset, instrument)
    if recipe.model.uses_lsf and not dataset.has_lsf:
        raise InputError(
            f"model.uses_lsf needs the line spread function of each spectrum, which the dataset of "
            f"{name}, {redacted(dataset.root)}, lacks; prepare it with `spender prepare --lsf`"
        )
    spectra, left_out = {}, {}
    used: list[NDArray[np.float64]] = []
    for split in _USED:
        z = _redshifts(dataset, name, entry, split)
        spectra[split], left_out[split] = len(z), dataset.rows(split) - len(z)
        used.append(z)
    together = np.concatenate(used)
    _check_reach(model, instrument, name, together)
    batches = -(-spectra["train"] // entry.batch_size)
    ends = float(together.min()), float(together.max())
    return DataPlan(dataset.root, spectra, left_out, batches, ends)


def selection(entry: DataConfig) -> Selection:
    """Return which spectra of a dataset take part."""
    from spender_core.datasets.stream import Selection

    return Selection(entry.z_range, entry.rejected)


def _check_instrument(dataset: Dataset, instrument: Instrument) -> None:
    given = dataset.instrument
    if given is None:
        raise InputError(
            f"the dataset of {instrument.name!r}, {redacted(dataset.root)}, was opened without its instrument; "
            "open it as Dataset(root, instrument)"
        )
    if given.name != instrument.name:
        raise InputError(
            f"data.{instrument.name} is a dataset of {given.name!r}: {redacted(dataset.root)}; give one of "
            f"{instrument.name!r}, or name it data.{given.name}"
        )
    if given.grid != instrument.grid:
        raise GridError(
            f"the dataset of {instrument.name!r}, {redacted(dataset.root)}, is on the grid {given.grid}, but "
            f"the installed instrument has {instrument.grid}; prepare it anew, or install the plugin "
            "that it was prepared with"
        )


def _redshifts(dataset: Dataset, name: str, entry: DataConfig, split: str) -> NDArray[np.float64]:
    """Return the redshifts of what takes part of a split; refuse a split without any."""
    if dataset.rows(split) == 0:
        raise InputError(f"data.{name}.path: {dataset.empty(split)}")
    columns = dataset.columns(split, ["z", "flags"])
    z = np.asarray(columns["z"], dtype=np.float64)
    groups = dataset.groups(split)
    starts = np.cumsum([0, *(group.rows for group in groups)])
    kept = [
        np.arange(first, last) if rows is None else first + rows
        for first, last, rows in zip(
            starts, starts[1:], selection(entry).rows(dataset, split), strict=False
        )
    ]
    chosen: NDArray[np.float64] = z[np.concatenate(kept)]
    if not len(chosen):
        raise InputError(_nothing_left(name, entry, split, z, columns["flags"]))
    return chosen


def _nothing_left(
    name: str,
    entry: DataConfig,
    split: str,
    z: NDArray[np.float64],
    flags: NDArray[np.int64],
) -> str:
    """Say why no spectrum of a split takes part."""
    known = z[~np.isnan(z)]
    parts = [f"{len(z) - len(known)} of {len(z)} have no redshift"]
    if entry.z_range is not None and len(known):
        low, high = entry.z_range
        parts.append(
            f"{int(((known < low) | (known > high)).sum())} are outside of z_range {low:g} to "
            f"{high:g} (they have {known.min():.4g} to {known.max():.4g})"
        )
    if entry.reject:
        flagged = int(((flags & int(entry.rejected)) != 0).sum())
        causes = ", ".join(Flag(int(entry.rejected)).causes)
        parts.append(f"{flagged} are rejected ({causes})")
    return (
        f"no spectrum of the {split} split of {name} is left: {'; '.join(parts)}. Change "
        f"data.{name}.z_range or data.{name}.reject, or prepare other spectra"
    )


def _check_reach(model: Model, instrument: Instrument, name: str, z: NDArray[np.float64]) -> None:
    """Refuse redshifts at which the restframe has no pixel of the instrument."""
    ends = np.unique([z.min(), z.max()])
    beyond = [
        float(one) for one, ok in zip(ends, model.reaches(ends, instrument), strict=True) if not ok
    ]
    if beyond:
        wave, rest = instrument.wave, model.rest.wave
        raise InputError(
            f"at z = {beyond[0]:.4g}, as in the dataset of {name}, the restframe, {rest[0]:.0f} to "
            f"{rest[-1]:.0f} Angstrom, reaches no pixel that {name} observes, {wave[0]:.0f} to "
            f"{wave[-1]:.0f}; change data.{name}.z_range or model.rest"
        )


def _remarks(
    recipe: Recipe, model: Model, planned: tuple[PhasePlan, ...], data: Mapping[str, DataPlan]
) -> Iterator[str]:
    """Yield what is allowed, and may not be meant."""
    trained = {name for phase in planned for name in phase.parts}
    for name in parts(model):
        if name not in trained and recipe.model.parent is None:
            yield f"{name} is never trained and has no parent: it stays as it was drawn"
    for name in recipe.data:
        if all(name not in phase.data for phase in planned):
            yield f"no phase uses the data of {name}"
    for name, plan in data.items():
        wave, rest = model.instruments[name].wave, model.rest.wave
        for z in sorted(set(plan.z or ())):
            inside = (wave >= rest[0] * (1 + z)) & (wave <= rest[-1] * (1 + z))
            if inside.mean() < _MOST:
                yield (
                    f"at z = {z:.4g} the restframe reaches {100 * inside.mean():.1f} percent of the "
                    f"pixels of {name}; the others do not count"
                )
    for number, phase in enumerate(recipe.phases):
        config = recipe.loss_of(phase)
        if positive(config.similarity) and not positive(config.slope):
            yield f"phase {number} has a similarity loss whose slope is 0: it teaches nothing"
