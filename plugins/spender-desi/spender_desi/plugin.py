"""What this plugin offers. Imports neither torch nor astropy."""

from __future__ import annotations

from spender_core.plugins.hookspecs import hookimpl
from spender_core.records import InstrumentSpec, ModelCard, read_cards


@hookimpl
def spender_instruments() -> list[InstrumentSpec]:
    """Return the instruments."""
    return [
        InstrumentSpec(
            name="desi",
            target="spender_desi.instrument:DESI",
            description="DESI spectrographs, 3600-9824 Angstrom",
            example="spender_desi.example:write_desi",
        ),
    ]


@hookimpl
def spender_models() -> list[ModelCard]:
    """Return the cards of the published and of the embedded models."""
    return read_cards("spender_desi")
