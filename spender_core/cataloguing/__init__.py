"""Catalogues: what models say of millions of spectra, in a folder of Parquet files.

>>> from spender_core import cataloguing
>>> how = cataloguing.how("sdss", "sdss_demo")  # doctest: +SKIP
>>> plan = cataloguing.of_dataset(how, "sdss-dataset")  # doctest: +SKIP
>>> done = cataloguing.run(plan, "catalogue", workers=4)  # doctest: +SKIP
>>> table = cataloguing.read("catalogue", columns=["PLATE", "MJD", "FIBERID", "s_0"])  # doctest: +SKIP
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
