"""How good a model is: against truth in mocks, against a PCA, and on real spectra."""
