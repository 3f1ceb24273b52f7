"""Weights files: strict, self-describing safetensors.

A file holds the model card in its header (key "spender", JSON) and the tensors of the
model's state, beside `wave_rest`, the restframe wavelengths in float64. It names its
architecture; which class that is, the installed plugins say. Nothing in a file is taken
at its word: the header is checked against the file, the card against its schema, and
the network that the card asks for against the header, before memory is taken for any of it.
"""

from spender_core.weights.building import build, restore
from spender_core.weights.card import remedy
from spender_core.weights.describing import described
from spender_core.weights.files import WAVE_REST, Stored, opened, read, read_card, write
from spender_core.weights.page import page

__all__ = [
    "WAVE_REST",
    "Stored",
    "build",
    "described",
    "opened",
    "page",
    "read",
    "read_card",
    "remedy",
    "restore",
    "write",
]
