"""Sets of spectra to train on and to judge by."""
