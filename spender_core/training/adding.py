"""A recipe for one more instrument: an encoder of its own, for a decoder that stays as it is.

The decoder of a model knows restframe spectra and no instrument. An encoder that leads another
instrument's spectra to its latents makes them comparable with those of all instruments before.
"""

from __future__ import annotations

from typing import Any

from spender_core import registry
from spender_core.errors import InputError, UnknownNameError
from spender_core.grid import Grid
from spender_core.interfaces import Model
from spender_core.records import ModelCard
from spender_core.training.building import SAME_GRID
from spender_core.training.config import Recipe
from spender_core.training.settings import RestConfig

_OWN_PLACE = ("n_latent", "lsf_taps", "conserve_flux")
"""Arguments of architectures that recipes do not hold in `model.config`."""


def encoder_recipe(
    instrument: str,
    parent: str,
    *,
    like: str | None = None,
    steps: int = 2000,
    batch_size: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
) -> Recipe:
    """Return the recipe of an encoder of an instrument, for the decoder of a model.

    Architecture, latents and restframe are those of the model. Its decoder is frozen. If it has
    learned line spread functions, one is learned along; if it uses those of each spectrum, so
    does the new one, and the dataset must have them.

    Args:
        instrument: Name of the new instrument, whose plugin is installed.
        parent: Name, path or URL of the model.
        like: An instrument of the model, with whose encoder and line spread function the new
            ones begin, where shapes agree: fewer steps do if its pixels are about as wide.
        steps: Of the optimiser.
        batch_size: Spectra of a step.
        lr: Highest learning rate of the encoder.
        seed: Of everything random.

    Returns:
        A recipe that has no path of the dataset yet; see `Recipe.with_paths`.

    Raises:
        UnknownNameError: There is no such instrument, or the model has none like it.
        InputError: The model is a flow, or its restframe pixels are neither linear nor
            logarithmic, which recipes cannot say.

    Example:
        >>> recipe = encoder_recipe("boss", "sdss_demo", like="sdss")
        >>> recipe.name, recipe.phases[0].train
        ('sdss_demo_boss', ('encoders.boss', 'lsf.boss'))
    """
    registry.instrument(instrument)
    _, model = registry.load(parent)
    if not isinstance(model, Model):
        raise InputError(f"{parent!r} is a flow of latents, which has no decoder of spectra")
    if like is not None and like not in model.instruments:
        raise UnknownNameError(f"instrument of {parent!r}", like, model.instruments)
    card = model.card
    assert isinstance(card, ModelCard)
    taps = _taps(card, like)
    parts = [f"encoders.{instrument}"] + [f"lsf.{instrument}"] * bool(taps)
    rates = {parts[0]: lr} | dict.fromkeys(parts[1:], 0.1 * lr)
    about: dict[str, Any] = {
        "architecture": card.architecture,
        "latents": card.latents,
        "rest": _rest(model.rest, parent),
        "config": {key: one for key, one in card.config.items() if key not in _OWN_PLACE},
        "lsf_taps": {instrument: taps} if taps else {},
        "uses_lsf": model.uses_lsf,
        "conserve_flux": model.conserve_flux,
        "parent": parent,
        "encoders_from": {} if like is None else {instrument: like},
    }
    data: dict[str, Any] = {"batch_size": batch_size}
    if card.z_range is not None:
        data["z_range"] = list(card.z_range)
    phase = {
        "name": "encoder",
        "steps": steps,
        "train": parts,
        "lr": rates,
        "optimizer": "adamw",
        "weight_decay": 1e-3,
        "schedule": "cosine",
        "warmup": 0.03,
        "final": 0.01,
        "clip": 1.0,
        "ema": 0.998,
    }
    return Recipe.model_validate(
        {
            "recipe": 1,
            "name": f"{card.name}_{instrument}"[:100],
            "description": f"Encoder of {instrument} for the decoder of {card.name}",
            "seed": seed,
            "model": about,
            "data": {instrument: data},
            "loss": {"normalize": True, "fidelity_form": "log"},
            "phases": [phase],
            "card": {"licence": card.licence, "citation": list(card.citation)},
        }
    )


def _taps(card: ModelCard, like: str | None) -> int:
    """Return the size of the kernel that is learned, that of a like instrument; 0 for none."""
    known: dict[str, int] = dict(card.config.get("lsf_taps") or {})
    return known.get(like or "", max(known.values(), default=0))


def _rest(grid: Grid, parent: str) -> dict[str, Any]:
    """Return the restframe pixels of a model as recipes say them."""
    wave = grid.wave
    for spacing in ("log", "linear"):
        ends = {"low": float(wave[0]), "high": float(wave[-1]), "pixels": grid.size}
        rest = ends | {"spacing": spacing}
        if RestConfig.model_validate(rest).grid().pixel_offset(wave) < SAME_GRID:
            return rest
    raise InputError(
        f"the restframe of {parent!r}, {grid}, is neither linear nor logarithmic in wavelength, and "
        "recipes know no others; train with a model of your own making"
    )
