"""Emission of quasars, for the parametric ones.

Wavelength, equivalent width and dispersion in restframe, vacuum Angstrom, of the order of those of
Vanden Berk et al. 2001, AJ 122, 549, table 2: rounded, lines at their laboratory wavelengths, and N V
and He II, which stand on the flanks of stronger lines there, made stronger. The blends of Fe II are
Gaussians of our own, in the places of that paper's composite spectrum.
"""

BROAD = [
    (1033.8, 9.8, 7.8), (1215.67, 92.9, 19.5), (1240.14, 12.0, 10.0), (1305.5, 1.7, 5.4),
    (1335.3, 0.7, 3.9), (1399.8, 8.1, 14.1), (1549.06, 23.8, 14.3), (1640.42, 3.0, 12.0),
    (1663.5, 1.5, 8.0), (1857.4, 1.0, 6.0), (1908.73, 21.2, 23.6), (2799.94, 32.3, 34.9),
    (4102.89, 5.1, 18.6), (4341.69, 12.6, 20.3), (4862.71, 46.2, 40.4), (5877.25, 4.9, 23.5),
    (6564.6, 194.5, 47.4),
]  # fmt: skip
"""Broad lines."""
NARROW = [
    (3426.85, 1.2, 5.0), (3728.48, 1.6, 3.3), (3869.86, 1.4, 5.3), (4960.3, 4.4, 4.5),
    (5008.24, 13.2, 6.0), (6549.86, 1.0, 5.0), (6585.27, 3.0, 5.0), (6718.29, 1.6, 4.0),
    (6732.67, 1.4, 4.0),
]  # fmt: skip
"""Narrow lines."""
IRON = [
    (2100.0, 6.0, 60.0), (2480.0, 45.0, 90.0), (2620.0, 8.0, 30.0), (2970.0, 15.0, 70.0),
    (3190.0, 10.0, 70.0), (4570.0, 20.0, 70.0), (5250.0, 22.0, 100.0),
]  # fmt: skip
"""Blends of Fe II, and the Balmer continuum below 3500 Angstrom with them."""
