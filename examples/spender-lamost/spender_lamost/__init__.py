"""Low-resolution spectra of LAMOST for spender."""
