"""Catalogues: what models say of millions of spectra, in a folder of Parquet files.

A `How` says what is measured and by which model; a `Plan`, of which spectra, in which partitions;
`run` carries it out, or what is left of it; `read` opens what came of it.
"""

from spender_core.cataloguing.opening import merge, read
from spender_core.cataloguing.plan import How, Plan, Weights
from spender_core.cataloguing.running import Done, Progress, run
from spender_core.cataloguing.selecting import how, of_dataset, of_files, of_ids

__all__ = [
    "Done",
    "How",
    "Plan",
    "Progress",
    "Weights",
    "how",
    "merge",
    "of_dataset",
    "of_files",
    "of_ids",
    "read",
    "run",
]
