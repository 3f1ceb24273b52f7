"""What a plugin implements: an instrument, its loader, and, if it likes, a model."""

from spender_core.interfaces.flow import Flow
from spender_core.interfaces.instrument import Instrument
from spender_core.interfaces.loader import Loader, Source
from spender_core.interfaces.model import Model
from spender_core.interfaces.reconstruction import Reconstruction
from spender_core.interfaces.redshifting import Redshifts, ZFlag

__all__ = [
    "Flow",
    "Instrument",
    "Loader",
    "Model",
    "Reconstruction",
    "Redshifts",
    "Source",
    "ZFlag",
]
