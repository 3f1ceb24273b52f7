"""Pure functions on tensors and arrays: redshift, resample, LSF, masks, normalisation.

Nothing here knows of instruments or models. Shapes: B spectra, R restframe pixels,
L observed pixels, K LSF taps. Wavelengths are vacuum Angstrom.
"""
