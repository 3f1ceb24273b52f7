"""The model that a training made, as a file that `registry.load` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spender_core import __version__, registry
from spender_core.interfaces import Model
from spender_core.records import ModelCard
from spender_core.training.planning import Plan
from spender_core.training.state import State


@dataclass(frozen=True)
class Result:
    """What a training made.

    Attributes:
        path: Of the weights file, for `registry.load`.
        card: As it was written into the file.
        history: Lines of the log: looks at the losses, validations, checkpoints.
    """

    path: Path
    card: ModelCard
    history: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


def publish(
    model: Model, plan: Plan, state: State, fingerprints: Mapping[str, str], path: Path
) -> ModelCard:
    """Write the model and its card.

    Args:
        model: The model.
        plan: What was done.
        state: Where the training ended.
        fingerprints: Of the datasets, by instrument.
        path: Of the file.

    Raises:
        FileError: It cannot be written.
        WeightsError: A weight is NaN or infinite.
    """
    return registry.save(path, model, describe(model, plan, state, fingerprints))


def describe(model: Model, plan: Plan, state: State, fingerprints: Mapping[str, str]) -> ModelCard:
    """Return the card of a trained model: what it was trained on, how, and how it fared."""
    recipe = plan.recipe
    redshifts = [one.z for one in plan.data.values() if one.z is not None]
    datasets = {
        name: {
            "fingerprint": fingerprints[name],
            "spectra": dict(one.spectra),
            "seen": state.spectra.get(name, 0),
            "z": None if one.z is None else list(one.z),
        }
        for name, one in plan.data.items()
    }
    training: dict[str, Any] = {
        **recipe.card.training,
        "recipe": recipe.name,
        "recipe_sha256": recipe.sha256,
        "seed": recipe.seed,
        "steps": state.step,
        "hours": round(state.seconds / 3600, 3),
        "datasets": datasets,
        "phases": [
            {"name": one.name, "parts": list(one.parts), "losses": list(one.losses), **ended}
            for one, ended in zip(plan.phases, state.phases, strict=True)
        ],
        "spender": __version__,
    }
    if state.parent:
        training["parent_sha256"] = state.parent["sha256"]
    if recipe.card.notes:
        training["notes"] = recipe.card.notes
    return ModelCard(
        name=recipe.name,
        description=recipe.description,
        architecture=recipe.model.architecture,
        config=model.config,
        latents=recipe.model.latents,
        lsf="per_spectrum" if model.uses_lsf else "none",
        z_range=(
            (min(low for low, _ in redshifts), max(high for _, high in redshifts))
            if redshifts
            else None
        ),
        training=training,
        evaluation={"validation": state.figures} if state.figures else {},
        licence=recipe.card.licence,
        citation=recipe.card.citation,
        # the name only: a place may be private, or hold a password
        parent=state.parent.get("name", ""),
    )
