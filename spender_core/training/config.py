"""What a recipe of training says: the model, the data, the losses, and the phases.

A recipe is a TOML file; every key of it is an attribute here or in `settings`, with its meaning
and default. Unknown keys, values of another type and senseless ones are refused, by their dotted
path, with what is allowed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from spender_core.errors import InputError
from spender_core.records import ModelCard
from spender_core.training import reading, tomltext
from spender_core.training.ramps import Ramp, is_number, values
from spender_core.training.settings import (
    LARGEST,
    MOST,
    SMALLEST,
    DataConfig,
    ModelConfig,
    Plain,
    Positive,
    Range,
    Settings,
    Share,
)

__all__ = [
    "CardConfig",
    "DataConfig",
    "EngineConfig",
    "LossConfig",
    "ModelConfig",
    "Phase",
    "Recipe",
    "matches",
    "packaged",
]

VERSION = 1
"""Version of recipes that this spender reads."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")


class LossConfig(Settings):
    """The losses, their amplitudes, and what they depend on."""

    reduction: Literal["mean", "sum"] = "mean"
    """Whether losses are means over the spectra of the whole batch, or sums as in spender."""
    normalize: bool = False
    """Scale each reconstruction to fit its spectrum best."""
    fidelity: Ramp = 1.0
    """Amplitude of the fidelity."""
    fidelity_form: Literal["chi2", "log"] = "chi2"
    """The fidelity of a spectrum: half of chi square a pixel, or the logarithm of 1 plus that, so
    that a few spectra that are far off do not rule."""
    similarity: Ramp = 0.0
    """Amplitude of the similarity loss; 0 leaves it out."""
    similarity_form: Literal["restframe", "data"] = "restframe"
    """Whether it compares latents with decoded restframes or with observed spectra."""
    consistency: Ramp = 0.0
    """Amplitude of the consistency loss; 0 leaves it out."""
    consistency_scale: Literal["variance", "typical"] = "variance"
    """Unit of distances between latents in it (`losses.consistency`)."""
    slope: Ramp = 5.0
    """Steepness of the sigmoids of the similarity loss (`SimilarityConfig`)."""
    width: float = Field(default=5.0, gt=0)
    """Distance of these sigmoids from each other."""
    centre: float = Field(default=5000.0, gt=0)
    """Where the restframe counts most in the similarity loss, Angstrom."""
    sigma: float = Field(default=2000.0, gt=0)
    """How fast that falls from there, Angstrom."""
    bound: Range = (4000.0, 7000.0)
    """Restframe range in which spectra are normalised for the similarity loss, Angstrom."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("fidelity", "similarity", "consistency", "slope"):
            if min(values(getattr(self, name))) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, and must not be below 0")
            if max(values(getattr(self, name))) > MOST:
                raise ValueError(f"{name} is {getattr(self, name)}, and must not be above {MOST:g}")
        if not 0 < self.bound[0] < self.bound[1]:
            raise ValueError(f"bound {self.bound} must be two wavelengths, the lower one first")
        return self


def _rates(value: Any) -> Any:
    """Return a learning rate, or one for each pattern of parts, as floats above 0."""
    if isinstance(value, Mapping) and value:
        return {str(pattern): _rate(rate) for pattern, rate in value.items()}
    return _rate(value)


def _rate(value: Any) -> float:
    if not is_number(value) or not 0 < value <= 1000:
        raise ValueError(
            "a number above 0, at most 1000, is allowed, or a table of them by parts, e.g. "
            '{encoders = 1e-3, "lsf.sdss" = 1e-4}'
        )
    return float(value)


class Phase(Settings):
    """A stretch of training, with an optimiser and a schedule of its own."""

    name: str = ""
    """Shown in the log."""
    steps: Positive | None = None
    """Steps of the optimiser; or `epochs` is given."""
    epochs: float | None = Field(default=None, gt=0, le=LARGEST)
    """How many times the largest dataset of the phase is gone through."""
    train: tuple[str, ...] = Field(default=("all",), min_length=1)
    """Parts that are trained, e.g. "encoders", "encoders.sdss", "decoder", "lsf", or "all"."""
    data: tuple[str, ...] = ()
    """Instruments whose spectra are used; empty for all of the recipe."""
    lr: Annotated[float | dict[str, float], BeforeValidator(_rates)] = 1e-3
    """Highest learning rate, or one for each of several patterns of parts."""
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: float = Field(default=1e-8, ge=SMALLEST, le=MOST)
    schedule: Literal["onecycle", "cosine", "constant"] = "onecycle"
    warmup: Share = 0.3
    """Share of the steps in which the learning rate rises."""
    final: Share = 4e-6
    """Learning rate at the end, as a share of the highest one; not for "constant"."""
    clip: float | None = Field(default=None, ge=SMALLEST, le=1 / SMALLEST)
    """Largest norm of all gradients together."""
    accumulation: Positive = 1
    """Batches whose gradients are summed up before each step of the optimiser."""
    ema: float | None = Field(default=None, gt=0, le=1 - 1e-6)
    """Decay a step of the moving average of weights, which then is the result of the phase."""
    loss: LossConfig = LossConfig()
    """What differs from the loss of the recipe; only keys that are given count."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs, exactly one of them")
        if not self.name.isprintable() or len(self.name) > 100:
            raise ValueError("name must be at most 100 characters, all of them printable")
        if max(self.betas) >= 1:
            raise ValueError(f"betas must be below 1, got {self.betas}")
        return self

    def rate(self, part: str) -> float:
        """Return the highest learning rate of a part: that of the longest pattern that fits it.

        Raises:
            KeyError: None fits.
        """
        if not isinstance(self.lr, dict):
            return self.lr
        fitting = [pattern for pattern in self.lr if matches(part, pattern)]
        if not fitting:
            raise KeyError(part)
        return self.lr[max(fitting, key=lambda one: -1 if one == "all" else len(one))]


