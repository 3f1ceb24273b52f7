"""A phase of training, prepared by accelerate: its steps, its validations, its part of checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from spender_core.datasets.stream import Selection, Stream
from spender_core.errors import InputError, NonFiniteError
from spender_core.interfaces import Model
from spender_core.training.averaging import Average
from spender_core.training.building import parts
from spender_core.training.config import Phase, Recipe
from spender_core.training.feeding import Fed, Feed, Home
from spender_core.training.guilty import accused, listed
from spender_core.training.objective import Losses, Objective, Weights
from spender_core.training.planning import PhasePlan
from spender_core.training.ramps import positive
from spender_core.training.schedules import make_optimizer, make_scheduler, rates
from spender_core.training.sharing import Shared, check_sharing, copied, return_weights, whole
from spender_core.training.validating import Validation
from spender_core.training.watching import Watch

if TYPE_CHECKING:
    from accelerate import Accelerator

    from spender_core.datasets.reading import Dataset


def make_accelerator(precision: str) -> Accelerator:
    """Return what knows device, processes and precision, as `torchrun` and the like tell it.

    Raises:
        InputError: accelerate is not installed, the device lacks the precision, or the weights are
            to be shared out among processes in a way that is not supported.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, is_initialized
        from accelerate.utils import DataLoaderConfiguration
    except ImportError as error:
        raise InputError(
            'training needs accelerate, which is not installed: pip install "spender-core[train]"'
        ) from error
    if is_initialized() and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # of a training before this one in the same process
    try:
        # streams share out batches themselves: a step is one step, whatever the number of processes
        batches = DataLoaderConfiguration(split_batches=True)
        made = Accelerator(mixed_precision=precision, dataloader_config=batches)
    except ValueError as error:
        raise InputError(
            f"engine.precision = {precision!r} cannot be had here: {error}; "
            'set it to "no" or "bf16"'
        ) from error
    check_sharing(made)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and made.num_processes == 1:
        raise InputError(
            f"{started} processes were started, but accelerate sees one, since there is no GPU; set "
            "the environment variable ACCELERATE_USE_CPU=true to train on the CPU"
        )
    return made


@dataclass(frozen=True)
class Setting:
    """What all phases of a training share."""

    recipe: Recipe
    model: Model
    datasets: Mapping[str, Dataset]
    streams: Mapping[str, Stream]
    accelerator: Accelerator

    @property
    def home(self) -> Home:
        """Where batches go."""
        one = next(self.model.parameters())
        world = self.accelerator.num_processes
        return Home(self.accelerator.device, one.dtype, self.accelerator.process_index, world)


def make_stream(
    recipe: Recipe, name: str, dataset: Dataset, split: str, accelerator: Accelerator
) -> Stream:
    """Return the stream of a recipe's dataset: endless and mixed to train, as it lies to validate."""
    entry = recipe.data[name]
    return Stream(
        dataset,
        split,
        batch_size=entry.batch_size,
        shuffle=split == "train",
        seed=recipe.seed,
        window=recipe.engine.window,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        selection=Selection(entry.z_range, entry.rejected),
        lsf=recipe.model.uses_lsf,
        prefetch=recipe.engine.prefetch,
    )


