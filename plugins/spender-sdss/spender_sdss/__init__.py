"""SDSS and BOSS spectra and models for spender."""

__version__ = "0.1.0"
