"""Pictures of spectra, their reconstructions, and latents."""

from spender_core.plot.corners import corner
from spender_core.plot.naming import Zoom, lines, zooms
from spender_core.plot.overview import overview
from spender_core.plot.pages import FORMATS, legend, numbered, pages, spectra, write
from spender_core.plot.panels import Curve, Kernel, Panel, kernel, panel, smoothed
from spender_core.plot.styles import STYLES, Colours, Style, style
from spender_core.plot.travel import Travel, travel, traversal

__all__ = [
    "FORMATS",
    "STYLES",
    "Colours",
    "Curve",
    "Kernel",
    "Panel",
    "Style",
    "Travel",
    "Zoom",
    "corner",
    "kernel",
    "legend",
    "lines",
    "numbered",
    "overview",
    "pages",
    "panel",
    "smoothed",
    "spectra",
    "style",
    "travel",
    "traversal",
    "write",
    "zooms",
]
