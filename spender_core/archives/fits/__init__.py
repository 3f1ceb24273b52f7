"""FITS files: opened and checked, with astropy or by a reader of a few columns and rows."""
