"""`Trainer`: the phases of a recipe, one after the other, from any checkpoint on."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from spender_core.archives.writing import replacing
from spender_core.errors import CheckpointWarning, FileError, InputError, NonFiniteError
from spender_core.training.building import described, make_instruments, make_model
from spender_core.training.checkpoints import Checkpoints, damage
from spender_core.training.checks import check, open_datasets
from spender_core.training.config import Recipe
from spender_core.training.feeding import Fed
from spender_core.training.guilty import accusation, accused
from spender_core.training.monitor import CURVES, Monitor, draw_curves
from spender_core.training.result import Result, describe, publish
from spender_core.training.running import Running, Setting, make_accelerator, make_stream
from spender_core.training.state import Circumstances, State, fault
from spender_core.training.stopping import Interrupts, Progress, Stopped


class Callback(Protocol):
    """What a callback may have; each of the methods may be absent."""

    def on_step(self, trainer: Trainer) -> None:
        """Called after each step of the optimiser; `trainer.ids` has what it was trained on."""

    def on_validate(self, trainer: Trainer, figures: Mapping[str, Any]) -> None:
        """Called after each validation."""

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """Called after each checkpoint."""


class Trainer:
    """Trains the model of a recipe; killed at any moment, it goes on from its last checkpoint.

    Several processes, GPUs and mixed precision come from accelerate: start the same script with
    `torchrun` or `accelerate launch`. On the CPU a resumed training gives the very weights of one
    that was never killed, with the same number of threads.

    Args:
        recipe: What to train: a `Recipe`, the path of one, or the name of one that spender has.
        output: Folder for checkpoints, log, curves and the result; of several processes all see it.
        data: Places of datasets by instrument, instead of those in the recipe.
        resume: Go on with the training in `output`, if there is one.
        callbacks: Objects with some of the methods of `Callback`.
        quiet: Show nothing.

    Attributes:
        plan: What is done.
        model: What is trained. With FSDP, it has the weights of the end of the last phase.
        state: Where the training stands: step, phase, figures.
        ids: The survey's ids of the spectra of the last step, of this process, by instrument; an
            array for each batch.

    Raises:
        InputError: The recipe is impossible, or does not fit the data.
        FileError: A dataset cannot be read.
    """

    def __init__(
        self,
        recipe: Recipe | str | Path,
        output: str | Path,
        data: Mapping[str, str | Path] | None = None,
        resume: bool = False,
        callbacks: Iterable[Any] = (),
        quiet: bool = False,
    ) -> None:
        recipe = recipe if isinstance(recipe, Recipe) else Recipe.read(recipe)
        self.recipe = recipe.with_paths({name: str(path) for name, path in (data or {}).items()})
        self.output = Path(output)
        self.datasets = open_datasets(self.recipe)
        self.plan = check(self.recipe, self.datasets)
        self.accelerator = make_accelerator(self.recipe.engine.precision)
        if self.recipe.engine.threads is not None:
            torch.set_num_threads(self.recipe.engine.threads)
        self.model = make_model(self.recipe, make_instruments(self.recipe))
        self.state = State()
        self.ids: dict[str, list[Any]] = {}
        self._resume = resume
        self._callbacks = tuple(callbacks)
        self._quiet = quiet
        self._streams = {
            name: make_stream(self.recipe, name, dataset, "train", self.accelerator)
            for name, dataset in self.datasets.items()
        }
        self._circumstances = Circumstances.present(
            self.recipe.sha256,
            {name: dataset.fingerprint for name, dataset in self.datasets.items()},
            self.accelerator.num_processes,
            self.accelerator.is_fsdp2,
        )
        self._checkpoints = Checkpoints(
            self.output / "checkpoints",
            self.recipe.engine.keep,
            self.accelerator.is_main_process,
            self.accelerator.wait_for_everyone,
            fault,
        )

    def run(self) -> Result:
        """Train to the end, and return the model's file.

        Raises:
            NonFiniteError: A loss became NaN or infinite.
            InputError: `output` holds another training, or one that is running.
            FileError: Something cannot be written, or no checkpoint is sound.
            Stopped: SIGTERM or Ctrl-C; there is a checkpoint to go on from.
        """
        with self._alone(), Interrupts() as self._interrupts:
            latest = self._begin()
            with self._monitor.shown(self.plan.steps, self.state.step):
                self._announce(latest)
                while self.state.phase < len(self.plan.phases):
                    self._run_phase(latest)
                    latest = None
                return self._finish()

    # -- before --------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Any:
        """Keep others from training into the same folder."""
        from filelock import FileLock, Timeout

        if not self.accelerator.is_main_process:
            yield
            return
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.output / ".lock", timeout=0)
            lock.acquire()
        except Timeout as error:
            raise InputError(
                f"another process is training into {self.output}; wait for it, or give another folder"
            ) from error
        except OSError as error:
            raise FileError(f"cannot write to the folder {self.output}: {error}") from error
        try:
            yield
        finally:
            lock.release()

    def _begin(self) -> Path | None:
        """Take up the state of the newest checkpoint, if wanted; return it."""
        from accelerate.utils import set_seed

        self.accelerator.wait_for_everyone()
        if not self._resume and self._checkpoints.steps():
            raise InputError(
                f"{self.output} holds a training with checkpoints; go on with it by --resume "
                "(resume=True), or give another folder"
            )
        latest = self._checkpoints.newest() if self._resume else None
        set_seed(self.recipe.seed, device_specific=True)
        if latest is not None:
            self.state, before = State.load(latest)
            self._circumstances.check(before, self.output)
            for name, stream in self._streams.items():
                stream.load_state_dict(self.state.streams[name])
            self._checkpoints.best = self.state.progress.get("best_step")
        elif self.recipe.model.parent is not None:
            self.state.parent = described(self.recipe.model.parent)
        if latest is None and self.accelerator.is_main_process:
            with replacing(self.output / "recipe.toml") as temporary:
                temporary.write_text(self.recipe.to_toml(), encoding="utf-8")
        engine, main = self.recipe.engine, self.accelerator.is_main_process
        self._since = time.perf_counter() - self.state.seconds
        self._monitor = Monitor(self.output, main, self._quiet, engine.tensorboard, self.state.step)
        self._monitor.rewind(self.state.step if latest else -1)
        return latest

    def _announce(self, latest: Path | None) -> None:
        step, versions = self.state.step, self._circumstances.versions
        if latest is None:
            self._monitor.write("start", step, steps=self.plan.steps, versions=versions)
            for remark in self.plan.remarks:
                self._monitor.say(f"note: {remark}")
            return
        if not self._monitor.has("checkpoint", step):  # the process died before it could write it
            self._monitor.write("checkpoint", step, path=latest.name)
        self._monitor.write("resume", step, versions=versions)
        self._monitor.say(f"going on from {latest}, after step {step} of {self.plan.steps}")

    # -- a phase -------------------------------------------------------------------------------

    def _run_phase(self, latest: Path | None) -> None:
        """Do a phase, or what is left of it after a checkpoint."""
        state, number = self.state, self.state.phase
        setting = Setting(self.recipe, self.model, self.datasets, self._streams, self.accelerator)
        self._running = Running(setting, number, self.plan.phases[number])
        self._progress = Progress(self.recipe.engine.patience)
        try:
            if latest is not None:
                self._running.load(latest)
                self._progress.load_state_dict(state.progress)
            while state.phase_step < self._running.plan.steps and not self._progress.exhausted:
                self.ids = {}
                self._running.step(state.step, state.phase_step, self._note)
                state.step += 1
                state.phase_step += 1
                self._after_step()
            weights = self._take_best()
        finally:
            self._running.close()
        self._running.finish()
        plan = self._running.plan
        early = state.phase_step < plan.steps
        state.phases.append(
            {"steps": state.phase_step, "weights_of_step": weights, "ended_early": early}
        )
        state.phase, state.phase_step, state.progress = number + 1, 0, {}

    def _note(self, fed: Fed) -> None:
        """Remember what a batch was."""
        for name, ids in fed.ids.items():
            self.ids.setdefault(name, []).append(ids)
            seen = self.state.spectra.get(name, 0)
            self.state.spectra[name] = seen + sum(fed.inputs[name].parts or (len(ids),))

    def _after_step(self) -> None:
        """Look, validate and write a checkpoint, where it is time for it."""
        engine, step = self.recipe.engine, self.state.step
        self._monitor.advance(step)
        self._call("on_step")
        ended = self.state.phase_step == self._running.plan.steps
        validating = ended or step % engine.validate_every == 0
        saving = ended or step % engine.checkpoint_every == 0
        # of several processes, some may have received a signal: they tell each other in a look
        alone = self.accelerator.num_processes == 1
        signal = self._interrupts.received if alone else 0
        if not (validating or saving or signal or step % engine.look_every == 0):
            return
        signal = self._look()
        better = self._validate() if validating else False
        if saving or better or signal or self._progress.exhausted:
            path = self._save()
            if better:
                self._checkpoints.mark_best(step, self._progress.best)
            if signal:
                raise self._stopped(signal, path)
        self._running.watch.resume()

    def _look(self) -> int:
        """Read the losses since the last look, tell about them; return a signal, or 0."""
        seen = self._running.watch.look(self._interrupts.received)
        if seen.bad is not None:
            self._accuse(*seen.bad)
        self.state.seconds = time.perf_counter() - self._since
        losses = {"fidelity": seen.fidelity, "similarity": seen.similarity}
        values: dict[str, Any] = {"loss": seen.loss, **losses, "consistency": seen.consistency}
        if len(seen.each) > 1:
            names = ("fidelity", "similarity", "consistency")
            values["instruments"] = {
                name: dict(zip(names, three, strict=True)) for name, three in seen.each.items()
            }
        plan = self._running.plan
        self._monitor.write(
            "look",
            self.state.step,
            phase=plan.name,
            **values,
            grad_norm=seen.grad_norm,
            lr=self._running.rates(),
            spectra_per_s=round(seen.speed, 1),
            waiting=round(seen.waiting, 4),
            seconds=round(self.state.seconds, 3),
        )
        self._monitor.describe(plan.name, seen.loss, seen.speed, seen.waiting)
        return seen.signal

    def _accuse(self, step: int, places: Any) -> None:
        """Raise, naming the spectra of a step whose loss is no number."""
        from accelerate.utils import gather_object

        self._running.close()
        self._running.return_weights()
        bad, everyone = accused(self.model, self._streams, places)
        text = accusation(step + 1, gather_object(bad), gather_object(everyone))
        before = self._checkpoints.steps()
        last = (
            f", {self._checkpoints.path(before[-1])}, is of before"
            if before
            else " was never written"
        )
        raise NonFiniteError(f"{text}. The last checkpoint{last}")

    def _validate(self) -> bool:
        """Tell how the model fares on the validation splits; return whether that is the best."""
        from accelerate.utils import broadcast_object_list

        # figures of two devices may differ in a last digit, and all must decide alike
        (figures,) = broadcast_object_list([self._running.validate()])
        if not math.isfinite(figures["loss"]):
            self._running.refuse_validation(self.state.step)
        self.state.figures = figures
        better = self._progress.better(figures["loss"], self.state.step)
        self._monitor.write(
            "validation", self.state.step, phase=self._running.plan.name, best=better, **figures
        )
        self._call("on_validate", figures)
        return better

    def _save(self) -> Path:
        state = self.state
        state.progress = self._progress.state_dict()
        state.streams = {name: one.state_dict() for name, one in self._streams.items()}
        state.seconds = time.perf_counter() - self._since

        def write(folder: Path) -> None:
            self._running.save(folder)
            if self.accelerator.is_main_process:
                state.save(folder, self._circumstances)

        path = self._checkpoints.save(state.step, write)
        self._monitor.write("checkpoint", state.step, path=path.name)
        self._call("on_checkpoint", path)
        return path

    def _stopped(self, signal: int, path: Path) -> Stopped:
        recipe = self.output / "recipe.toml"
        message = (
            f"stopped after step {self.state.step} of {self.plan.steps}; everything is in {path}. Go "
            f"on with `spender train {recipe} --output {self.output} --resume`, or in Python with "
            "resume=True"
        )
        self._monitor.say(message)
        return Stopped(signal, path, message)

    def _take_best(self) -> int:
        """Where training has patience, end the phase with its best weights; return their step."""
        step = self._progress.best_step
        if self.recipe.engine.patience is None or step is None or step == self.state.step:
            return self.state.step
        path = self._checkpoints.path(step)
        reason = damage(path)
        if reason is not None:
            text = f"the best checkpoint, {path}, is damaged: {reason}; keeping the last weights"
            warnings.warn(text, CheckpointWarning, stacklevel=2)
            return self.state.step
        self._running.load(path)
        self.state.figures = State.load(path)[0].figures
        self._monitor.say(f"taking the weights of step {step}, which were the best")
        return step

    # -- after ---------------------------------------------------------------------------------

    def _finish(self) -> Result:
        """Write the result and draw the curves."""
        self.model.eval()
        path = self.output / f"{self.recipe.name}.safetensors"
        prints = self._circumstances.datasets
        if self.accelerator.is_main_process:
            card = publish(self.model, self.plan, self.state, prints, path)
            title = f"{self.recipe.name}, {self.state.step} steps"
            draw_curves(self._monitor.history(), self.output / CURVES, title)
            self._monitor.write("end", self.state.step, path=path.name, sha256=card.sha256)
        else:
            card = describe(self.model, self.plan, self.state, prints)
        self._monitor.say(f"written: {path}")
        self.accelerator.wait_for_everyone()
        return Result(path, card, self._monitor.history())

    def _call(self, name: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            method = getattr(callback, name, None)
            if method is not None:
                method(self, *arguments)


def train(recipe: Recipe | str | Path, output: str | Path, **settings: Any) -> Result:
    """Train the model of a recipe (`Trainer`), and return its file.

    Example:
        ::

            from spender_core.training import Recipe, train

            result = train(Recipe.read("sdss_I"), "runs/sdss_I", data={"sdss": "data/sdss"})
            instrument, model = registry.load(result.path)
    """
    return Trainer(recipe, output, **settings).run()
