"""Where a training stands, and what must be the same where it goes on."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from spender_core import __version__
from spender_core.errors import CheckpointWarning, InputError
from spender_core.training.checkpoints import MANIFEST

STATE = "training.json"


@dataclass(frozen=True)
class Circumstances:
    """What a training hangs on beside its state.

    Attributes:
        recipe: sha256 of the recipe.
        datasets: Fingerprint of each dataset, by instrument.
        world: Number of processes.
        threads: Of torch on the host.
        versions: Of the packages.
        shared: Whether the processes share out the weights (FSDP).
    """

    recipe: str
    datasets: dict[str, str]
    world: int
    threads: int
    versions: dict[str, str]
    shared: bool = False

    @classmethod
    def present(
        cls, recipe: str, datasets: Mapping[str, str], world: int, shared: bool = False
    ) -> Self:
        """Return those of this process."""
        import accelerate

        versions = {
            "spender": __version__,
            "torch": torch.__version__,
            "accelerate": accelerate.__version__,
            "python": platform.python_version(),
        }
        return cls(recipe, dict(datasets), world, torch.get_num_threads(), versions, shared)

    def check(self, before: Circumstances, output: Path) -> None:
        """Refuse to go on with another recipe, other data, or another number of processes.

        Args:
            before: Those of the checkpoint.
            output: Folder of the training.

        Raises:
            InputError: They differ.

        Warns:
            CheckpointWarning: Numbers may differ in their last digits.
        """
        if self.recipe != before.recipe:
            raise InputError(
                f"the training in {output} was begun with another recipe (sha256 "
                f"{before.recipe[:12]}, this one has {self.recipe[:12]}). Go on with "
                f"{output / 'recipe.toml'}, which is that one; or begin in another folder, with "
                "model.parent set to this result if it is to be trained further"
            )
        for name in sorted(set(self.datasets) | set(before.datasets)):
            if self.datasets.get(name) != before.datasets.get(name):
                raise InputError(
                    f"the training in {output} was begun with another dataset of {name}: its "
                    "shards differ in name, rows or size. Give the path of that one, or begin in "
                    "another folder"
                )
        if self.world != before.world:
            raise InputError(
                f"the training in {output} ran in {before.world} processes, now there are "
                f"{self.world}; launch {before.world}, or begin in another folder"
            )
        if self.shared != before.shared:
            raise InputError(
                f"the training in {output} ran {'with' if before.shared else 'without'} FSDP, whose "
                "checkpoints are of another kind; launch it likewise, or begin in another folder"
            )
        changed = [
            f"{name} {before.versions.get(name)} -> {version}"
            for name, version in self.versions.items()
            if before.versions.get(name) != version
        ]
        if self.threads != before.threads:
            changed.append(f"threads {before.threads} -> {self.threads}")
        if changed:
            warnings.warn(
                f"the training in {output} goes on with other {', '.join(changed)}: it may not "
                "repeat to the last digit what it would have given",
                CheckpointWarning,
                stacklevel=2,
            )


@dataclass
class State:
    """Where a training stands.

    Attributes:
        step: Steps of the optimiser so far.
        phase: Number of the phase, from 0.
        phase_step: Steps in this phase.
        spectra: Spectra seen so far, by instrument.
        seconds: That it took so far.
        progress: Best validation of the phase, as `stopping.Progress` has it.
        figures: Of the last validation.
        streams: Positions in the data, by instrument.
        phases: Of each phase that has ended, the steps that it ran, the step of which its weights
            are, and whether it ended early.
        parent: Name and sha256 of the model whose weights were taken, if there is one.
    """

    step: int = 0
    phase: int = 0
    phase_step: int = 0
    spectra: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    progress: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, dict[str, Any]] = field(default_factory=dict)
    phases: list[dict[str, Any]] = field(default_factory=list)
    parent: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path, circumstances: Circumstances) -> None:
        """Write it into a checkpoint."""
        content = {"state": asdict(self), "circumstances": asdict(circumstances)}
        (folder / STATE).write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> tuple[Self, Circumstances]:
        """Read it from a checkpoint, with what it hung on."""
        content = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return cls(**content["state"]), Circumstances(**content["circumstances"])


def fault(folder: Path) -> str | None:
    """Return what a checkpoint lacks to go on from it; None if it has all."""
    from accelerate.utils import load

    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        _, circumstances = State.load(folder)
        shared = circumstances.shared
        model, optimizer = (
            ("pytorch_model_fsdp_0/", "optimizer_0/")
            if shared
            else ("model.safetensors", "optimizer.bin")
        )
        random = [f"random_states_{rank}.pkl" for rank in range(circumstances.world)]
        for name in (STATE, model, optimizer, "scheduler.bin", *random):
            if not any(one == name or one.startswith(name) for one in listed):
                return f"{name} is missing"
        for name in random:  # accelerate goes on without them if it cannot read them
            load(folder / name)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        return f"it cannot be read ({type(error).__name__}: {reason})"
    return None
