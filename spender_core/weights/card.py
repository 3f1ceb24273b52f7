"""The model card in the header of a weights file."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from spender_core.errors import WeightsError
from spender_core.records import API_VERSION, FORMAT_VERSION, ModelCard, printable
from spender_core.weights.header import strict_json

KEY = "spender"
"""Where the card stands in the metadata of a file."""


def card_in(metadata: Mapping[str, str], source: str) -> ModelCard:
    """Return the card in the metadata of a file.

    Raises:
        WeightsError: There is none, it is invalid, or of another version.
    """
    if KEY not in metadata:
        raise WeightsError(
            f"{source} has no model card in its header, so it was not written by registry.save. "
            "Convert spender's own .pt files with `spender convert`"
        )
    try:
        card = ModelCard.model_validate(strict_json(metadata[KEY]))
    except ValidationError as error:
        raise WeightsError(f"{source} has an invalid model card: {faults(error)}") from error
    except (ValueError, RecursionError) as error:
        reason = printable(str(error)[:200]) or type(error).__name__
        raise WeightsError(f"{source} has an invalid model card: {reason}") from error
    versions = (card.api_version, card.format_version)
    if versions != (API_VERSION, FORMAT_VERSION):
        raise WeightsError(
            f"{source} has card and format version {versions}, this spender-core reads "
            f"{(API_VERSION, FORMAT_VERSION)}; update spender-core, or save the model again"
        )
    return card


def faults(error: ValidationError) -> str:
    """Return what is wrong with a card, one fault after the other, fit for a terminal."""
    found = error.errors(include_url=False, include_input=False)
    named = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in found[:8]]
    more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
    return printable("; ".join(named)[:1000]) + more


def remedy(card: ModelCard, otherwise: str) -> str:
    """Return what to install where the architecture or an instrument of a model is missing."""
    if not card.requires:
        return otherwise
    return (
        f"The card of {card.name!r} says what it needs: pip install {' '.join(card.requires)}; "
        "do so if you trust whoever made the file."
    )
