"""The card of a model that is about to be written: what the model says itself."""

from __future__ import annotations

from typing import Any, Literal

from spender_core.errors import InputError
from spender_core.interfaces import Flow, Model
from spender_core.records import ModelCard, ServedInstrument


def described(model: Model | Flow, card: ModelCard) -> ModelCard:
    """Return a card with the config, the instruments and the LSF of a model.

    Raises:
        InputError: The card is of another kind or number of latents, or the model has
            what no file can hold.
    """
    changes: dict[str, Any] = {"config": model.config}
    if isinstance(model, Model):
        if len(model.calibration):
            raise InputError(
                f"the calibration of {', '.join(model.calibration)} cannot be stored in a file; "
                "take it off with model.calibration.clear(), and keep it beside the file"
            )
        changes["lsf"] = lsf_kind(model)
        if card.lsf == "per_spectrum" and not model.uses_lsf:
            raise InputError(
                "the card says lsf per_spectrum, but the model does not apply the line spread "
                "function of each spectrum; set model.uses_lsf = True if it was trained so"
            )
        changes["instruments"] = tuple(
            ServedInstrument(name=name, grid=one.grid.sha256, lsf_taps=lsf_taps(model, name))
            for name, one in model.instruments.items()
        )
    kind = "autoencoder" if isinstance(model, Model) else "flow"
    if card.kind != kind:
        raise InputError(f"the card is of kind {card.kind!r}, the model of kind {kind!r}")
    latents = model.config.get("n_latent", getattr(model, "n_latent", card.latents))
    if latents != card.latents:
        raise InputError(f"the card says {card.latents} latents, the model has {latents}")
    made = card.model_copy(update=changes | {"weights": "", "file_format": "safetensors"})
    if not made.instruments:
        raise InputError("the card of a flow must name the instrument of its model")
    return made


def lsf_kind(model: Model) -> Literal["none", "constant", "per_spectrum"]:
    """Return which line spread function a model applies, in the words of its card."""
    if model.uses_lsf:
        return "per_spectrum"
    return "constant" if len(model.lsf) else "none"


def lsf_taps(model: Model, instrument: str) -> int | None:
    """Return the size of the learned LSF kernel of an instrument, if it has one."""
    if instrument not in model.lsf:
        return None
    kernel = getattr(model.lsf[instrument], "kernel", None)
    return None if kernel is None else int(kernel.numel())
