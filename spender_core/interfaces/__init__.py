"""What a plugin implements: an instrument, its loader, and, if it likes, a model."""

from spender_core.interfaces.flow import Flow
from spender_core.interfaces.instrument import Instrument
from spender_core.interfaces.loader import Loader, Source
from spender_core.interfaces.model import Model
from spender_core.interfaces.reconstruction import Reconstruction

__all__ = ["Flow", "Instrument", "Loader", "Model", "Reconstruction", "Source"]