class EngineConfig(Settings):
    """How training runs; nothing here changes what is learned, but for rounding."""

    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision; "no" is float32."""
    compile: bool = False
    """Compile the network with `torch.compile`."""
    look_every: Positive = 20
    """Steps between looks at the losses, for which the device is waited for."""
    validate_every: Positive = 500
    """Steps between validations."""
    validate_spectra: Positive = 4096
    """Spectra of each instrument that a validation takes, at most."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints."""
    keep: Positive = 3
    """Checkpoints that are kept, beside the best one."""
    patience: Positive | None = None
    """Validations without a better one after which a phase ends."""
    tensorboard: bool = False
    """Write a log for TensorBoard, too."""
    window: Positive = 8
    """Row groups of a dataset that are shuffled together; memory grows with it."""
    prefetch: Positive = 2
    """Batches that are read ahead."""
    threads: Positive | None = None
    """Threads of the host; torch's own number by default."""


class CardConfig(Settings):
    """What the card of the trained model says beside what is known of the run."""

    licence: str = "unknown"
    citation: tuple[str, ...] = ()
    training: Plain = Field(default_factory=dict)
    notes: str = ""


class Recipe(Settings):
    """A whole training: what `spender train` reads.

    Example:
        >>> recipe = Recipe.read("sdss_II")
        >>> recipe.model.latents, len(recipe.phases)
        (6, 1)
    """

    recipe: Literal[1]
    """Version of this layout."""
    name: str
    """Of the model that is made: letters, digits and underscores."""
    description: str = ""
    seed: int = Field(default=0, ge=0, le=LARGEST)
    model: ModelConfig
    data: dict[str, DataConfig] = Field(min_length=1)
    """Datasets by the name of the instrument that they are of."""
    loss: LossConfig = LossConfig()
    phases: tuple[Phase, ...] = Field(min_length=1, max_length=100)
    engine: EngineConfig = EngineConfig()
    card: CardConfig = CardConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name {self.name!r:.80} is not allowed: use letters, digits and underscores, at "
                "most 100, and begin with a letter"
            )
        try:
            ModelCard(
                name=self.name,
                architecture=self.model.architecture,
                latents=self.model.latents,
                config=self.model.config,
                description=self.description,
                licence=self.card.licence,
                citation=self.card.citation,
                training=self.card.training | {"notes": self.card.notes},
                parent=self.model.parent or "",
            )
        except ValidationError as error:
            raise ValueError(str(error.errors()[0]["ctx"]["error"])) from error
        return self

    @classmethod
    def read(cls, source: str | Path, settings: Iterable[str] = ()) -> Recipe:
        """Read a recipe from a file, or one that comes with spender, by name.

        Args:
            source: Path of a TOML file, or a name of `packaged()`.
            settings: Values put in place of those of the file, each as "dotted.key=value".

        Raises:
            InputError: The recipe, or a setting, is not valid; the key is named.
            FileError: There is no such file, or it cannot be read.
        """
        text, where = reading.text_of(source)
        return cls.parse(text, where, settings)

    @classmethod
    def parse(cls, text: str, source: str = "the recipe", settings: Iterable[str] = ()) -> Recipe:
        """Make a recipe of the text of a TOML file; `source` is named in errors.

        Raises:
            InputError: It is not valid; the key is named.
        """
        content = reading.parsed(text, source)
        reading.check_version(content, source, VERSION)
        for setting in settings:
            content = reading.overridden(cls, content, setting)
            reading.check_version(content, setting, VERSION)
        return reading.validated(cls, content, source)

    def loss_of(self, phase: Phase) -> LossConfig:
        """Return the losses of a phase: those of the recipe, but for what the phase says."""
        changes = {name: getattr(phase.loss, name) for name in phase.loss.model_fields_set}
        return self.loss.model_copy(update=changes)

    def data_of(self, phase: Phase) -> tuple[str, ...]:
        """Return the instruments whose spectra a phase uses, in the order of the recipe."""
        return tuple(name for name in self.data if not phase.data or name in phase.data)

    def with_paths(self, paths: Mapping[str, str]) -> Recipe:
        """Return the recipe with other places of its datasets.

        Raises:
            InputError: It has no dataset of such an instrument.
        """
        unknown = sorted(set(paths) - set(self.data))
        if unknown:
            raise InputError(
                f"the recipe {self.name!r} has no data of {', '.join(map(repr, unknown))}; it takes "
                f"paths for {', '.join(self.data)}"
            )
        data = {
            name: entry.model_copy(update={"path": paths[name]}) if name in paths else entry
            for name, entry in self.data.items()
        }
        return self.model_copy(update={"data": data})

    def to_toml(self) -> str:
        """Return the recipe as TOML: what was given, without defaults."""
        content = self.model_dump(exclude_unset=True, exclude_none=True)
        content["data"] = {
            name: {**content["data"][name], **({"path": entry.path} if entry.path else {})}
            for name, entry in self.data.items()
        }
        return tomltext.written(content)

    @property
    def sha256(self) -> str:
        """Hash of all that decides what is learned; places and names of things leave it."""
        content = self.model_dump(mode="json", exclude={"engine", "card", "description", "name"})
        for entry in content["data"].values():
            del entry["path"]
        for entry, phase in zip(content["phases"], self.phases, strict=True):
            entry["loss"] = self.loss_of(phase).model_dump(mode="json")
            del entry["name"]
        engine = {name: getattr(self.engine, name) for name in _DECIDING}
        if len(self.data) > 1:  # it decides the weights that a model begins with
            content["order"] = list(self.data)
        text = json.dumps(content | {"engine": engine}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


_DECIDING = ("precision", "window", "validate_every", "validate_spectra", "patience")


def packaged() -> tuple[str, ...]:
    """Return the names of the recipes that come with spender."""
    return reading.packaged()


def matches(part: str, pattern: str) -> bool:
    """Tell whether a part, e.g. "encoders.sdss", is meant by a pattern, e.g. "encoders"."""
    return pattern in ("all", part) or part.startswith(f"{pattern}.")
