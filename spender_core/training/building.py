"""Models made as a recipe says, and their parts, as phases name them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from spender_core import registry
from spender_core.archives.writing import file_sha256
from spender_core.errors import InputError, SpenderError, SpenderWarning, UnknownNameError
from spender_core.interfaces import Instrument, Model
from spender_core.plugins.manager import import_target
from spender_core.training.config import Recipe, matches

_BY_INSTRUMENT = ("encoders", "lsf", "calibration")
"""Modules of a model that hold one part for each instrument."""

_FILLING = {
    *(name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")),
    *("copy_", "exponential_", "fill_", "random_", "zero_"),
}
"""Names of functions that give a tensor values."""


@dataclass(frozen=True)
class Inheritance:
    """What a model took from another, by the names of tensors.

    Attributes:
        taken: Tensors of the parent that the model now has.
        fresh: Tensors of the model that the parent lacks, or has in another shape.
        unused: Tensors of the parent that the model lacks, or has in another shape; those of
            instruments that it does not serve do not count.
    """

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.taken)} tensors taken"]
        for names, what in ((self.fresh, "begin untrained"), (self.unused, "of it are not used")):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                parts.append(f"{len(names)} {what} ({', '.join(names[:5])}{more})")
        return "; ".join(parts)


class ParentWarning(SpenderWarning):
    """Some weights of a parent do not fit the model, which begins without them."""


def make_instruments(recipe: Recipe) -> dict[str, Instrument]:
    """Return the instruments of a recipe by name, in its order.

    Raises:
        UnknownNameError: One is not installed.
    """
    return {name: registry.instrument(name) for name in recipe.data}


def architecture_of(recipe: Recipe) -> type[Model]:
    """Return the class of the model of a recipe.

    Raises:
        UnknownNameError: No installed plugin offers it.
        InputError: It makes no model.
    """
    name = recipe.model.architecture
    found = import_target(registry.discovery().get("architecture", name).target)
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise InputError(
            f"model.architecture = {name!r} makes no model of spectra; recipes train models, as "
            "'spectrum_autoencoder' is one"
        )
    return found


def make_model(recipe: Recipe, instruments: Mapping[str, Instrument]) -> Model:
    """Return the untrained model of a recipe, or with the weights of its parent.

    The random numbers of the weights hang on the seed of the recipe only; torch's own are left
    as they were.

    Args:
        recipe: Says which model.
        instruments: Those served, by name; the first is the model's default.

    Raises:
        InputError: The architecture refuses what the recipe says, or the parent cannot be used.

    Warns:
        ParentWarning: Not all weights of the parent fit.
    """
    model = untrained(recipe, instruments)
    if recipe.model.parent is not None:
        done = inherit(model, recipe.model.parent, recipe.model.encoders_from)
        if done.fresh or done.unused:
            text = f"of the parent {recipe.model.parent!r}: {done}"
            warnings.warn(text, ParentWarning, stacklevel=2)
    return model


def untrained(recipe: Recipe, instruments: Mapping[str, Instrument]) -> Model:
    """Return the model of a recipe with weights drawn anew, whatever its parent."""
    settings, architecture = recipe.model, architecture_of(recipe)
    unserved = sorted(set(settings.lsf_taps) - set(instruments))
    if unserved:
        raise InputError(
            f"model.lsf_taps names {', '.join(map(repr, unserved))}, but the recipe has data of "
            f"{', '.join(instruments)} only"
        )
    arguments = settings.config | {"n_latent": settings.latents}
    if settings.lsf_taps:
        arguments["lsf_taps"] = dict(settings.lsf_taps)
    if settings.conserve_flux:
        arguments["conserve_flux"] = True
    _check_arguments(architecture, settings.config, arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            model = architecture(
                instruments=list(instruments.values()),
                wave_rest=settings.rest.grid(),
                **arguments,
            )
        except InputError as error:
            raise InputError(f"model.config cannot be used: {error}") from error
        except SpenderError:
            raise
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
            raise InputError(
                f"the architecture {settings.architecture!r} refuses model.config = "
                f"{settings.config!r:.200}: {str(error).splitlines()[0] if str(error) else error!r}"
            ) from error
    model.uses_lsf = settings.uses_lsf
    return model


@contextmanager
def without_values() -> Iterator[None]:
    """Let models be made on the device "meta", which takes neither memory nor time."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills parameters: there are no values, and torch would import a compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, unless it fills a parameter without values."""
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("tensor")
        filling = getattr(func, "__name__", "") in _FILLING
        if filling and isinstance(first, nn.Parameter) and first.is_meta:
            return first
        return func(*args, **kwargs)


