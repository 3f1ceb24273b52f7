"""What a recipe of training says about the model and the data; `config` has the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from spender_core.training.ramps import is_number

if TYPE_CHECKING:
    from spender_core.batch import Flag
    from spender_core.datasets.augment import Augmentation
    from spender_core.grid import Grid

Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]
LARGEST = 1_000_000_000
"""Steps, spectra and the like: more than any run has, and safe in every integer type."""

SMALLEST, MOST = 1e-30, 1e6
"""Bounds of amplitudes and the like, whose products float32 holds."""

Positive = Annotated[int, Field(ge=1, le=LARGEST)]
_MOST_PIXELS = 1_000_000
_MOST_TAPS = 9999


class Settings(BaseModel):
    """Base of all parts of a recipe: immutable, typed without conversions, no other keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_as_tuples(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        return {key: _as_tuple(value) for key, value in content.items()}


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Return plain data with lists for tuples; refuse what JSON has no form for."""
    if isinstance(value, bool | str) or (is_number(value) and abs(value) < 2**63):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    raise ValueError("finite numbers, strings, true, false, lists and tables are allowed")


Plain = Annotated[dict[str, Any], BeforeValidator(_plain)]


class RestConfig(Settings):
    """The restframe grid of the model."""

    low: float = Field(gt=0)
    """First wavelength, vacuum Angstrom."""
    high: float = Field(gt=0)
    """Last wavelength, vacuum Angstrom."""
    pixels: int = Field(ge=2, le=_MOST_PIXELS)
    """Number of pixels, before `superres`."""
    spacing: Literal["linear", "log"] = "linear"
    """Whether pixels are equally wide in Angstrom or in its logarithm."""
    superres: float = Field(default=1.0, gt=0, le=100)
    """Factor on `pixels`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.high <= self.low:
            raise ValueError(f"high {self.high:g} must be above low {self.low:g} Angstrom")
        if not 2 <= self.size <= _MOST_PIXELS:
            raise ValueError(f"superres makes {self.size} pixels; 2 to {_MOST_PIXELS} are allowed")
        return self

    @property
    def size(self) -> int:
        """Number R of restframe pixels."""
        return int(self.pixels * self.superres)

    def grid(self) -> Grid:
        """Return the grid, whose outermost pixels are at `low` and `high`."""
        from spender_core.grid import Linear, Log

        if self.spacing == "linear":
            return Linear(self.low, (self.high - self.low) / (self.size - 1), self.size)
        begin, end = math.log10(self.low), math.log10(self.high)
        return Log(begin, (end - begin) / (self.size - 1), self.size)


class ModelConfig(Settings):
    """The model that is trained."""

    architecture: str = "spectrum_autoencoder"
    """One that an installed plugin offers."""
    latents: int = Field(ge=1, le=4096)
    """Number S of latents."""
    rest: RestConfig
    config: Plain = Field(default_factory=dict)
    """Further arguments of the architecture, such as the widths of its layers."""
    lsf_taps: dict[str, Annotated[int, Field(ge=1, le=_MOST_TAPS)]] = Field(default_factory=dict)
    """For some of the instruments, the size of a line spread function that is learned."""
    uses_lsf: bool = False
    """Apply the line spread function of each spectrum, so that the restframe is free of it."""
    conserve_flux: bool = False
    """Average restframe pixels over observed ones instead of interpolating between them."""
    parent: str | None = None
    """A model (name, path or URL) whose weights are taken where names and shapes agree."""
    encoders_from: dict[str, str] = Field(default_factory=dict)
    """For some of the instruments, one of the parent whose encoder, and learned line spread
    function, they begin with."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.encoders_from and self.parent is None:
            raise ValueError("encoders_from needs a parent, whose encoders they are")
        return self


_REDSHIFTS = 'allowed are "keep", {uniform = [low, high]} and {capped = limit}'


def _redshifts(value: Any) -> Any:
    if value == "keep":
        return value
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(_REDSHIFTS)
    ((rule, given),) = value.items()
    numbers = list(given) if isinstance(given, list | tuple) else [given]
    lengths = {"uniform": 2, "capped": 1}
    if len(numbers) != lengths.get(rule) or not all(map(is_number, numbers)):
        raise ValueError(_REDSHIFTS)
    low, high = (float(one) for one in (numbers if rule == "uniform" else [0.0, *numbers]))
    if not -1 < low < high:
        raise ValueError(
            f"redshifts are drawn from {low:g} to {high:g}, which is no range above -1"
        )
    return {"uniform": [low, high]} if rule == "uniform" else {"capped": high}


class AugmentationConfig(Settings):
    """How spectra are altered for the consistency loss; see `datasets.augment`."""

    redshifts: Annotated[str | dict[str, Any], BeforeValidator(_redshifts)] = "keep"
    """"keep"; {uniform = [low, high]}; or {capped = limit}, the rule of SDSS in spender."""
    noise: Share = 0.05
    """Fraction of the pixels that get noise."""
    amplitude: float = Field(default=0.2, ge=0)
    """Standard deviation of this noise, in units of the maximum of the spectrum."""
    mask: Share = 0.0
    """Fraction of the pixels that are masked, in one stretch."""
    fill: bool = False
    """Fill what is unknown of a spectrum at its new redshift with its own reconstruction, so that
    gaps do not tell how far it was moved (`datasets.reobserving.reobserve_spectra`)."""

    others: bool = False
    """With `fill`: observe under the noise and mask of another spectrum of the batch
    (`datasets.reobserving.other_conditions`)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fill and self.redshifts == "keep":
            raise ValueError(
                "fill = true needs new redshifts; give redshifts = {uniform = [low, high]} or "
                "{capped = limit}"
            )
        if self.others and not self.fill:
            raise ValueError("others needs fill = true")
        return self

    def settings(self) -> Augmentation:
        """Return the same for `datasets.augment.augment`."""
        from spender_core.datasets.augment import Augmentation, CappedRedshift, UniformRedshift

        rule: Any = None
        if isinstance(self.redshifts, dict):
            ((name, given),) = self.redshifts.items()
            rule = UniformRedshift(*given) if name == "uniform" else CappedRedshift(given)
        return Augmentation(rule, self.noise, self.amplitude, self.mask)


class DataConfig(Settings):
    """Where the spectra of one instrument are, and which of them take part."""

    path: str = ""
    """Folder or URL of the dataset; empty where it is to be given when training starts."""
    batch_size: Positive = 512
    """Spectra of this instrument in a step, over all processes."""
    z_range: Range | None = None
    """Lowest and highest redshift that take part."""
    reject: tuple[str, ...] = ()
    """Names of flags (`spender_core.Flag`); spectra with any of them are left out."""
    weight: float = Field(default=1.0, ge=SMALLEST, le=MOST)
    """Factor on the losses of this instrument."""
    augmentation: AugmentationConfig = AugmentationConfig()

    @field_validator("z_range")
    @classmethod
    def _check_range(cls, given: Range | None) -> Range | None:
        if given is not None and not -1 < given[0] < given[1]:
            raise ValueError("two redshifts above -1 are allowed, the lower one first")
        return given

    @field_validator("reject")
    @classmethod
    def _check_flags(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        from spender_core.batch import Flag

        for name in given:
            if name not in Flag.__members__:
                raise ValueError(
                    f"{name!r:.60} is no flag; allowed are {', '.join(Flag.__members__)}"
                )
        return given

    @property
    def rejected(self) -> Flag:
        """The flags of `reject` as one."""
        from spender_core.batch import Flag

        made = Flag(0)
        for name in self.reject:
            made |= Flag[name]
        return made
