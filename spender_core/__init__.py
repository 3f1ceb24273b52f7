"""Neural models of astronomical spectra, for any instrument.

    >>> from spender_core import registry
    >>> instrument, model = registry.load("sdss_demo")

Importing this package loads nothing else: its names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spender_core import registry as registry
    from spender_core.batch import Flag as Flag
    from spender_core.batch import SpectrumBatch as SpectrumBatch
    from spender_core.interfaces import Instrument as Instrument
    from spender_core.interfaces import Loader as Loader
    from spender_core.interfaces import Model as Model
    from spender_core.plugins.hookspecs import hookimpl as hookimpl

__version__ = "0.1.0"

_HOMES = {
    "registry": "spender_core.registry",
    "Flag": "spender_core.batch",
    "SpectrumBatch": "spender_core.batch",
    "Instrument": "spender_core.interfaces",
    "Loader": "spender_core.interfaces",
    "Model": "spender_core.interfaces",
    "hookimpl": "spender_core.plugins.hookspecs",
}

__all__ = ["Flag", "Instrument", "Loader", "Model", "SpectrumBatch", "hookimpl", "registry"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'spender_core' has no attribute {name!r}")
    module = import_module(_HOMES[name])
    return module if name == "registry" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
