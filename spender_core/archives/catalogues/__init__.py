"""Catalogues: scanned a few rows at a time, for conditions and places on the sky."""
