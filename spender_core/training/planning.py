"""What a training would do, told before it begins: steps, learning rates, spectra and memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spender_core.errors import InputError
from spender_core.interfaces import Model
from spender_core.training.building import make_instruments, untrained, without_values
from spender_core.training.config import LossConfig, Phase, Recipe
from spender_core.training.ramps import positive
from spender_core.training.schedules import make_optimizer, make_scheduler, rates

_FLOAT = 4
"""Bytes."""

_PER_PIXEL = 8
"""Numbers of 4 bytes for each observed pixel beside what autograd keeps of the network: flux,
inverse variance, reconstruction, where it is valid, and their gradients."""


_PER_PAIR = 6
"""Numbers of 4 bytes for each pair of a batch: distances, sigmoids and their gradients."""


@dataclass(frozen=True)
class Rates:
    """Learning rates of a part of a model in a phase."""

    start: float
    peak: float
    end: float


@dataclass(frozen=True)
class PhasePlan:
    """What a phase would do.

    Attributes:
        name: Of the phase, or its number where it has none.
        parts: What is trained, by the names of `building.parts`.
        data: Instruments whose spectra are used.
        losses: Those that are on.
        batches: Batches of an epoch, of the largest of its datasets.
        steps: Steps of the optimiser.
        accumulation: Batches of each step.
        rates: Learning rates of each part.
    """

    name: str
    parts: tuple[str, ...]
    data: tuple[str, ...]
    losses: tuple[str, ...]
    batches: int
    steps: int
    accumulation: int
    rates: Mapping[str, Rates]

    @property
    def epochs(self) -> float:
        """Times that the largest dataset is gone through."""
        return self.steps * self.accumulation / self.batches


@dataclass(frozen=True)
class DataPlan:
    """What is used of a dataset.

    Attributes:
        path: Where it is.
        spectra: Spectra of each split that take part.
        left_out: Spectra of each split that do not.
        batches: Batches of an epoch.
        z: Lowest and highest redshift that takes part; None where none is known.
    """

    path: str
    spectra: Mapping[str, int]
    left_out: Mapping[str, int]
    batches: int
    z: tuple[float, float] | None = None


@dataclass(frozen=True)
class Memory:
    """Estimate of the memory of a step, in bytes, without what libraries take.

    Attributes:
        weights: Parameters, their gradients, the two moments of Adam, and averages of weights.
        activations: What autograd keeps for the backward pass, and the spectra themselves.
        pairs: Distances between all pairs of a batch.
    """

    weights: int
    activations: int
    pairs: int

    @property
    def total(self) -> int:
        """All of them together."""
        return self.weights + self.activations + self.pairs


@dataclass(frozen=True)
class Plan:
    """What `spender train` would do with a recipe.

    Attributes:
        recipe: The recipe.
        parameters: Number of parameters of each part of the model.
        phases: The phases, in order.
        data: The datasets, by instrument.
        remarks: What is allowed, and may not be meant.
    """

    recipe: Recipe
    parameters: Mapping[str, int]
    phases: tuple[PhasePlan, ...]
    data: Mapping[str, DataPlan]
    remarks: tuple[str, ...] = field(default=())

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)


def steps_of(phase: Phase, batches: int) -> int:
    """Return the steps of the optimiser in a phase.

    Args:
        phase: What the recipe says.
        batches: Batches of an epoch of the largest dataset of the phase.
    """
    if phase.steps is not None:
        return phase.steps
    return max(1, math.ceil((phase.epochs or 0) * batches / phase.accumulation))


def losses_of(config: LossConfig) -> tuple[str, ...]:
    """Return the names of the losses that count at any time."""
    names = ("fidelity", "similarity", "consistency")
    return tuple(name for name in names if positive(getattr(config, name)))


def reached(name: str, losses: Iterable[str], form: str, data: Sequence[str]) -> bool:
    """Tell whether a part of a model gets gradients from some losses of some instruments.

    Args:
        name: Of the part.
        losses: Those that are on.
        form: Of the similarity: "restframe" also reaches the decoder.
        data: Instruments whose spectra are used.
    """
    group, _, instrument = name.partition(".")
    if instrument and instrument not in data:
        return False
    if group == "encoders":
        return True
    if group in ("lsf", "calibration"):
        return "fidelity" in losses
    return "fidelity" in losses or ("similarity" in losses and form == "restframe")


def rates_of(phase: Phase, names: Sequence[str], steps: int) -> dict[str, Rates]:
    """Return the learning rates of some parts in a phase.

    Raises:
        InputError: A part has none, or the schedule is impossible.
    """
    stand_ins = {name: [nn.Parameter(torch.zeros(1))] for name in names}
    optimizer = make_optimizer(phase, stand_ins)
    make_scheduler(phase, optimizer, steps)
    start = rates(optimizer)
    last = 1.0 if phase.schedule == "constant" else phase.final
    peaks = {name: phase.rate(name) for name in names}
    return {name: Rates(start[name], peaks[name], peaks[name] * last) for name in names}


def memory_of(plan: Plan) -> Memory | None:
    """Estimate the memory of the largest step, on one process.

    What autograd keeps is counted by running encoder and decoder on two spectra without values,
    for which torch imports its compiler.

    Returns:
        The estimate; None for an architecture that cannot run without values.
    """
    recipe = plan.recipe
    with without_values():
        model = untrained(recipe, make_instruments(recipe))
    sizes = {name: len(value.wave) for name, value in model.instruments.items()}
    try:
        kept = {name: _kept(model, name, pixels) for name, pixels in sizes.items()}
    except Exception:  # whatever an architecture raises that needs values to run
        return None
    batches = {
        name: min(recipe.data[name].batch_size, one.spectra["train"])
        for name, one in plan.data.items()
    }
    entries = [
        _memory(plan.parameters, phase, recipe.phases[number].ema is not None, kept, sizes, batches)
        for number, phase in enumerate(plan.phases)
    ]
    return max(entries, key=lambda entry: entry.total)


def _memory(
    own: Mapping[str, int],
    plan: PhasePlan,
    averaged: bool,
    kept: Mapping[str, tuple[float, float]],
    sizes: Mapping[str, int],
    batches: Mapping[str, int],
) -> Memory:
    trained = sum(own[name] for name in plan.parts)
    weights = _FLOAT * (sum(own.values()) + (4 if averaged else 3) * trained)
    encodings = 2 if "consistency" in plan.losses else 1
    activations, pairs = 0.0, 0
    for name in plan.data:
        encoded, decoded = kept[name]
        pixels = _FLOAT * _PER_PIXEL * sizes[name] * encodings
        activations += batches[name] * (encodings * encoded + decoded + pixels)
        if "similarity" in plan.losses:
            pairs += _PER_PAIR * _FLOAT * batches[name] ** 2
    return Memory(weights, int(activations), pairs)


def _kept(model: Model, instrument: str, pixels: int) -> tuple[float, float]:
    """Return bytes a spectrum that autograd keeps of the encoder, and of the decoder."""
    own = {id(parameter) for parameter in model.parameters()}
    flux_BL = torch.zeros(2, pixels, device="meta")

    def counted(action: Any) -> tuple[Tensor, float]:
        held: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            whole = tensor if tensor._base is None else tensor._base
            if id(whole) not in own and whole.ndim > 1:
                held[id(whole)] = whole
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            made = action()
        return made, sum(one.numel() * one.element_size() for one in held.values()) / 2

    s_BS, encoded = counted(lambda: model.encode_weighted(flux_BL, flux_BL, instrument))
    _, decoded = counted(lambda: model.decode(s_BS))
    return encoded, decoded


def check_rest(recipe: Recipe) -> None:
    """Refuse a restframe without a pixel where the similarity needs one."""
    wave = recipe.model.rest.grid().wave
    for number, phase in enumerate(recipe.phases):
        config = recipe.loss_of(phase)
        if not positive(config.similarity) or config.similarity_form == "data":
            continue
        low, high = config.bound
        if not ((wave > low) & (wave < high)).any():
            raise InputError(
                f"phase {number} has a similarity loss, whose bound {low:g} to {high:g} Angstrom has "
                f"no pixel of the restframe, {wave[0]:g} to {wave[-1]:g}; change loss.bound or "
                "model.rest"
            )