def _check_arguments(
    architecture: type[Model], config: Mapping[str, Any], arguments: Mapping[str, Any]
) -> None:
    """Refuse arguments that an architecture does not take, and keys that have their own place."""
    own = {"n_latent": "latents", "lsf_taps": "lsf_taps", "conserve_flux": "conserve_flux"}
    own |= {"wave_rest": "rest", "instruments": "", "calibration": ""}
    known = inspect.signature(architecture).parameters
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    allowed = [name for name in known if name not in own]
    for name in config:
        if name in own:
            place = f"; say model.{own[name]} instead" if own[name] else ""
            raise InputError(f"model.config cannot hold {name!r}{place}")
        if name not in known and not open_ended:
            raise UnknownNameError("argument (key of model.config)", name, allowed)
    for name in arguments:
        if name not in known and not open_ended:
            raise InputError(
                f"the recipe sets {own[name]!r} of the model, which {architecture.__name__} does "
                f"not know; it takes {', '.join(known)}"
            )


def inherit(
    model: Model, parent: str, encoders_from: Mapping[str, str] | None = None
) -> Inheritance:
    """Give a model those weights of another whose names and shapes agree.

    Args:
        model: Gets the weights.
        parent: Name, path or URL of the other.
        encoders_from: For some instruments of the model, one of the parent that they begin like.

    Raises:
        InputError: The parent is no model of spectra, none of its weights fit, or its restframe
            grid is another, so that a decoder of the same shape would mean something else.
        UnknownNameError: The parent has no such instrument.
    """
    _, source = registry.load(parent)
    if not isinstance(source, Model):
        raise InputError(f"model.parent = {parent!r} is a flow, not a model of spectra")
    mine, theirs = model.state_dict(), source.state_dict()
    begin = encoders_from or {}
    for like in begin.values():
        if like not in source.instruments:
            key = "instrument of the parent (in model.encoders_from)"
            raise UnknownNameError(key, like, source.instruments)
    usable = theirs
    if source.rest.pixel_offset(model.rest.wave) > SAME_GRID:
        usable = {name: tensor for name, tensor in theirs.items() if not _is_decoder(name)}
    origins = {name: _origin(name, begin) for name in mine}
    taken = [
        name for name, other in origins.items()
        if other in usable and mine[name].shape == usable[other].shape
    ]  # fmt: skip
    if not taken:
        raise InputError(
            f"no weights of model.parent = {parent!r} fit the model of the recipe: "
            f"{type(source).__name__} on {source.rest} for {', '.join(source.instruments)}; give "
            "the recipe the same latents, widths, instruments or restframe grid, or no parent"
        )
    with torch.no_grad():
        for name in taken:
            mine[name].copy_(usable[origins[name]])
    used = {origins[name] for name in taken}
    served = [name for name in theirs if _serves(name, model)]
    left = [name for name in served if name not in used]
    return Inheritance(tuple(taken), tuple(n for n in mine if n not in taken), tuple(left))


def _serves(name: str, model: Model) -> bool:
    """Tell whether a tensor is of no instrument, or of one that a model serves."""
    group, _, rest = name.partition(".")
    return group not in _BY_INSTRUMENT or rest.partition(".")[0] in model.instruments


def _origin(name: str, begin: Mapping[str, str]) -> str:
    """Return which tensor of a parent one begins with: that of another instrument, if so told."""
    group, *rest = name.split(".")
    if group in _BY_INSTRUMENT and rest and rest[0] in begin:
        return ".".join((group, begin[rest[0]], *rest[1:]))
    return name


def described(parent: str) -> dict[str, str]:
    """Return the name and the sha256 of a parent, which tell nothing of where it lies."""
    _, source = registry.load(parent)
    card: Any = source.card
    digest = file_sha256(Path(parent)) if Path(parent).is_file() else card.sha256
    return {"name": card.name, "sha256": digest}


SAME_GRID = 0.01
"""Pixels by which restframe grids may differ: those of published models are rounded to float32."""


def _is_decoder(name: str) -> bool:
    return name.partition(".")[0] not in _BY_INSTRUMENT


def parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of a model by part, in the order of the model.

    Parts are "encoders.NAME", "lsf.NAME" and "calibration.NAME" of each instrument, and each
    other module at the top, such as "decoder".
    """
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        head, *rest = name.split(".")
        part = f"{head}.{rest[0]}" if head in _BY_INSTRUMENT and rest else head
        found.setdefault(part, []).append(parameter)
    return found


def trainable(model: nn.Module, patterns: Sequence[str]) -> dict[str, list[nn.Parameter]]:
    """Return the parts of a model that patterns name, with their parameters.

    Raises:
        InputError: A pattern fits no part.
    """
    known = parts(model)
    chosen = matching(known, patterns)
    return {name: known[name] for name in known if name in chosen}


def matching(known: Iterable[str], patterns: Iterable[str], key: str = "train") -> set[str]:
    """Return the names of parts that patterns fit; `key` is named in errors.

    Raises:
        InputError: A pattern fits no part.
    """
    names = list(known)
    chosen: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in names if matches(name, pattern)}
        if not fitting:
            groups = sorted({name.partition(".")[0] for name in names if "." in name})
            raise UnknownNameError(f"part (in {key})", pattern, ["all", *groups, *names])
        chosen |= fitting
    return chosen
