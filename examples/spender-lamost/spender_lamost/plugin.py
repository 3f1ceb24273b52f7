"""What this plugin offers. Imports neither torch nor astropy, so that `spender list` is fast."""

from __future__ import annotations

from spender_core import hookimpl
from spender_core.records import InstrumentSpec


@hookimpl
def spender_instruments() -> list[InstrumentSpec]:
    """Return the instruments, by the import paths of their classes."""
    return [
        InstrumentSpec(
            name="lamost",
            target="spender_lamost.instrument:LAMOST",
            description="LAMOST low resolution, 3690 to 9101 Angstrom, 3922 pixels",
            example="spender_lamost.example:write_example",
        ),
    ]