class Running:
    """A phase that is running.

    Args:
        setting: What all phases share.
        number: Of the phase.
        plan: What it does.
    """

    def __init__(self, setting: Setting, number: int, plan: PhasePlan) -> None:
        self.phase: Phase = setting.recipe.phases[number]
        self.plan = plan
        self._setting = setting
        self._accelerator = setting.accelerator
        self._loss = setting.recipe.loss_of(self.phase)
        self._factors = {name: setting.recipe.data[name].weight for name in plan.data}
        self._shared = setting.accelerator.is_fsdp2
        self._model = setting.model
        if self._shared:
            self._model = copied(setting.model, setting.accelerator)
        if setting.recipe.engine.compile:
            for one in network(self._model):
                one.compile()
        self._prepare()
        self.average = None
        if self.phase.ema is not None:
            live = {k: p for k, p in self._model.named_parameters() if p.requires_grad}
            self.average = Average(live, self.phase.ema)
        self.watch = Watch(self._factors, self._accelerator.device)
        self._feeds()

    def _prepare(self) -> None:
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        trained = _trained(self._model, self.plan)
        for group in trained.values():
            for parameter in group:
                parameter.requires_grad_(True)
        optimizer = make_optimizer(self.phase, trained)
        scheduler = make_scheduler(self.phase, optimizer, self.plan.steps)
        self._accelerator.free_memory()
        self._accelerator.gradient_accumulation_steps = self.phase.accumulation
        objective: nn.Module = Objective(self._model, self._loss)
        if self._shared:
            objective = Shared(objective, self._accelerator)
        prepared = self._accelerator.prepare(objective, optimizer, scheduler)
        self._objective: nn.Module = prepared[0]
        self._optimizer: Any = prepared[1]
        self._scheduler: Any = prepared[2]
        # FSDP has put pieces in the place of parameters
        self._trained = _trained(self._model, self.plan)
        self._parameters = [one for group in self._trained.values() for one in group]
        self._train()

    def _feeds(self) -> None:
        recipe, home = self._setting.recipe, self._setting.home
        instruments = self._setting.model.instruments
        augmented = positive(self._loss.consistency)
        augmentations = {
            name: recipe.data[name].augmentation.settings() for name in self.plan.data if augmented
        }
        train = {name: self._setting.streams[name] for name in self.plan.data}
        held_out = {
            name: make_stream(
                recipe, name, self._setting.datasets[name], "validation", self._accelerator
            )
            for name in self.plan.data
        }
        settings = {name: recipe.data[name].augmentation for name in augmentations}
        filled = {name: one.others for name, one in settings.items() if one.fill}
        self._feed = Feed(train, instruments, augmentations, recipe.seed, home, filled)
        feed = Feed(held_out, instruments, augmentations, recipe.seed, home, filled)
        most = recipe.engine.validate_spectra
        self._validation = Validation(feed, held_out, most, recipe.seed)

    def _train(self) -> None:
        """Put what is trained into training mode, and what is frozen into that of evaluation."""
        self._objective.train()
        modules = dict(self._model.named_modules())
        for name in parts(self._model).keys() - self._trained.keys():
            if name in modules:
                modules[name].eval()

    def step(self, number: int, phase_step: int, fed: Callable[[Fed], None]) -> None:
        """Do a step of the optimiser; the host waits for data only.

        Args:
            number: Of the step in the training.
            phase_step: Of the step in the phase, from 0.
            fed: Is told what each batch was.
        """
        weights = self._weights(phase_step)
        # accelerate divides by the number of batches, which is right for means only
        scale = self.phase.accumulation if self._loss.reduction == "sum" else 1
        for part in range(self.phase.accumulation):
            given = self._feed.next(number, part)
            fed(given)
            with self._accelerator.accumulate(self._objective):
                losses = self._losses(given.inputs, weights, self._factors)
                self._accelerator.backward(losses.total * scale)
                self.watch.add(given, losses, weights)
                if self._accelerator.sync_gradients:
                    self._clip(number)
                self._optimizer.step()
                self._scheduler.step()
                self._optimizer.zero_grad()
        if self.average is not None:
            self.average.update()

    def _clip(self, number: int) -> None:
        most = math.inf if self.phase.clip is None else self.phase.clip
        norm: Tensor = self._accelerator.clip_grad_norm_(self._parameters, most)
        scaled = self._accelerator.scaler is not None
        self.watch.step(number, whole(norm).to(self._accelerator.device), self._parameters, scaled)

    def validate(self) -> dict[str, Any]:
        """Return the losses of the validation splits, with the averaged weights if there are any.

        The amplitudes are those of the end of the phase, so that all its validations compare.
        """
        self._objective.eval()
        weights = self._weights(self.plan.steps - 1)
        try:
            if self.average is None:
                return self._validation.figures(self._losses, weights, self._factors)
            with self.average.applied():
                return self._validation.figures(self._losses, weights, self._factors)
        finally:
            if self._shared:  # or the weights of this moment would stay with every process
                self._objective.reshard()  # type: ignore[operator]
            self._train()

    def _losses(self, *given: Any) -> Losses:
        made = self._objective(*given)
        losses: Losses = made[1] if self._shared else made
        return losses

    def refuse_validation(self, step: int) -> None:
        """Raise, naming the validation spectra whose loss is no number.

        Raises:
            NonFiniteError: Always.
        """
        from accelerate.utils import gather_object

        self.close()
        self.return_weights()
        bad, _ = accused(self._setting.model, *self._validation.places())
        bad = gather_object(bad)
        which = f"that of {listed(bad)}" if bad else "though that of no spectrum alone is"
        raise NonFiniteError(
            f"the loss of the validation spectra is NaN or infinite after step {step}: {which}. "
            "Look at these spectra; leave them out of the dataset, or by `reject` or `z_range` of "
            "the recipe"
        )

    def rates(self) -> dict[str, float]:
        """Return the learning rate of each part in the next step."""
        return rates(self._optimizer)

    def save(self, folder: Path) -> None:
        """Write weights, optimiser, schedule, random numbers and averages into a checkpoint."""
        from torch.distributed.checkpoint.api import CheckpointException

        try:
            self._accelerator.save_state(str(folder))
        except CheckpointException as error:  # of pieces; it is no Exception
            raise next(one for one, _ in error.failures.values()) from error
        if self.average is not None and (self._shared or self._accelerator.is_main_process):
            self.average.save(folder / self._average)

    def load(self, folder: Path) -> None:
        """Take them back."""
        self._accelerator.load_state(str(folder))
        if self.average is not None:
            self.average.load(folder / self._average)

    @property
    def _average(self) -> str:
        rank = self._accelerator.process_index
        return f"average-{rank}.safetensors" if self._shared else "average.safetensors"

    def close(self) -> None:
        """Stop reading ahead."""
        self._feed.close()

    def finish(self) -> None:
        """End the phase: the average, if there is one, becomes the model."""
        self.close()
        if self.average is not None:
            self.average.apply()
        self.return_weights()

    def return_weights(self) -> None:
        """Give the model its weights, where they are shared out; all processes call this at once."""
        if self._shared:
            return_weights(self._objective, self._setting.model)

    def _weights(self, phase_step: int) -> Weights:
        return Weights.of(self._loss, phase_step / max(1, self.plan.steps - 1))


def _trained(model: Model, plan: PhasePlan) -> dict[str, list[nn.Parameter]]:
    known = parts(model)
    return {name: known[name] for name in plan.parts}


def network(model: Model) -> list[nn.Module]:
    """Return the networks of a model, those that it is worth to compile."""
    modules = dict(model.named_modules())
    names = [name for name in parts(model) if not name.startswith(("lsf.", "calibration."))]
    return [modules[name] for name in names if name in modules]
