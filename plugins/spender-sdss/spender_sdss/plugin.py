"""What this plugin offers. Imports neither torch nor astropy."""

from __future__ import annotations

from spender_core.plugins.hookspecs import hookimpl
from spender_core.records import InstrumentSpec, ModelCard, read_cards


@hookimpl
def spender_instruments() -> list[InstrumentSpec]:
    """Return the instruments."""
    return [
        InstrumentSpec(
            name="sdss",
            target="spender_sdss.instrument:SDSS",
            description="SDSS-I and -II spectrographs, 3784-9332 Angstrom",
            example="spender_sdss.example:write_sdss",
        ),
        InstrumentSpec(
            name="boss",
            target="spender_sdss.instrument:BOSS",
            description="BOSS and eBOSS spectrographs, 3540-10411 Angstrom",
            example="spender_sdss.example:write_boss",
        ),
    ]


@hookimpl
def spender_models() -> list[ModelCard]:
    """Return the cards of the published and of the embedded models."""
    return read_cards("spender_sdss")
